from __future__ import annotations

import os
import stat

import pytest

from bgproxy.controlplane.durable import replace_durably
from tests.support.faulty_os import FaultyOs


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file"
    for data in (b"one", b"", b"three" * 100_000):
        replace_durably(path, data)
        assert path.read_bytes() == data
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_what_was_left_by_somebody_who_died_is_no_obstacle(tmp_path):
    (tmp_path / "file.new").write_bytes(b"half")
    replace_durably(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


@pytest.mark.parametrize("at", [1, 2, 3, 5], ids=["open", "write", "fsync", "replace"])
def test_a_failure_is_told_and_the_old_file_stays(tmp_path, at):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        replace_durably(path, b"new", system=FaultyOs(at))
    assert path.read_bytes() == b"old"
