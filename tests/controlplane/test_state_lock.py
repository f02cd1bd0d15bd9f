from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys

import pytest

from bgproxy.controlplane.state_lock import StateLock, prepare_directory
from bgproxy.errors import StartupError


def test_a_second_supervisor_is_refused_with_the_pid_of_the_first(tmp_path):
    lock = StateLock.acquire(tmp_path)
    with pytest.raises(StartupError, match=rf"another bgproxy \(pid {os.getpid()}\)"):
        StateLock.acquire(tmp_path)
    lock.release()
    StateLock.acquire(tmp_path).release()


def test_a_disk_that_does_not_take_the_name_of_its_holder_keeps_nobody(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    lock = StateLock.acquire(tmp_path)
    with pytest.raises(StartupError, match="pid unknown"):
        StateLock.acquire(tmp_path)
    lock.release()


def test_an_unreadable_holder_is_called_unknown(tmp_path):
    lock = StateLock.acquire(tmp_path)
    (tmp_path / "lock").write_text("rubbish")
    with pytest.raises(StartupError, match="pid unknown"):
        StateLock.acquire(tmp_path)
    lock.release()


def test_the_lock_ends_with_its_process_however_it_ends(tmp_path):
    script = (
        "import sys, pathlib; from bgproxy.controlplane.state_lock import StateLock\n"
        "StateLock.acquire(pathlib.Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(StartupError, match=rf"pid {holder.pid}\b"):
            StateLock.acquire(tmp_path)
        holder.kill()
        holder.wait()
    StateLock.acquire(tmp_path).release()


def test_a_lock_that_cannot_be_opened_is_a_clear_error(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartupError, match="lock cannot be opened"):
        StateLock.acquire(tmp_path)


def test_the_state_directory_is_made_for_its_owner_alone(tmp_path):
    prepare_directory(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    prepare_directory(tmp_path / "a" / "b")


def test_a_directory_that_others_can_write_is_refused_with_the_remedy(tmp_path):
    tmp_path.chmod(0o775)
    with pytest.raises(StartupError, match="can be written by other users") as caught:
        prepare_directory(tmp_path)
    assert f"chmod go-w {tmp_path}" in caught.value.hint


def test_a_file_in_the_place_of_the_directory_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match=r"the state directory .*file cannot be made"):
        prepare_directory(tmp_path / "file")


def test_a_directory_that_cannot_be_written_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StartupError, match="cannot be written by this user"):
        prepare_directory(tmp_path)
