from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bgproxy.config.locate import Positions
from bgproxy.config.problems import Wrong
from bgproxy.config.schema import ROOT, keys
from bgproxy.config.sources import (
    Document,
    Flags,
    Setting,
    from_env,
    from_flags,
    from_text,
    overlay,
    place,
    read_document,
)
from bgproxy.errors import ConfigError

NODES = dict(keys())


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_document(path)
    return str(caught.value).replace(f"{path.parent}/", "")


def written(directory: Path, data: bytes) -> Path:
    file = directory / "x.toml"
    file.write_bytes(data)
    return file


def test_a_file_is_read_with_its_name_and_hash(tmp_path):
    document = read_document(written(tmp_path, b"version = 1\n"))
    assert document.tree == {"version": 1}
    assert document.name == str(tmp_path / "x.toml")
    assert document.sha256 == hashlib.sha256(b"version = 1\n").hexdigest()


def test_a_byte_order_mark_is_no_content(tmp_path):
    assert read_document(written(tmp_path, b"\xef\xbb\xbfversion = 1\n")).tree == {"version": 1}


def test_a_file_that_is_missing_a_directory_or_endless_is_refused(tmp_path):
    assert refusal(tmp_path / "none.toml") == "none.toml: there is no such file; expected a TOML file"
    (tmp_path / "dir").mkdir()
    assert refusal(tmp_path / "dir") == "dir: this is a directory; expected a TOML file"
    assert refusal(tmp_path / "a\nb") == "a\\nb: there is no such file; expected a TOML file"
    assert "larger than" in refusal(Path("/dev/zero"))


def test_bytes_that_are_not_utf8_are_located(tmp_path):
    assert refusal(written(tmp_path, "a = 'é'\nb = 'é".encode() + b"\xff'")) == (
        "x.toml:2:7: the byte 0xff is not UTF-8; expected a TOML file in UTF-8"
    )


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("version == 1", "x.toml:1:10: this is not valid TOML: invalid value"),
        ("a = 1\nb = [1,\n", "x.toml:2:8: this is not valid TOML: invalid value"),
        ("a = 1\na = 2\n[b]\n", "x.toml:2:6: this is not valid TOML: cannot overwrite a value: the same key"),
        ("[a]\n[a]\n", "x.toml:2:3: this is not valid TOML: cannot declare ('a',) twice: the same key"),
        ("a = '", "x.toml:1:6: this is not valid TOML"),
        ("a = " + "9" * 5000, "x.toml:1:5005: this is not valid TOML"),
        ("a = " + "[" * 5000, "x.toml: lists or tables are nested too deeply"),
    ],
)
def test_what_is_not_toml_is_located(tmp_path, text, start):
    assert refusal(written(tmp_path, text.encode())).startswith(start)


def test_flags_become_settings_and_those_not_given_do_not():
    assert list(from_flags(Flags())) == []
    assert list(from_flags(Flags(listen=("a:1",), workers="3", state_dir=Path("/s")))) == [
        Setting(("server", "listen"), ["a:1"], "--listen"),
        Setting(("server", "workers"), 3, "--workers"),
        Setting(("state", "dir"), "/s", "--state-dir"),
    ]
    assert list(from_flags(Flags(workers=2, admin="", blue=("b",), green=("g",), health_path="/h"))) == [
        Setting(("admin", "listen"), "", "--admin"),
        Setting(("pools", "blue", "upstreams"), ["b"], "--blue"),
        Setting(("pools", "green", "upstreams"), ["g"], "--green"),
        Setting(("server", "workers"), 2, "--workers"),
        Setting(("health", "path"), "/h", "--health-path"),
    ]


def test_variables_become_settings():
    env = {"BGPROXY_SERVER__TIMEOUTS__HEADER": "5s", "BGPROXY_UPSTREAM__RETRIES": "2", "PATH": "/bin"}
    assert list(from_env(env)) == [
        Setting(("server", "timeouts", "header"), "5s", "BGPROXY_SERVER__TIMEOUTS__HEADER"),
        Setting(("upstream", "retries"), 2, "BGPROXY_UPSTREAM__RETRIES"),
    ]


