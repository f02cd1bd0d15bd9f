from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from bgproxy.config import Config, Flags, load
from bgproxy.core.model import Address
from tests.support.configs import POOLS, TWO_POOLS, load_text, problems_of

SHA = "ab" * 32
TOKEN = f'{{name = "ci", role = "switch", sha256 = "{SHA}"}}'


def state_dir(**env: str) -> Path:
    return load(None, flags=TWO_POOLS, env=env).state.dir


# --- pools -----------------------------------------------------------------------------------------------------------


def test_upstreams_are_numbered_in_order_and_called_by_their_address(tmp_path):
    pools = """
[pools.blue]
upstreams = ["b:2", {address = "[::1]:1", weight = 3}, "unix:/run/a.sock"]
release = "v7 (abc)"
balance = "round-robin"
min_healthy = "all"
[pools.green]
upstreams = ["c:3"]
"""
    config = load_text(tmp_path, "", pools=pools)
    blue = config.pools.blue
    assert [(u.id, u.index, u.weight) for u in blue.upstreams] == [
        ("b:2", 0, 1),
        ("[::1]:1", 1, 3),
        ("unix:/run/a.sock", 2, 1),
    ]
    assert (blue.balance, blue.release, config.pools.version) == ("round-robin", "v7 (abc)", 1)
    assert config.min_healthy == (3, 1)


def test_a_pool_without_upstreams_is_refused(tmp_path):
    assert problems_of(tmp_path, "", pools='[pools.blue]\nupstreams = []\n[pools.green]\nrelease = "x"\n') == [
        "bgproxy.toml:3:1: [pools.blue] upstreams: is empty; expected 1 to 256 items",
        "bgproxy.toml:4:1: [pools.green] upstreams: there is no upstream; "
        'expected at least one address, like "127.0.0.1:9001"',
    ]


def test_a_pool_has_at_most_as_many_upstreams_as_the_health_board_has_rows(tmp_path):
    addresses = [f"h:{port}" for port in range(1, 258)]
    pools = f"[pools.blue]\nupstreams = {addresses}\n[pools.green]\nupstreams = {addresses[:256]}\n"
    assert problems_of(tmp_path, "", pools=pools) == [
        "bgproxy.toml:3:1: [pools.blue] upstreams: has 257 items; expected 1 to 256 items"
    ]


def test_an_upstream_that_is_named_twice_is_refused_in_any_spelling(tmp_path):
    pools = '[pools.blue]\nupstreams = ["[::1]:1", "a:1", "[0::1]:1"]\n[pools.green]\nupstreams = ["a:1"]\n'
    assert problems_of(tmp_path, "", pools=pools) == [
        "bgproxy.toml:3:32: [pools.blue] upstreams[2]: is the same as item 0; expected each only once"
    ]


def test_more_healthy_upstreams_than_there_are_cannot_be_asked_for(tmp_path):
    (problem,) = problems_of(tmp_path, "", pools=POOLS + "min_healthy = 2\n")
    assert problem.startswith(
        "bgproxy.toml:6:1: [pools.green] min_healthy: 2 healthy upstreams needed, but green has 1"
    )


def test_a_bad_upstream_is_the_only_complaint_about_its_pool(tmp_path):
    assert (
        len(problems_of(tmp_path, "", pools='[pools.blue]\nupstreams = ["x"]\n[pools.green]\nupstreams = ["y"]')) == 2
    )


def test_pools_that_are_no_table_are_complained_about_once(tmp_path):
    assert problems_of(tmp_path, "pools = 3", pools="") == [
        "bgproxy.toml:1:1: [pools]: is the number 3; expected a table"
    ]


def test_an_upstream_in_both_pools_is_worth_a_warning(tmp_path):
    shared = Flags(blue=("127.0.0.1:1",), green=("127.0.0.1:1", "127.0.0.1:2"))
    assert load(None, flags=shared, env={}).warnings == (
        "127.0.0.1:1 is an upstream of both pools: a switch does not take requests away from it",
    )
    assert load_text(tmp_path, "").warnings == ()


def test_requests_that_are_not_held_as_long_as_a_fence_are_worth_a_warning(tmp_path):
    (said,) = load_text(tmp_path, '[switch]\nfence_timeout = "20s"').warnings
    assert said.startswith("[switch] hold_timeout (10 s) is shorter than fence_timeout (20 s): ")
    assert load_text(tmp_path, '[switch]\nfence_timeout = "20s"\nhold_timeout = "20s"').warnings == ()


