from __future__ import annotations

import os
import socket
import stat

import pytest

from bgproxy.controlplane import listeners as module
from bgproxy.controlplane.inherited import Inherited
from bgproxy.controlplane.listeners import Listeners
from bgproxy.core.model import Address, parse_address
from bgproxy.errors import StartupError
from bgproxy.shm.bequest import Bequest, Heirloom

LOOPBACK = Address("127.0.0.1", 0)


@pytest.fixture
def opened():
    every: list[Listeners] = []

    def open_them(*addresses: Address, workers: int = 2, **options: object) -> Listeners:
        every.append(Listeners.open(addresses, workers, **options))
        return every[-1]

    yield open_them
    for each in every:
        each.close()


def port_of(listeners: Listeners, number: int = 0) -> int:
    return parse_address(listeners.addresses[number]).port


def test_every_worker_has_a_socket_of_its_own_on_one_port(opened):
    listeners = opened(LOOPBACK, workers=3)
    fds = [listeners.fds(slot) for slot in range(3)]
    assert all(len(each) == 1 for each in fds)
    assert len({fd for (fd,) in fds}) == 3
    for (fd,) in fds:
        with socket.socket(fileno=os.dup(fd)) as sock:
            assert sock.getsockname()[1] == port_of(listeners)
    assert listeners.addresses == [f"127.0.0.1:{port_of(listeners)}"]


def test_a_connection_is_answered_before_any_worker_is_there(opened):
    with socket.create_connection(("127.0.0.1", port_of(opened(LOOPBACK)))):
        pass


def test_several_addresses_are_listened_on_at_once(opened, tmp_path):
    listeners = opened(LOOPBACK, LOOPBACK, Address(path=f"{tmp_path}/s"))
    assert len(listeners.fds(0)) == 3
    assert len(set(listeners.addresses)) == 3


def test_a_name_is_listened_on_by_every_address_it_has(opened):
    listeners = opened(Address("localhost", 0))
    assert listeners.addresses == [f"localhost:{port_of(listeners)}"]
    with socket.create_connection(("127.0.0.1", port_of(listeners))):
        pass


def test_ipv6_does_not_take_the_ipv4_port(opened):
    try:
        listeners = opened(Address("::1", 0))
    except StartupError:
        pytest.skip("this machine has no IPv6 loopback")
    (fd,) = listeners.fds(0)
    with socket.socket(fileno=os.dup(fd)) as sock:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    assert listeners.addresses == [f"[::1]:{port_of(listeners)}"]


def test_an_address_family_that_is_missing_does_not_matter_where_the_name_has_another(opened, monkeypatch):
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(module.socket, "getaddrinfo", lambda *_, **__: found)
    assert port_of(opened(Address("both", 0)))
    found.pop()
    with pytest.raises(StartupError, match="cannot listen on both:0: this machine has no such address"):
        opened(Address("both", 0))


def test_a_port_that_another_process_listens_on_is_refused_even_if_it_would_share(opened):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            StartupError, match=rf"127\.0\.0\.1:{port}: another process listens there already"
        ) as caught:
            opened(Address("127.0.0.1", port))
        assert f":{port}" in caught.value.hint


def test_two_proxies_do_not_share_a_port_by_accident(opened):
    port = port_of(opened(LOOPBACK))
    with pytest.raises(StartupError, match="another process listens there already"):
        opened(Address("127.0.0.1", port))


def test_a_port_held_by_workers_of_an_earlier_supervisor_is_shared_with_them(opened):
    port = port_of(opened(LOOPBACK))
    address = Address("127.0.0.1", port)
    assert opened(address, held_by_orphans={str(address)}).addresses == [str(address)]


def test_a_port_is_free_again_although_old_connections_linger(opened):
    first = Listeners.open([LOOPBACK], 1)
    port = port_of(first)
    (fd,) = first.fds(0)
    with socket.socket(fileno=os.dup(fd)) as listening, socket.create_connection(("127.0.0.1", port)) as client:
        connection, _ = listening.accept()
        connection.close()  # this side closes first: it is the one that lingers in TIME_WAIT
        assert client.recv(1) == b""
    first.close()
    assert port_of(opened(Address("127.0.0.1", port))) == port