def test_variables_of_clients_and_of_kubernetes_are_left_alone():
    names = ("BGPROXY_ADMIN", "BGPROXY_TOKEN_FILE", "BGPROXY_PORT", "BGPROXY_SERVICE_HOST", "BGPROXY_PORT_80_TCP_ADDR")
    assert list(from_env(dict.fromkeys(names, "x"))) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("BGPROXY_SERVER__LISTN", "names no key of the configuration; expected BGPROXY_SECTION__KEY; did you mean"),
        ("BGPROXY_server__listen", "did you mean BGPROXY_SERVER__LISTEN?"),
        ("BGPROXY_SERVER_LISTEN", "did you mean BGPROXY_SERVER__LISTEN?"),
        ("BGPROXY_SERVER__TIMEOUTS", "names a section"),
        ("BGPROXY_QQQ__ZZZ", "names no key of the configuration; expected BGPROXY_SECTION__KEY"),
    ],
)
def test_a_variable_that_names_no_key_is_a_problem(name, said):
    (problem,) = from_env({name: "x"})
    assert isinstance(problem, str)
    assert problem.startswith(f"{name}: ")
    assert said in problem


def test_a_variable_with_broken_json_is_a_problem():
    (problem,) = from_env({"BGPROXY_HEALTH__HEADERS": "Host=x"})
    assert problem == "BGPROXY_HEALTH__HEADERS: is not valid JSON; expected a table in JSON"


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        (("server", "listen"), "a:1, b:2", ["a:1", "b:2"]),
        (("server", "listen"), '["a:1"]', ["a:1"]),
        (("server", "listen"), " ", []),
        (("pools", "blue", "upstreams"), "a:1,b:2", ["a:1", "b:2"]),
        (("pools", "blue", "upstreams"), '[{"address": "a:1"}]', [{"address": "a:1"}]),
        (("health", "headers"), "", {}),
        (("health", "headers"), '{"Host": "x"}', {"Host": "x"}),
        (("headers", "expose"), "true", True),
        (("health", "jitter"), "0.2", 0.2),
        (("log", "level"), "info", "info"),
    ],
)
def test_a_text_stands_for_a_value_of_its_key(path, text, value):
    assert from_text(NODES[path], text) == value


def test_a_text_for_a_section_stays_a_text_and_broken_json_is_wrong():
    assert from_text(ROOT, "x") == "x"
    for path, text in [(("server", "listen"), "["), (("health", "headers"), "{"), (("server", "listen"), "[" * 9999)]:
        with pytest.raises(Wrong, match="is not valid JSON"):
            from_text(NODES[path], text)


def test_settings_are_laid_over_the_tree_and_the_tree_stays_as_it_was():
    tree = {"server": {"workers": 1, "listen": ["a"]}, "log": 1}
    settings = [
        Setting(("server", "workers"), 2, "VAR"),
        Setting(("server", "workers"), 3, "--workers"),
        Setting(("server", "timeouts", "header"), "5s", "VAR"),
        Setting(("log", "level"), "info", "VAR"),
    ]
    assert overlay(tree, settings) == {
        "server": {"workers": 3, "listen": ["a"], "timeouts": {"header": "5s"}},
        "log": 1,
    }
    assert tree == {"server": {"workers": 1, "listen": ["a"]}, "log": 1}


def test_a_problem_is_placed_where_the_value_was_set():
    document = Document("f.toml", {}, Positions("[server]\nworkers = 0\n"), "")
    origins = {("pools", "blue", "upstreams"): "--blue"}
    assert place(("server", "workers"), document, origins) == ((0, 2, 1), "f.toml:2:1: [server] workers")
    assert place(("pools", "blue", "upstreams", 1), document, origins) == ((2, 0, 0), "--blue[1]")
    assert place(("pools", "blue", "upstreams", 1, "weight"), document, origins)[1] == "--blue[1].weight"
    assert place(("log", "level"), document, {("log", "level"): "VAR"}) == ((1, 0, 0), "VAR")
    assert place(("server", "workers"), Document(), {}) == ((0, 0, 0), "[server] workers")
