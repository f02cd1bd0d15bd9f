from __future__ import annotations

import asyncio
import os
import socket
import time

import pytest

from bgproxy.controlplane import systemd as module
from bgproxy.controlplane.systemd import Notifier, passed_sockets
from bgproxy.errors import StartupError


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A service manager's socket, and its name as it stands in the environment."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@bgproxy-test-{os.getpid()}-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        sock.settimeout(10)
        yield sock, name


def heard(sock: socket.socket) -> list[str]:
    return sock.recv(4096).decode().split("\n")


def test_it_says_what_it_does(manager):
    sock, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready("blue is live")
    assert heard(sock) == ["READY=1", "STATUS=blue is live"]
    before = time.monotonic_ns() // 1000
    notifier.reloading("upgrading")
    first, second, third = heard(sock)
    assert (first, third) == ("RELOADING=1", "STATUS=upgrading")
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    notifier.status("green is live")
    assert heard(sock) == ["STATUS=green is live"]
    notifier.main_pid(4711)
    assert heard(sock) == ["MAINPID=4711"]
    notifier.stopping()
    assert heard(sock)[0] == "STOPPING=1"


def test_nobody_who_listens_is_no_obstacle(tmp_path):
    Notifier({}).ready("")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready("")


async def test_the_watchdog_hears_of_it_only_while_all_is_well(manager):
    sock, name = manager
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    well = [True]
    asked = asyncio.Event()

    def is_well() -> bool:
        asked.set()
        return well[0]

    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())})
    notifier.watch(is_well)
    for _ in range(2):
        async with asyncio.timeout(10):
            assert await loop.sock_recv(sock, 100) == b"WATCHDOG=1"
    well[0] = False
    for _ in range(3):  # the first of them may have been asked before
        asked.clear()
        async with asyncio.timeout(10):
            await asked.wait()
    while True:
        try:
            assert sock.recv(100) == b"WATCHDOG=1"
        except BlockingIOError:
            break
    asked.clear()
    async with asyncio.timeout(10):
        await asked.wait()
    with pytest.raises(BlockingIOError):
        sock.recv(100)
    notifier.close()


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}],
    ids=["not asked for", "asked of another process", "no number"],
)
async def test_without_a_watchdog_nothing_is_watched(manager, environment):
    notifier = Notifier({"NOTIFY_SOCKET": manager[1]} | environment)
    asked: list[None] = []
    notifier.watch(lambda: bool(asked.append(None)))
    await asyncio.sleep(0)  # a turn of the loop, in which a watch would ask for the first time
    notifier.close()
    assert not asked


# --- sockets ----------------------------------------------------------------------------------------------------------


def environment(count: int, names: str = "") -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names, "OTHER": "1"}


@pytest.fixture
def first_fd(monkeypatch):
    """Descriptors in a row that may be given away; what stands there counts as passed."""

    def passed(*sockets: socket.socket) -> None:
        start = 900
        for number, sock in enumerate(sockets):
            os.dup2(sock.fileno(), start + number)
        monkeypatch.setattr(module, "FIRST_FD", start)

    yield passed
    os.closerange(900, 910)


def test_sockets_are_known_by_their_address(first_fd, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        first_fd(tcp, unix)
        told = environment(2, "http:admin")
        found = passed_sockets(told)
        assert told == {"OTHER": "1"}, "no worker takes them for its own"
        assert [(each.role, each.address, each.fds, each.is_ours) for each in found.heirlooms] == [
            ("", f"127.0.0.1:{tcp.getsockname()[1]}", (900,), False),
            ("", f"unix:{tmp_path}/s", (901,), False),
        ]
        assert not os.get_inheritable(900)


@pytest.mark.parametrize("changed", [{"LISTEN_PID": "1"}, {"LISTEN_FDS": "x"}, {"LISTEN_FDS": "0"}])
def test_what_is_meant_for_another_is_left_alone(changed):
    told = environment(1) | changed
    assert passed_sockets(told).fds == ()
    assert told == {"OTHER": "1"}


def test_a_socket_that_does_not_listen_is_named(first_fd):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        first_fd(datagrams)
        with pytest.raises(StartupError, match=r"socket 900 \(dns\) of systemd does not listen"):
            passed_sockets(environment(1, "dns"))


def test_what_is_no_socket_is_named(first_fd, tmp_path):
    with (tmp_path / "file").open("w") as file:
        first_fd(file)  # type: ignore[arg-type]
        with pytest.raises(StartupError, match=r"descriptor 900 \(\) of systemd is no socket"):
            passed_sockets(environment(1))