def test_an_unknown_host_is_named(opened):
    with pytest.raises(StartupError, match=r"the host 'no-such-host\.invalid' is not known"):
        opened(Address("no-such-host.invalid", 80))


def test_an_address_of_another_machine_is_refused(opened):
    with pytest.raises(StartupError, match=r"cannot listen on 192\.0\.2\.1:8080: this machine has no such address"):
        opened(Address("192.0.2.1", 8080))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(13, "Permission denied"), "permission denied for port 80"),
        (OSError(23, "Too many open files in system"), "Too many open files in system"),
    ],
)
def test_what_the_system_refuses_is_said_in_one_sentence(opened, monkeypatch, error, sentence):
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(module, "_bound", refuse)
    with pytest.raises(StartupError, match=rf"cannot listen on 127\.0\.0\.1:80: {sentence}"):
        opened(Address("127.0.0.1", 80))


def test_one_address_that_fails_leaves_none_open(opened):
    port = port_of(first := Listeners.open([LOOPBACK], 1))
    first.close()
    with pytest.raises(StartupError):
        opened(Address("127.0.0.1", port), Address("192.0.2.1", 1))
    assert port_of(opened(Address("127.0.0.1", port))) == port


# --- unix sockets ----------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return Address(path=f"{tmp_path}/proxy.sock")


def connect(path: Address) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path.path)


def test_a_unix_socket_is_shared_by_all_workers_and_open_to_every_user(opened, path, tmp_path):
    listeners = opened(path)
    assert listeners.fds(0) == listeners.fds(1)
    assert stat.S_IMODE(os.stat(path.path).st_mode) == 0o666
    assert os.listdir(tmp_path) == ["proxy.sock"]
    connect(path)


def test_the_longest_path_that_is_allowed_can_be_listened_on(opened, tmp_path):
    directory = tmp_path / "d"
    directory.mkdir()
    path = Address(path=f"{directory}/".ljust(107, "x"))
    opened(path)
    connect(path)


def test_a_socket_that_nobody_answers_on_is_replaced(opened, path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path.path)
    opened(path)
    connect(path)


def test_a_socket_that_somebody_answers_on_is_left_alone(opened, path):
    opened(path)
    with pytest.raises(StartupError, match=r"proxy\.sock: another process listens there already"):
        opened(path)
    connect(path)


def test_a_socket_whose_queue_is_full_has_somebody_behind_it(opened, path):
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(path.path)
        busy.listen(0)
        waiting.connect(path.path)
        with pytest.raises(StartupError, match="another process listens there already"):
            opened(path)


def test_a_socket_held_by_workers_of_an_earlier_supervisor_is_taken_over_and_left_to_the_successor(opened, path):
    first = Listeners.open([path], 1)
    opened(path, held_by_orphans={str(path)})
    first.close()
    connect(path)


def test_a_symbolic_link_is_refused(opened, path, tmp_path):
    os.symlink(tmp_path / "elsewhere", path.path)
    with pytest.raises(StartupError, match="symbolic link"):
        opened(path)


def test_a_file_is_not_overwritten(opened, path):
    with open(path.path, "w") as file:
        file.write("precious")
    with pytest.raises(StartupError, match="exists and is not a socket"):
        opened(path)
    with open(path.path) as file:
        assert file.read() == "precious"


def test_a_directory_that_does_not_exist_is_a_clear_error(opened, tmp_path):
    with pytest.raises(StartupError, match=r"gone/s: No such file or directory"):
        opened(Address(path=f"{tmp_path}/gone/s"))


def test_closing_removes_the_name_once(opened, path):
    listeners = Listeners.open([path], 1)
    listeners.close()
    assert not os.path.exists(path.path)
    listeners.close()


def test_addresses_that_speak_tls_are_kept_apart(tmp_path):
    tls = (Address("127.0.0.1", 0), Address(path=str(tmp_path / "tls.sock")))
    listeners = Listeners.open((Address("127.0.0.1", 0),), 2, tls=tls)
    try:
        assert [len(listeners.fds(slot)) for slot in (0, 1)] == [1, 1]
        assert [len(listeners.tls_fds(slot)) for slot in (0, 1)] == [2, 2]
        assert not {*listeners.fds(0), *listeners.fds(1)} & {*listeners.tls_fds(0), *listeners.tls_fds(1)}
        assert listeners.addresses == [*listeners.plain_addresses, *listeners.tls_addresses]
        assert listeners.tls_addresses[0] == f"127.0.0.1:{listeners.tls_port}"
        assert listeners.tls_addresses[1] == f"unix:{tmp_path / 'tls.sock'}"
    finally:
        listeners.close()