# --- paths -----------------------------------------------------------------------------------------------------------


def test_the_state_directory_is_where_the_system_wants_it():
    every = {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "XDG_STATE_HOME": "/xdg", "HOME": "/home/op"}
    assert state_dir(**every) == Path("/var/lib/a")
    assert state_dir(XDG_STATE_HOME="/xdg", HOME="/home/op") == Path("/xdg/bgproxy")
    assert state_dir(XDG_STATE_HOME="relative", HOME="/home/op") == Path("/home/op/.local/state/bgproxy")


def test_without_home_the_account_says_it_and_without_an_account_it_is_an_error(monkeypatch, tmp_path):
    account = pwd.struct_passwd(("op", "x", 1, 1, "", "/accounts/op", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: account)
    assert state_dir() == Path("/accounts/op/.local/state/bgproxy")

    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    problems = problems_of(tmp_path, '[admin]\nsocket = ""\n')
    assert problems == [
        'bgproxy.toml:1:1: [state] dir: "auto" finds no home directory; expected a directory, or HOME to be set'
    ]


def test_a_path_in_the_file_starts_at_its_directory_and_one_from_outside_where_the_operator_is(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    text = '[state]\ndir = "./state"\n[admin]\nsocket = "sock"\n[log]\naccess_file = "../access.log"\n'
    config = load_text(tmp_path, text)
    assert config.state.dir == tmp_path / "state"
    assert config.admin.socket == tmp_path / "sock"
    assert config.log.access_file == str(tmp_path.parent / "access.log")
    assert load_text(tmp_path, text, flags=Flags(state_dir="here")).state.dir == elsewhere / "here"
    assert load_text(tmp_path, text, env={"BGPROXY_STATE__DIR": "there"}).state.dir == elsewhere / "there"


def test_a_tilde_is_the_home_directory(tmp_path):
    assert load_text(tmp_path, '[state]\ndir = "~/s"', env={"HOME": "/home/op"}).state.dir == Path("/home/op/s")
    assert load_text(tmp_path, '[state]\ndir = "~"', env={"HOME": "/home/op"}).state.dir == Path("/home/op")


# --- admin -----------------------------------------------------------------------------------------------------------


def admin(tmp_path: Path, text: str) -> Config:
    return load_text(tmp_path, f"[admin]\n{text}\n")


def test_the_admin_socket_is_in_the_state_directory_unless_said_otherwise(tmp_path):
    assert load(None, flags=TWO_POOLS, env={"STATE_DIRECTORY": "/s"}).admin.socket == Path("/s/admin.sock")
    assert admin(tmp_path, 'socket = "unix:/run/b.sock"').admin.socket == Path("/run/b.sock")
    assert admin(tmp_path, 'socket = ""').admin.socket is None
    assert admin(tmp_path, 'listen = ""').admin.listen is None


def test_a_socket_path_that_the_kernel_cannot_hold_is_refused(tmp_path):
    (problem,) = problems_of(tmp_path, f'[state]\ndir = "/{"x" * 120}"')
    assert "[admin] socket" in problem
    assert "at most 107 bytes" in problem


def test_an_admin_api_that_nobody_can_reach_is_refused(tmp_path):
    (problem,) = problems_of(tmp_path, '[admin]\nlisten = ""\nsocket = ""\n')
    assert "nobody could switch" in problem


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1", "admin.example"])
def test_beyond_loopback_the_admin_api_needs_tokens(tmp_path, host):
    (problem,) = problems_of(tmp_path, f'[admin]\nlisten = "{host}:8081"\n')
    assert problem.startswith(f"bgproxy.toml:2:1: [admin] listen: '{host}:8081' can be reached from other machines")
    config = admin(tmp_path, f'listen = "{host}:8081"\ntokens = [{TOKEN}]')
    assert [(token.name, token.role, token.sha256) for token in config.admin.tokens] == [("ci", "switch", SHA)]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "[::1]"])
def test_on_loopback_it_does_not(tmp_path, host):
    assert admin(tmp_path, f'listen = "{host}:1"').admin.listen == Address(host=host.strip("[]"), port=1)


