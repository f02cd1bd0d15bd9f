"""The listening sockets: opened here, kept open here, inherited by every worker that ever serves a slot.

A connection that waits in an accept queue belongs to the socket, not to the process that accepts from it. While this
process keeps the socket, a worker may die and its replacement finds every waiting connection still there.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

from bgproxy.controlplane.inherited import Inherited, Taken
from bgproxy.core.model import Address, parse_address
from bgproxy.errors import StartupError
from bgproxy.shm.bequest import Bequest, Heirloom

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bgproxy.shm.bequest import Role

BACKLOG = 65_535  # the kernel takes net.core.somaxconn where that is less
# As open as a TCP port would be: the server in front usually is another user. Who may connect is up to the directory.
UNIX_MODE = 0o666

_SockAddr = tuple[str, int] | tuple[str, int, int, int]


class UnixPath:
    """The name of a unix socket in the file system, and what it was when it was made."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._made = os.lstat(path)

    def remove(self) -> None:
        """Only where it is still ours: a successor may have put its own there."""
        try:
            now = os.lstat(self.path)
            if (now.st_dev, now.st_ino) == (self._made.st_dev, self._made.st_ino):
                os.unlink(self.path)
        except OSError:
            pass


class Listeners:
    """Every listening socket, by worker slot. `plain_addresses` and `tls_addresses` are the chosen ones, with the ports
    that 0 became."""

    def __init__(self, workers: int, held_by_orphans: Collection[str], inherited: Inherited) -> None:
        self.plain_addresses: list[str] = []
        self.tls_addresses: list[str] = []
        self._plain: list[list[socket.socket]] = [[] for _ in range(workers)]
        self._tls: list[list[socket.socket]] = [[] for _ in range(workers)]
        self._heirlooms: list[Heirloom] = []
        self._paths: list[UnixPath] = []
        self._held_by_orphans, self._inherited = held_by_orphans, inherited

    @classmethod
    def open(
        cls,
        addresses: Sequence[Address],
        workers: int,
        *,
        tls: Sequence[Address] = (),
        held_by_orphans: Collection[str] = (),
        inherited: Inherited | None = None,
    ) -> Listeners:
        """StartupError names the address. What is `inherited` need not be opened. `held_by_orphans` may be taken
        although somebody listens there: our own workers of an earlier supervisor, which serve until the new ones do."""
        listeners = cls(workers, held_by_orphans, inherited or Inherited())
        try:
            for address in addresses:
                listeners.plain_addresses.append(listeners._listen("plain", address, listeners._plain))
            for address in tls:
                listeners.tls_addresses.append(listeners._listen("tls", address, listeners._tls))
        except BaseException:
            listeners.close()
            raise
        return listeners

    @property
    def addresses(self) -> list[str]:
        return [*self.plain_addresses, *self.tls_addresses]

    @property
    def tls_port(self) -> int:
        """Of the first TCP address that speaks TLS; 443 where there is none."""
        addresses = (parse_address(text) for text in self.tls_addresses)
        return next((address.port for address in addresses if not address.is_unix), 443)

    def fds(self, slot: int) -> list[int]:
        return [sock.fileno() for sock in self._plain[slot]]

    def tls_fds(self, slot: int) -> list[int]:
        return [sock.fileno() for sock in self._tls[slot]]

    @property
    def bequest(self) -> Bequest:
        """All of them, as the next generation is to get them."""
        return Bequest(tuple(self._heirlooms))

    def disown(self) -> None:
        """From here on the names of unix sockets belong to the next generation."""
        self._paths.clear()

    def close(self) -> None:
        for path in self._paths:
            path.remove()
        for sock in {sock for sockets in (*self._plain, *self._tls) for sock in sockets}:
            sock.close()

    def _listen(self, role: Role, address: Address, slots: list[list[socket.socket]]) -> str:
        """The address, with the port that 0 became."""
        mine: list[list[socket.socket]] = [[] for _ in slots]
        taken = self._inherited.take(role, address)
        try:
            name = (taken and self._inherit(taken, address, mine)) or self._open(address, mine)
        finally:
            for sockets, more in zip(slots, mine, strict=True):
                sockets += more
        fds = dict.fromkeys(sock.fileno() for sockets in mine for sock in sockets)
        self._heirlooms.append(Heirloom(role, name, tuple(fds), taken is None or taken.is_ours))
        return name

    def _inherit(self, taken: Taken, address: Address, slots: list[list[socket.socket]]) -> str:
        if address.is_unix and taken.is_ours:
            try:
                self._paths.append(UnixPath(address.path))
            except FileNotFoundError:  # somebody has removed the name, and nobody finds a socket without one
                taken.sockets[0].close()
                return ""
        places: dict[object, list[socket.socket]] = {}
        for sock in taken.sockets:
            places.setdefault(sock.getsockname(), []).append(sock)
        for sockets in places.values():
            _spread(sockets, slots)
        return taken.name

    def _open(self, address: Address, slots: list[list[socket.socket]]) -> str:
        takeover = str(address) in self._held_by_orphans
        return self._open_unix(address, slots, takeover) if address.is_unix else _open_tcp(address, slots, takeover)

    def _open_unix(self, address: Address, slots: list[list[socket.socket]], takeover: bool) -> str:
        try:
            sock = _listen_unix(address.path, takeover)
        except OSError as error:
            raise StartupError(
                f"cannot listen on {address}: {error.strerror or error}",
                hint="choose another path in [server] listen, or make its directory writable",
            ) from None
        for sockets in slots:
            sockets.append(sock)
        self._paths.append(UnixPath(address.path))
        return str(address)


