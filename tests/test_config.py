from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import hypothesis
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgproxy.config import Config, Flags, Source, load
from bgproxy.config.schema import keys
from bgproxy.core.model import BLUE, GREEN, Address
from bgproxy.core.settings import (
    AccessLogSettings,
    HoldSettings,
    Limits,
    StreamPolicy,
    StreamRoute,
    Timeouts,
    UpstreamSettings,
)
from bgproxy.errors import EXIT_CONFIG, ConfigError
from tests.support.configs import POOLS, TWO_POOLS, load_text, problems_of

ROOT = Path(__file__).resolve().parent.parent
ANNOTATED = ROOT / "config" / "bgproxy.toml"
MANUAL = ROOT / "docs" / "configuration.md"
HEADINGS = {"": "The top", "pools": "`[pools.blue]` and `[pools.green]`"}

WRONG = """\
version = 2
[server]
listen = "127.0.0.1:80"
workrs = 3
trusted_proxies = ["10.0.0.1/8"]
timeouts.header = 30
retries = 3
[health]
interval = "10 s"
rise = 0
[switch]
mode = "fenced"
initial = "grene"
[log]
level = true
"""


# --- what is loaded ---------------------------------------------------------------------------------------------------


def test_both_pools_on_the_command_line_need_no_file():
    config = load(None, flags=TWO_POOLS, env={"HOME": "/home/op"})
    assert config.server.listen == (Address(host="127.0.0.1", port=8080),)
    assert config.server.workers == len(os.sched_getaffinity(0))
    assert (config.server.timeouts, config.server.limits) == (Timeouts(), Limits())
    assert config.upstream == UpstreamSettings()
    assert [str(u.address) for pool in (config.pools.blue, config.pools.green) for u in pool.upstreams] == [
        "127.0.0.1:9001",
        "127.0.0.1:9002",
    ]
    assert config.switch.initial is BLUE
    assert config.source == Source(file="", sha256="")


def test_every_kind_of_value_arrives_resolved(tmp_path):
    config = load_text(
        tmp_path,
        """
[server]
listen = ["127.0.0.1:0", "unix:/run/x.sock"]
workers = 3
trusted_proxies = ["10.0.0.0/8", "::1"]
timeouts = {header = "1m30s", shutdown = "0s"}
limits.body_bytes = "1GiB"
[health]
expect_status = ["200-299", 404]
headers = {Host = "app"}
jitter = 0
[switch]
initial = "green"
wait = "drained"
hold_max = 7
hold_bytes = "1KiB"
hold_timeout = "3s"
[headers]
expose = true
[log]
access = "combined"
""",
    )
    assert [str(address) for address in config.server.listen] == ["127.0.0.1:0", "unix:/run/x.sock"]
    assert (config.server.workers, config.server.trusted_proxies) == (3, ("10.0.0.0/8", "::1/128"))
    assert (config.server.timeouts.header, config.server.timeouts.shutdown) == (90.0, 0.0)
    assert config.server.limits.body_bytes == 1 << 30
    assert config.health.expect_status == ((200, 299), (404, 404))
    assert (dict(config.health.headers), config.health.jitter) == ({"Host": "app"}, 0.0)
    assert (config.switch.initial, config.switch.wait) == (GREEN, "drained")
    assert config.worker_settings().hold == HoldSettings(max=7, bytes=1024, timeout=3.0)
    assert config.worker_settings().headers.expose is True
    assert config.worker_settings().access_log == AccessLogSettings(format="combined", file="-")
    assert config.worker_settings().trusted_proxies == ("10.0.0.0/8", "::1/128")


def test_streams_have_a_policy_and_routes_say_what_they_do_otherwise(tmp_path):
    text = """
[switch]
streams = {policy = "close-after", timeout = "1m", spread = "0s"}
[[switch.route]]
path = "/chat/"
policy = "close-now"
close_code = 1001
[[switch.route]]
path = "/feed"
retry = "500ms"
"""
    streams = load_text(tmp_path, text).worker_settings().streams
    assert streams.default == StreamPolicy(policy="close-after", timeout=60.0, spread=0.0)
    assert streams.routes == (
        StreamRoute("/chat/", StreamPolicy(policy="close-now", timeout=60.0, spread=0.0, close_code=1001)),
        StreamRoute("/feed", StreamPolicy(policy="close-after", timeout=60.0, spread=0.0, retry=0.5)),
    )
    assert load_text(tmp_path, "").worker_settings().streams.default.policy == "keep"