def test_admin_and_clients_cannot_share_an_address(tmp_path):
    (problem,) = problems_of(tmp_path, '[admin]\nlisten = "127.0.0.1:8080"')
    assert "is in [server] listen or [tls] listen too" in problem
    free = Flags(listen=("127.0.0.1:0",), admin="127.0.0.1:0")
    assert load_text(tmp_path, "", flags=free).admin.listen == Address(host="127.0.0.1")


def test_two_names_for_one_token_are_refused(tmp_path):
    other = TOKEN.replace("ci", "bob")
    (problem,) = problems_of(tmp_path, f"[admin]\ntokens = [{TOKEN}, {other}]")
    assert "'bob' has the same sha256 as 'ci'" in problem
    (problem,) = problems_of(tmp_path, f"[admin]\ntokens = [{TOKEN}, {TOKEN}]")
    assert "tokens[1]: is the same as item 0" in problem


def test_a_wrong_hash_is_refused_without_being_shown(tmp_path):
    (problem,) = problems_of(tmp_path, '[[admin.tokens]]\nname = "ci"\nrole = "switch"\nsha256 = "hunter2"\n')
    assert problem.startswith("bgproxy.toml:4:1: [admin] tokens[0].sha256: is not acceptable; expected 64")
    assert "hunter2" not in problem


def test_allowed_hosts_are_compared_in_lower_case(tmp_path):
    assert admin(tmp_path, 'allowed_hosts = ["Admin.Example", "admin.example", "[::1]"]').admin.allowed_hosts == (
        "admin.example",
        "[::1]",
    )
    assert "without a port" in problems_of(tmp_path, '[admin]\nallowed_hosts = ["a:80"]')[0]


# --- health ----------------------------------------------------------------------------------------------------------


def test_passive_health_reaches_the_workers(tmp_path):
    config = load_text(tmp_path, '[health]\npassive_failures = 0\npassive_eject = "1m"\n')
    upstream = config.worker_settings().upstream
    assert (upstream.passive_failures, upstream.passive_eject) == (0, 60.0)


def test_a_body_cannot_be_expected_of_head(tmp_path):
    (problem,) = problems_of(tmp_path, '[health]\nmethod = "HEAD"\nexpect_body = "ok"\n')
    assert problem == 'bgproxy.toml:3:1: [health] expect_body: an answer to HEAD has no body; expected method = "GET"'


# --- clients ----------------------------------------------------------------------------------------------------------


def test_a_proxy_header_is_believed_of_nobody_where_nobody_is_trusted(tmp_path):
    (problem,) = problems_of(tmp_path, "[server]\nproxy_protocol = true")
    assert problem.startswith("bgproxy.toml:2:1: [server] proxy_protocol: whoever connects could claim to be anybody; ")
    assert problem.endswith(
        'expected [server] trusted_proxies to name the networks of the proxies in front, like ["10.0.0.0/8"]'
    )


@pytest.mark.parametrize(
    ("listen", "trusted", "missing"),
    [("unix:/run/x.sock", "10.0.0.0/8", '"unix"'), ("127.0.0.1:80", "unix", "a network")],
)
def test_an_address_where_every_proxy_header_would_be_refused_is_an_error(tmp_path, listen, trusted, missing):
    text = f'[server]\nproxy_protocol = true\nlisten = ["{listen}"]\ntrusted_proxies = ["{trusted}"]'
    assert problems_of(tmp_path, text) == [
        f"bgproxy.toml:3:11: [server] listen[0]: '{listen}' with proxy_protocol could serve nobody; "
        f"expected [server] trusted_proxies to have {missing}"
    ]
    assert load_text(tmp_path, text.replace("= true", "= false")).server.listen


def test_a_problem_with_trusted_proxies_is_the_only_one_about_proxy_headers(tmp_path):
    (problem,) = problems_of(tmp_path, '[server]\nproxy_protocol = true\ntrusted_proxies = ["lan"]')
    assert "'lan' is not a network; expected a network in CIDR form" in problem


def test_proxy_headers_from_networks_and_unix_sockets_reach_the_workers(tmp_path):
    text = """[server]
proxy_protocol = true
listen = ["127.0.0.1:80", "unix:/run/x.sock"]
trusted_proxies = ["unix", "10.0.0.0/8"]"""
    settings = load_text(tmp_path, text).worker_settings()
    assert (settings.proxy_protocol, settings.trusted_proxies) == (True, ("unix", "10.0.0.0/8"))