def _spread(inherited: list[socket.socket], slots: list[list[socket.socket]]) -> None:
    """So that each of these sockets of one place is read by somebody, and each slot reads one of them at least."""
    for number, sock in enumerate(inherited[len(slots) :]):
        slots[number % len(slots)].append(sock)
    for number, sockets in enumerate(slots):
        if number < len(inherited):
            sockets.append(inherited[number])
        elif inherited[0].family != socket.AF_UNIX and inherited[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            # Bound, not listening: its worker does that, and until then nobody comes to wait here.
            sockets.append(_bound(inherited[0].family, inherited[0].getsockname(), share=True))
        else:
            sockets.append(inherited[number % len(inherited)])


def _open_tcp(address: Address, slots: list[list[socket.socket]], takeover: bool) -> str:
    port = address.port
    opened: list[str] = []
    unavailable: OSError | None = None
    for family, sockaddr in _resolve(address):
        try:
            port = _open_one(family, (sockaddr[0], port, *sockaddr[2:]), slots, takeover)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise _tcp_error(address, error) from None
            # A name may stand for an address family that this machine does not have; one that works is enough.
            unavailable = error
        else:
            opened.append(str(Address(address.host, port)))
    if not opened:
        raise _tcp_error(address, unavailable or OSError(errno.EADDRNOTAVAIL, "no address")) from None
    return opened[0]


def _open_one(
    family: socket.AddressFamily, sockaddr: _SockAddr, slots: list[list[socket.socket]], takeover: bool
) -> int:
    if sockaddr[1] and not takeover:
        _refuse_if_taken(family, sockaddr)
    for sockets in slots:
        sock = _bound(family, sockaddr, share=True)
        sockets.append(sock)
        sock.listen(BACKLOG)
        sockaddr = (sockaddr[0], sock.getsockname()[1], *sockaddr[2:])
    return sockaddr[1]


def _resolve(address: Address) -> list[tuple[socket.AddressFamily, _SockAddr]]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise StartupError(
            f"cannot listen on {address}: the host {address.host!r} is not known: {error}",
            hint="use an address of this machine, or 0.0.0.0 for every interface",
        ) from None
    return list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))  # type: ignore[misc]


def _bound(family: socket.AddressFamily, sockaddr: _SockAddr, *, share: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # [::] must not take the IPv4 port too: who wants both, lists both.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def _refuse_if_taken(family: socket.AddressFamily, sockaddr: _SockAddr) -> None:
    """SO_REUSEPORT would let two unrelated proxies share a port in silence, each with half of the connections."""
    with _bound(family, sockaddr, share=False) as probe:
        probe.listen(1)


def _tcp_error(address: Address, error: OSError) -> StartupError:
    if error.errno == errno.EADDRINUSE:
        return StartupError(
            f"cannot listen on {address}: another process listens there already",
            hint=f"stop it (ss -ltnp 'sport = :{address.port}' names it), or choose another address with --listen",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return StartupError(
            f"cannot listen on {address}: permission denied for port {address.port}",
            hint="use a port from 1024 up, or give the process CAP_NET_BIND_SERVICE",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return StartupError(
            f"cannot listen on {address}: this machine has no such address",
            hint="use an address of this machine, or 0.0.0.0 for every interface",
        )
    return StartupError(f"cannot listen on {address}: {error.strerror or error}")


def _listen_unix(path: str, takeover: bool) -> socket.socket:
    _refuse_if_occupied(path, takeover)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    directory, name = os.path.split(path)
    temporary = f".{name[:32]}.{os.getpid()}"
    directory_fd = -1
    try:
        directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        sock.setblocking(False)
        # Bound under another name and then renamed, so that at no moment nobody answers under the path. Bound through
        # the descriptor of the directory, because 108 bytes are all that a socket address has room for.
        sock.bind(f"/proc/self/fd/{directory_fd}/{temporary}")
        os.chmod(temporary, UNIX_MODE, dir_fd=directory_fd)
        sock.listen(BACKLOG)
        os.rename(temporary, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    except BaseException:
        sock.close()
        raise
    finally:
        if directory_fd >= 0:
            os.close(directory_fd)
    return sock


def _refuse_if_occupied(path: str, takeover: bool) -> None:
    """OSError where something else than a dead socket has the path."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise OSError(0, "the path is a symbolic link; name the place it points to instead")
    if not stat.S_ISSOCK(mode):
        raise OSError(0, "the path exists and is not a socket")
    if takeover:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full accept queue answers EAGAIN: somebody is there
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return
        except BlockingIOError:
            pass
    raise OSError(0, "another process listens there already")