def test_a_route_is_refused_where_it_is_not_right(tmp_path):
    text = """[switch]
route = [{path = "/a"}, {path = "b"}, {path = "/a?b"}, {policy = "keep"}, {path = "/a"}, {path = "/c", polcy = "keep"}]
"""
    problems = problems_of(tmp_path, text)
    assert [problem.partition("; expected ")[0] for problem in problems if "route" in problem] == [
        "bgproxy.toml:2:26: [switch] route[1].path: is the text 'b'",
        "bgproxy.toml:2:40: [switch] route[2].path: is the text '/a?b'",
        "bgproxy.toml:2:56: [switch] route[3]: path is missing",
        "bgproxy.toml:2:75: [switch] route[4]: is the same as item 0",
        "bgproxy.toml:2:104: [switch] route[5].polcy: unknown key; did you mean 'policy'?",
    ]


def test_the_source_says_which_bytes_were_read(tmp_path):
    source = load_text(tmp_path, "").source
    assert source.file == str(tmp_path / "bgproxy.toml")
    assert len(source.sha256) == 64
    assert load_text(tmp_path, "# changed").source.sha256 != source.sha256


def test_what_workers_get_can_be_sent_to_them(tmp_path):
    settings = load_text(tmp_path, "[server.limits]\nhead_bytes = '16KiB'").worker_settings()
    assert msgspec.json.decode(msgspec.json.encode(settings), type=type(settings)) == settings


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path):
    text = '[health]\npath = "/file"\n[server]\nworkers = 1\n[log]\nlevel = "debug"\n'
    env = {"BGPROXY_HEALTH__PATH": "/env", "BGPROXY_SERVER__WORKERS": "2"}
    config = load_text(tmp_path, text, env=env, flags=Flags(health_path="/flag", green=("g:1", "g:2")))
    assert (config.health.path, config.server.workers, config.log.level) == ("/flag", 2, "debug")
    assert [u.id for u in config.pools.green.upstreams] == ["g:1", "g:2"]


def test_the_environment_alone_can_configure_everything():
    env = {
        "BGPROXY_POOLS__BLUE__UPSTREAMS": "b:1,b:2",
        "BGPROXY_POOLS__GREEN__UPSTREAMS": '[{"address": "g:1", "weight": 2}]',
        "BGPROXY_SERVER__LISTEN": "127.0.0.1:0",
        "BGPROXY_SERVER__TIMEOUTS__HEADER": "5s",
        "BGPROXY_POOLS__BLUE__MIN_HEALTHY": "2",
        "BGPROXY_ADMIN": "http://127.0.0.1:1",
        "BGPROXY_TOKEN_FILE": "/nowhere",
    }
    config = load(None, env=env)
    assert (len(config.pools.blue.upstreams), config.pools.green.upstreams[0].weight) == (2, 2)
    assert (config.server.timeouts.header, config.min_healthy) == (5.0, (2, 1))


def test_the_environment_of_the_process_is_used_where_none_is_given(monkeypatch):
    monkeypatch.setenv("BGPROXY_HEALTH__PATH", "/from-env")
    assert load(None, flags=TWO_POOLS).health.path == "/from-env"


def test_references_are_resolved_in_the_file_only(tmp_path):
    (tmp_path / "sum").write_text("ab" * 32 + "\n")
    text = """
[server]
workers = "${N}"
[health]
path = "/${P}/$${P}"
[[admin.tokens]]
name = "ci"
role = "admin"
sha256 = "${file:sum}"
"""
    env = {"N": "2", "P": "x", "BGPROXY_HEALTH__EXPECT_BODY": "${N}"}
    config = load_text(tmp_path, text, env=env)
    assert (config.server.workers, config.health.path, config.health.expect_body) == (2, "/x/${P}", "${N}")
    assert config.admin.tokens[0].sha256 == "ab" * 32


def test_a_removed_working_directory_is_no_obstacle(tmp_path, monkeypatch):
    def gone() -> Path:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "cwd", gone)
    assert load(None, flags=TWO_POOLS, env={"HOME": "/home/op"}).state.dir == Path("/home/op/.local/state/bgproxy")


# --- what is refused --------------------------------------------------------------------------------------------------


