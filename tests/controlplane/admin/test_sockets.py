"""Opening the listeners of the admin API, and not taking anybody else's."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from bgproxy.controlplane.admin.sockets import open_tcp, open_unix, remove_unix
from bgproxy.core.model import Address
from bgproxy.errors import StartupError


def test_an_address_in_use_is_named_with_the_remedy():
    with open_tcp(Address(host="127.0.0.1", port=0)) as first:
        address = Address(host="127.0.0.1", port=first.getsockname()[1])
        with pytest.raises(StartupError, match=f"{address}: address already in use") as refusal:
            open_tcp(address)
    assert "--admin" in refusal.value.hint


def test_an_unknown_host_is_named():
    with pytest.raises(StartupError, match=r"cannot listen on nowhere\.invalid:0"):
        open_tcp(Address(host="nowhere.invalid", port=0))


def test_the_unix_socket_is_for_owner_and_group_in_a_private_directory(tmp_path):
    path = tmp_path / "state" / "admin.sock"
    with open_unix(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_stale_socket_is_replaced(tmp_path):
    path = tmp_path / "admin.sock"
    open_unix(path).close()
    assert path.exists()
    with open_unix(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_that_answers_is_left_alone(tmp_path):
    path = tmp_path / "admin.sock"
    with open_unix(path):
        inode = path.stat().st_ino
        with pytest.raises(StartupError, match="another process answers there"):
            open_unix(path)
        assert path.stat().st_ino == inode


@pytest.mark.parametrize("kind", ["file", "symlink"])
def test_what_is_not_a_socket_is_left_alone(tmp_path, kind):
    path = tmp_path / "admin.sock"
    if kind == "file":
        path.write_text("precious")
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartupError, match="not a socket"):
        open_unix(path)
    assert os.path.lexists(path)


def test_a_directory_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(StartupError, match="cannot listen on unix:"):
        open_unix(tmp_path / ("x" * 120))
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="cannot listen on unix:"):
        open_unix(tmp_path / "file" / "admin.sock")


def test_only_our_own_socket_file_is_removed(tmp_path):
    path = tmp_path / "admin.sock"
    with open_unix(path):
        remove_unix(path, path.stat().st_ino + 1)
        assert path.exists()
        remove_unix(path, path.stat().st_ino)
        assert not path.exists()
        remove_unix(path, 0)
