from __future__ import annotations

import os
from pathlib import Path

import pytest

from bgproxy.config import load
from bgproxy.config.error_pages import COMPLAINTS
from bgproxy.core.error_pages import MAX_ALL, MAX_FILE
from tests.support.configs import TWO_POOLS, load_text, problems_of

KEY = '[server]\nerror_pages = "pages"'
PLACE = "bgproxy.toml:2:1: [server] error_pages: "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pages"
    made.mkdir()
    return made


def test_pages_are_read_whole_and_go_to_the_workers(tmp_path, folder):
    (folder / "502.html").write_bytes(b"\xef\xbb\xbf<p>d\xc3\xa9sol\xc3\xa9</p>\r\n")
    (folder / "error.json").write_text('{"detail": "{{detail}}"}')
    (folder / ".gitkeep").write_text("")
    (folder / "..data").mkdir()
    config = load_text(tmp_path, KEY)
    assert config.error_pages == {"502.html": "<p>désolé</p>\r\n", "error.json": '{"detail": "{{detail}}"}'}
    assert config.worker_settings().error_pages == config.error_pages


def test_without_a_folder_there_are_none(tmp_path):
    assert load_text(tmp_path, "").worker_settings().error_pages == {}
    assert load_text(tmp_path, '[server]\nerror_pages = ""').error_pages == {}


def test_the_path_starts_where_paths_do(tmp_path, folder, monkeypatch):
    (folder / "error.txt").write_text("x")
    assert load_text(tmp_path, f'[server]\nerror_pages = "{folder}"').error_pages
    monkeypatch.chdir(tmp_path)
    assert load(None, flags=TWO_POOLS, env={"BGPROXY_SERVER__ERROR_PAGES": "pages", "HOME": "/"}).error_pages
    monkeypatch.chdir("/")
    assert load_text(tmp_path, KEY).error_pages


@pytest.mark.says("Names that begin with a dot")
def test_pages_mounted_by_links_are_read(tmp_path, folder):
    (folder / "..2026").mkdir()
    (folder / "..2026" / "error.html").write_text("x")
    (folder / "..data").symlink_to("..2026")
    (folder / "error.html").symlink_to("..data/error.html")
    assert load_text(tmp_path, KEY).error_pages == {"error.html": "x"}


@pytest.mark.says("At most 256 KiB a file")
@pytest.mark.says("A file that is no page")
@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        (
            "404.html",
            b"x",
            "no answer would ever use it; expected 4xx, 5xx, error or a status that bgproxy itself answers with (400, ",
        ),
        ("502.htm", b"x", "did you mean 502.html?"),
        ("502.html", b"a\n\xe9", "line 2: the byte 0xe9 is not UTF-8; expected a page in UTF-8"),
        ("502.html", b"x" * (MAX_FILE + 1), f"the file is larger than {MAX_FILE} bytes"),
        ("502.html", b" ", "there is nothing in it; expected what a visitor is to see"),
        ("502.html", b"\n{{url}}", "line 2: unknown placeholder {{url}}; expected one of status, phrase, sentence, "),
        ("502.json", b"{{status}}", "the JSON in it is not an object"),
    ],
)
def test_a_page_that_cannot_be_used_is_named(tmp_path, folder, name, data, said):
    (folder / name).write_bytes(data)
    (problem,) = problems_of(tmp_path, KEY)
    assert problem.startswith(f"{PLACE}'{name}': ")
    assert said in problem


def test_every_wrong_page_is_named_at_once(tmp_path, folder):
    (folder / "a.html").write_text("")
    (folder / "b.html").write_text("")
    (folder / "error.html").write_text("fine")
    assert [problem.split("'")[1] for problem in problems_of(tmp_path, KEY)] == ["a.html", "b.html"]


def test_a_directory_of_something_else_is_not_complained_about_for_ever(tmp_path, folder):
    for number in range(100):
        (folder / f"photo-{number}.jpg").write_text("")
    problems = problems_of(tmp_path, KEY)
    assert len(problems) == COMPLAINTS + 1
    assert problems[-1] == f"{PLACE}'pages': {100 - COMPLAINTS} more files are not usable"


def test_a_deep_directory_leaves_room_for_what_is_wrong(tmp_path):
    folder = tmp_path / ("d" * 200)
    folder.mkdir()
    (folder / "502.htm").write_text("x")
    (problem,) = problems_of(tmp_path, f'[server]\nerror_pages = "{folder.name}"')
    assert problem.endswith("; did you mean 502.html?")


@pytest.mark.says("At most 256 KiB a file")
def test_all_pages_together_are_bounded(tmp_path, folder):
    for name in ("400.html", "502.html"):
        (folder / name).write_bytes(b"x" * MAX_FILE)
    assert load_text(tmp_path, KEY).error_pages
    (folder / "503.html").write_bytes(b"x")
    assert problems_of(tmp_path, KEY) == [f"{PLACE}'pages': {MAX_ALL + 1} bytes in all; expected at most {MAX_ALL}"]


def test_what_is_no_file_is_refused_without_being_waited_for(tmp_path, folder):
    os.mkfifo(folder / "502.html")
    (folder / "503.html").mkdir()
    (folder / "504.html").symlink_to("nowhere")
    assert problems_of(tmp_path, KEY) == [
        f"{PLACE}'502.html': this is not a file; expected a page",
        f"{PLACE}'503.html': this is not a file; expected a page",
        f"{PLACE}'504.html': there is no such file",
    ]


def test_a_folder_that_is_none_is_refused(tmp_path):
    expected = "; expected a directory with error pages"
    assert problems_of(tmp_path, KEY) == [f"{PLACE}'pages': there is no such directory{expected}"]
    (tmp_path / "pages").write_text("")
    assert problems_of(tmp_path, KEY) == [f"{PLACE}'pages': this is not a directory{expected}"]
    (tmp_path / "pages").unlink()
    (tmp_path / "pages").symlink_to("pages")
    (problem,) = problems_of(tmp_path, KEY)
    assert problem.startswith(f"{PLACE}'pages': the directory cannot be read (")
    (tmp_path / "pages").unlink()
    (tmp_path / "pages").mkdir()
    assert problems_of(tmp_path, KEY) == [
        f"{PLACE}'pages': there is no page in it; expected one like error.html or 502.json"
    ]


def test_a_folder_that_may_not_be_read_is_refused(tmp_path, folder, monkeypatch):
    def forbidden(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbidden)  # root may read everything
    (problem,) = problems_of(tmp_path, KEY)
    assert problem.startswith(f"{PLACE}'pages': this user may not read the directory")


@pytest.mark.parametrize("value", ["3", '"a\\u0000b"', "true"])
def test_the_key_takes_a_path(tmp_path, value):
    (problem,) = problems_of(tmp_path, f"[server]\nerror_pages = {value}")
    assert problem.endswith('; expected a directory, or "" for none')