def test_every_problem_is_said_at_once_with_its_place(tmp_path):
    env = {"BGPROXY_UPSTREAM__RETRIES": "99", "BGPROXY_SERVER__LISTN": "x"}
    assert problems_of(tmp_path, WRONG, env=env, flags=Flags(workers="none", blue=("h",))) == [
        "bgproxy.toml:1:1: version: is the number 2; expected 1, the one format that this program reads",
        "bgproxy.toml:3:1: [server] listen: is the text '127.0.0.1:80'; expected a list; "
        'did you mean ["127.0.0.1:80"]?',
        "bgproxy.toml:4:1: [server] workrs: unknown key; did you mean 'workers'?",
        "bgproxy.toml:5:20: [server] trusted_proxies[0]: '10.0.0.1/8' has bits set beyond its prefix; "
        'expected a network in CIDR form, like "10.0.0.0/8", or "unix"; did you mean "10.0.0.0/8"?',
        "bgproxy.toml:6:10: [server.timeouts] header: is the number 30 without a unit; "
        'expected a duration from "1ms" to "30d", like "30s"; did you mean "30s"?',
        "bgproxy.toml:7:1: [server] retries: unknown key; did you mean [upstream] retries?",
        "bgproxy.toml:9:1: [health] interval: '10 s' has a space in it; "
        'expected a duration from "10ms" to "1d", like "30s"; did you mean "10s"?',
        "bgproxy.toml:10:1: [health] rise: is the number 0; expected a whole number from 1 to 1000",
        'bgproxy.toml:12:1: [switch] mode: is the text \'fenced\'; expected "instant", "fence" or "fence-writes"; '
        'did you mean "fence"?',
        'bgproxy.toml:13:1: [switch] initial: is the text \'grene\'; expected "blue" or "green"; did you mean "green"?',
        'bgproxy.toml:15:1: [log] level: is true; expected "debug", "info", "warning" or "error"',
        "BGPROXY_SERVER__LISTN: names no key of the configuration; expected BGPROXY_SECTION__KEY; "
        "did you mean BGPROXY_SERVER__LISTEN?",
        "BGPROXY_UPSTREAM__RETRIES: is the number 99; expected a whole number from 0 to 10",
        "--workers: is the text 'none'; expected a whole number from 1 to 256, or \"auto\"",
        "--blue[0]: 'h': the port is missing; expected 'host:port', '[v6]:port' or 'unix:/path'",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[guard]\nwindow = '60m'",
        "[tls]\ncert = 'x'",
        "[[webhook]]\nurl = 'x'",
        "[pools.red]\nupstreams = ['a:1']",
    ],
)
def test_a_feature_that_is_not_there_is_an_unknown_key(tmp_path, text):
    (problem,) = problems_of(tmp_path, text)
    assert "unknown" in problem


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("server.workers", "0"),
        ("server.workers", '"many"'),
        ("server.listen", "[]"),
        ("server.timeouts.header", '"0s"'),
        ("server.timeouts.shutdown", '"-1s"'),
        ("server.limits.connections", "0"),
        ("server.limits.head_bytes", '"2GiB"'),
        ("server.limits.body_bytes", "0"),
        ("upstream.retries", "-1"),
        ("upstream.max_connections", "0"),
        ("health.rise", "0"),
        ("health.path", '"healthz"'),
        ("health.path", '"/a b"'),
        ("health.path", r'"/a\r\nX: y"'),
        ("health.method", '"POST"'),
        ("health.jitter", "nan"),
        ("health.expect_status", '["2xx"]'),
        ("health.headers", '{"a b" = "c"}'),
        ("health.headers", r'{X = "a\r\nY: b"}'),
        ("switch.ack_timeout", '"0s"'),
        ("switch.streams.policy", '"close"'),
        ("switch.streams.spread", "10"),
        ("switch.streams.close_code", "1000"),
        ("switch.initial", "1979-05-27"),
        ("state.dir", '""'),
        ("headers.request_id", '""'),
        ("headers.request_id", '"Content-Length"'),
        ("headers.request_id", '"content-type"'),
        ("headers.request_id", '"Vary"'),
        ("headers.request_id", '"x-bg-colour"'),
        ("log.access", '"yes"'),
        ("pools.blue.release", r'"a\nb"'),
        ("pools.blue.min_healthy", "0"),
    ],
)
def test_a_value_out_of_its_range_is_refused_where_it_stands(tmp_path, key, value):
    # Dotted keys cannot be mixed with the [tables] of the pools, so those are written as dotted keys too.
    pools = 'pools.blue.upstreams = ["a:1"]\npools.green.upstreams = ["a:2"]\n'
    (problem,) = problems_of(tmp_path, f"{key} = {value}", pools=pools)
    section, _, name = key.rpartition(".")
    assert problem.startswith("bgproxy.toml:1:")
    assert f": [{section}] {name}" in problem
    assert "; expected " in problem


def test_neither_file_nor_pools_says_what_to_do():
    for flags in (Flags(), Flags(blue=("a:1",))):
        with pytest.raises(ConfigError) as caught:
            load(None, flags=flags, env={})
        assert "expected a file or the addresses of both pools" in str(caught.value)
        for way in ("bgproxy demo", "--blue HOST:PORT --green HOST:PORT", "-c FILE"):
            assert way in caught.value.hint