def test_without_a_tls_port_it_is_that_of_https():
    listeners = Listeners.open((Address("127.0.0.1", 0),), 1)
    assert (listeners.tls_port, listeners.tls_fds(0), listeners.tls_addresses) == (443, [], [])
    listeners.close()


# --- inherited --------------------------------------------------------------------------------------------------------


def inodes(listeners: Listeners) -> set[int]:
    return {os.fstat(fd).st_ino for fd in listeners.bequest.fds}


def handed_on(listeners: Listeners) -> Inherited:
    """As they come to the next generation: copies."""
    copies = [
        Heirloom(each.role, each.address, tuple(os.dup(fd) for fd in each.fds), each.is_ours)
        for each in listeners.bequest.heirlooms
    ]
    return Inherited(Bequest(tuple(copies)))


def slots_of(listeners: Listeners, workers: int) -> list[list[int]]:
    return [[os.fstat(fd).st_ino for fd in listeners.fds(slot)] for slot in range(workers)]


def test_the_next_generation_has_the_same_sockets_at_the_same_places(opened, tmp_path):
    unix = Address(path=f"{tmp_path}/s")
    first = opened(LOOPBACK, unix, tls=(LOOPBACK,))
    second = opened(LOOPBACK, unix, tls=(LOOPBACK,), inherited=handed_on(first))
    assert (second.addresses, second.tls_addresses) == (first.addresses, first.tls_addresses)
    assert inodes(second) == inodes(first)
    assert slots_of(second, 2) == slots_of(first, 2)
    first.disown()
    first.close()
    assert (tmp_path / "s").exists()
    second.close()
    assert not (tmp_path / "s").exists()


def test_with_fewer_workers_each_socket_is_still_read_by_somebody(opened):
    first = opened(LOOPBACK, workers=5)
    second = opened(LOOPBACK, workers=2, inherited=handed_on(first))
    assert [len(each) for each in slots_of(second, 2)] == [3, 2]
    assert inodes(second) == inodes(first)


def test_with_more_workers_each_has_one_and_a_new_one_takes_no_connection_before_its_worker_is_there(opened):
    first = opened(LOOPBACK, workers=1)
    second = opened(LOOPBACK, workers=3, inherited=handed_on(first))
    assert [len(each) for each in slots_of(second, 3)] == [1, 1, 1]
    assert len(inodes(second)) == 3
    listening = []
    for slot in range(3):
        with socket.socket(fileno=os.dup(second.fds(slot)[0])) as sock:
            assert sock.getsockname()[1] == port_of(first)
            listening.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    assert listening == [1, 0, 0]


def test_a_socket_that_cannot_be_opened_twice_is_shared_by_all_workers(opened):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        passed = Inherited(Bequest((Heirloom("", address, (os.dup(sock.fileno()),), False),)))
        listeners = opened(parse_address(address), workers=2, inherited=passed)
        assert slots_of(listeners, 2) == [[os.fstat(sock.fileno()).st_ino]] * 2
        assert [each.is_ours for each in listeners.bequest.heirlooms] == [False]


def test_a_unix_socket_whose_name_was_removed_is_opened_anew(opened, tmp_path):
    unix = Address(path=f"{tmp_path}/s")
    first = opened(unix)
    inherited = handed_on(first)
    (tmp_path / "s").unlink()
    second = opened(unix, inherited=inherited)
    assert inodes(second).isdisjoint(inodes(first))
    assert (tmp_path / "s").exists()


def test_the_path_of_systemd_is_left_to_systemd(opened, tmp_path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{tmp_path}/s")
        sock.listen()
        passed = Inherited(Bequest((Heirloom("", f"unix:{tmp_path}/s", (os.dup(sock.fileno()),), False),)))
        opened(Address(path=f"{tmp_path}/s"), inherited=passed).close()
    assert (tmp_path / "s").exists()