def test_the_error_is_one_of_configuration(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.toml", env={})
    assert caught.value.exit_code == EXIT_CONFIG


def test_a_problem_of_a_variable_does_not_hide_that_there_are_no_pools():
    with pytest.raises(ConfigError) as caught:
        load(None, env={"BGPROXY_SERVER__LISTN": "x"})
    assert "BGPROXY_SERVER__LISTN" in str(caught.value)
    assert "[pools.blue] upstreams: there is no upstream" in str(caught.value)


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_secrets_are_not_in_the_text_of_a_configuration(tmp_path):
    config = load_text(
        tmp_path,
        f'[admin]\ntokens = [{{name = "ci", role = "read", sha256 = "{"ab" * 32}"}}]\n'
        '[health]\nheaders = {Authorization = "Bearer hunter2"}\n',
    )
    assert "abab" not in repr(config)
    assert "hunter2" not in repr(config)
    assert config.health.headers["Authorization"] == "Bearer hunter2"


# --- the annotated file and the manual --------------------------------------------------------------------------------


def test_the_annotated_file_holds_every_default():
    annotated = load(ANNOTATED, env={"HOME": "/home/op"})
    built_in = load(None, flags=TWO_POOLS, env={"HOME": "/home/op"})
    assert msgspec.structs.replace(annotated, source=Source()) == built_in


def test_the_annotated_file_names_every_key_and_no_other():
    tree = tomllib.loads(ANNOTATED.read_text())
    known = {path for path, _ in keys()}

    def paths(table: dict[str, object], at: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
        found = set()
        for name, value in table.items():
            path = (*at, name)
            found |= {path} if path in known or not isinstance(value, dict) else paths(value, path)
        return found

    assert paths(tree) == known


def test_the_manual_has_every_key_in_its_section():
    headings = MANUAL.read_text().split("\n## ")
    for path, _ in keys():
        section = "pools" if path[0] == "pools" else ".".join(map(str, path[:-1]))
        (text,) = [block for block in headings if block.startswith(HEADINGS.get(section, f"`[{section}]`"))]
        assert f"| `{path[-1]}` |" in text, f"{'.'.join(map(str, path))} is missing in {MANUAL.name}"


# --- anything may come ------------------------------------------------------------------------------------------------

NAMES = sorted({str(part) for path, _ in keys() for part in path})
ODD_TEXTS = ["auto", "all", "5s", "64KiB", "h:80", "${X}", "${file:/dev/null}", "${", "unix:/a", "[", "{"]
SCALARS = st.integers() | st.floats() | st.booleans() | st.text(max_size=12) | st.sampled_from(ODD_TEXTS)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=12,
)
SECTIONS = ["server", "pools", "upstream", "health", "switch", "state", "admin", "headers", "log", "version"]


def outcome(text: bytes, directory: Path, env: dict[str, str]) -> Config | ConfigError:
    file = directory / "any.toml"
    file.write_bytes(text)
    try:
        return load(file, env=env)
    except ConfigError as error:
        return error


def as_toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_toml(str(key))} = {as_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value if not "\ud800" <= c <= "\udfff") + '"'
    return {"True": "true", "False": "false"}.get(str(value), str(value))


@hypothesis.settings(deadline=None)  # the first tree with a certificate in it imports what reads certificates
@given(st.dictionaries(st.sampled_from(SECTIONS), TREES, max_size=4))
def test_any_tree_is_loaded_or_refused_in_words(tmp_path_factory, tree):
    text = "".join(f"{key} = {as_toml(value)}\n" for key, value in tree.items())
    tomllib.loads(text)
    outcome(text.encode(), tmp_path_factory.getbasetemp(), {"X": "5"})


@given(st.binary(max_size=60) | st.text(alphabet="[]{}=.,\"'#\n aserv1-", max_size=60).map(str.encode))
def test_any_bytes_are_loaded_or_refused_in_words(tmp_path_factory, data):
    assert isinstance(outcome(data, tmp_path_factory.getbasetemp(), {}), ConfigError)


@hypothesis.settings(deadline=None)
@given(st.sampled_from([path for path, _ in keys()]), st.text(max_size=20))
def test_any_variable_is_taken_or_refused_in_words(tmp_path_factory, path, text):
    name = "BGPROXY_" + "__".join(map(str, path)).upper()
    outcome(POOLS.encode(), tmp_path_factory.getbasetemp(), {name: text})


def test_reading_a_configuration_needs_neither_plane():
    heavy = ("aiohttp", "uvloop", "asyncio", "structlog")
    code = f"import sys, bgproxy.config; print([module for module in {heavy} if module in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
