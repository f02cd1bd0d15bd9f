from __future__ import annotations

import pytest

from bgproxy.config import Flags, load, upstreams
from bgproxy.core.messages import MAX_LINE, Configure, encode
from bgproxy.core.settings import UpstreamTls, WorkerSettings
from tests.support.configs import load_text, problems_of
from tests.support.upstream_certificates import ca_pem, cert_pem, key_pem, leaf, write

OURS = leaf("client.example")


def pools(blue: str, green: str = '"https://b:1"') -> str:
    return f"[pools.blue]\nupstreams = [{blue}]\n[pools.green]\nupstreams = [{green}]\n"


OVER_TLS = pools('"https://a:1"')


def addresses(directory, blue: str, tls: str = "") -> list[tuple[str, str]]:
    config = load_text(directory, tls, pools=pools(blue))
    return [(upstream.id, upstream.address.server_name) for upstream in config.pools.blue.upstreams]


# --- addresses --------------------------------------------------------------------------------------------------------


def test_an_upstream_may_be_a_url(tmp_path):
    blue = '"https://app.internal:8443", "https://10.0.0.5", "http://plain:81/", "http://plain", "HTTPS://[::1]:1/"'
    assert addresses(tmp_path, blue) == [
        ("https://app.internal:8443", "app.internal"),
        ("https://10.0.0.5:443", "10.0.0.5"),
        ("plain:81", ""),
        ("plain:80", ""),
        ("https://[::1]:1", "::1"),
    ]


def test_one_place_is_one_upstream_however_it_is_spelt(tmp_path):
    (problem,) = problems_of(tmp_path, "", pools=pools('"http://a:1", "https://A:1/"'))
    assert "[pools.blue] upstreams[1]: is the same as item 0" in problem
    assert load_text(tmp_path, "", pools=pools('"https://a:1"', '"https://a:1"')).warnings == (
        "https://a:1 is an upstream of both pools: a switch does not take requests away from it",
    )


def test_the_flags_and_the_environment_take_urls(tmp_path):
    flags = Flags(blue=("https://a:1", "b:2"), green=("https://c",))
    config = load(None, flags=flags, env={"HOME": str(tmp_path)})
    assert [u.id for u in config.pools.blue.upstreams] == ["https://a:1", "b:2"]
    assert [u.id for u in config.pools.green.upstreams] == ["https://c:443"]
    env = {"HOME": str(tmp_path), "BGPROXY_POOLS__BLUE__UPSTREAMS": "https://d:4,e:5"}
    config = load(None, flags=Flags(blue=(), green=("https://c",)), env=env)
    assert [u.id for u in config.pools.blue.upstreams] == ["https://d:4", "e:5"]


def test_the_server_name_is_the_entrys_or_the_sections_or_the_host(tmp_path):
    blue = '"https://a:1", {address = "https://b:1", server_name = "own.example."}, "plain:1"'
    assert addresses(tmp_path, blue) == [("https://a:1", "a"), ("https://b:1", "own.example"), ("plain:1", "")]
    assert addresses(tmp_path, blue, '[upstream.tls]\nserver_name = "app.internal"') == [
        ("https://a:1", "app.internal"),
        ("https://b:1", "own.example"),
        ("plain:1", ""),
    ]


@pytest.mark.parametrize(
    ("blue", "complaint"),
    [
        (
            '"https://a:1/app"',
            "a path cannot be part of an upstream, every request brings its own target; expec",
        ),
        ('"https://a:1?x"', "a query cannot be part of an upstream"),
        ('"http://u@a:1"', "a user name cannot be part of an upstream"),
        ('"https://"', "the port is missing"),
        ('"ftp://a:1"', "ftp:// is not supported here"),
        ('"https://a:99999"', "the port must be between 1 and 65535"),
        ('"https://a..b:1"', "cannot be the name of a TLS server; expected labels of 1 to 63 characters"),
        (f'"https://{"x" * 64}.example:1"', "cannot be the name of a TLS server"),
        ('"https://.:1"', "'.' is not an IPv4 address"),
        ('"https://256.1.1.1:1"', "is not an IPv4 address"),
        ('{address = "a:1", server_name = "b"}', "'a:1' has a server_name, but no TLS; expected 'https://a:1'"),
        ('{address = "https://a:1", server_name = "b:1"}', "is not a"),
        ('{address = "https://a:1", server_name = "."}', "is not a host name or address"),
    ],
)
def test_what_is_no_upstream_is_refused_where_it_stands(tmp_path, blue, complaint):
    (problem,) = problems_of(tmp_path, "", pools=pools(blue))
    assert problem.startswith("bgproxy.toml:3:")
    assert "[pools.blue] upstreams[0]" in problem
    assert complaint in problem


def test_only_upstreams_may_be_https(tmp_path):
    (problem,) = problems_of(tmp_path, '[server]\nlisten = ["https://127.0.0.1:1"]')
    assert "https:// is not supported here" in problem


# --- files ------------------------------------------------------------------------------------------------------------


def section(**keys: str) -> str:
    return "[upstream.tls]\n" + "".join(f'{key} = "{value}"\n' for key, value in keys.items())


def test_files_are_read_once_and_go_to_the_workers_as_bytes(tmp_path):
    write(tmp_path, ca=ca_pem(), cert=cert_pem(OURS), key=key_pem(OURS))
    config = load_text(tmp_path, section(ca="ca.pem", cert="cert.pem", key=str(tmp_path / "key.pem")), pools=OVER_TLS)
    expected = UpstreamTls(ca=ca_pem(), cert=cert_pem(OURS), key=key_pem(OURS))
    assert config.upstream_tls == config.worker_settings().upstream_tls == expected
    assert key_pem(OURS).decode().splitlines()[1] not in repr(config)
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("keys", "line", "complaint"),
    [
        ({"ca": "gone.pem"}, 2, "[upstream.tls] ca: '{dir}/gone.pem': there is no such file; expected a PEM file"),
        ({"ca": "."}, 2, "this is a directory"),
        ({"ca": "key.pem"}, 2, "[upstream.tls] ca: '{dir}/key.pem': the file holds no certificate"),
        ({"ca": "ca.pem", "cert": "cert.pem"}, 3, "[upstream.tls] cert: '{dir}/cert.pem': the file holds no private"),
        ({"cert": "cert.pem", "key": "wrong.pem"}, 3, "[upstream.tls] key: '{dir}/wrong.pem': the private key is not"),
        ({"key": "key.pem"}, 1, "[upstream.tls] cert: there is a key, but no certificate"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named_with_its_key(tmp_path, keys, line, complaint):
    write(tmp_path, ca=ca_pem(), cert=cert_pem(OURS), key=key_pem(OURS), wrong=key_pem(leaf("other.example")))
    (problem,) = problems_of(tmp_path, section(**keys), pools=OVER_TLS)
    assert problem.startswith(f"bgproxy.toml:{line}:")
    assert complaint.replace("{dir}/", "") in problem


def test_a_system_that_trusts_nobody_is_found_before_the_first_request(tmp_path, monkeypatch):
    monkeypatch.setattr(upstreams, "system_store_is_empty", lambda: True)
    (problem,) = problems_of(tmp_path, "", pools=OVER_TLS)
    assert "[upstream.tls] ca: this system trusts nobody" in problem
    assert "ca-certificates" in problem
    load_text(tmp_path, "[upstream.tls]\nverify = false", pools=OVER_TLS)
    write(tmp_path, ca=ca_pem())
    load_text(tmp_path, section(ca="ca.pem"), pools=OVER_TLS)
    load_text(tmp_path, "")


def test_the_largest_files_fit_into_the_message_that_takes_them_to_a_worker(tmp_path):
    most = bytes(upstreams.MAX_FILE)
    settings = WorkerSettings(upstream_tls=UpstreamTls(ca=most, cert=most, key=most))
    table = load_text(tmp_path, "").pools
    assert len(encode(Configure(settings, table))) < MAX_LINE - 1024 * 1024
    (tmp_path / "ca.pem").write_bytes(most + b"x")
    (problem,) = problems_of(tmp_path, section(ca="ca.pem"), pools=OVER_TLS)
    assert "the file is larger than 524288 bytes" in problem


# --- warnings ---------------------------------------------------------------------------------------------------------


def test_what_is_not_verified_is_said_at_every_start(tmp_path):
    one = load_text(tmp_path, "[upstream.tls]\nverify = false", pools=pools('"https://a:1"', '"b:1"')).warnings
    assert one == (
        "[upstream.tls] verify is false: whoever is in between can read and change what goes to https://a:1",
    )
    (two,) = load_text(tmp_path, "[upstream.tls]\nverify = false", pools=OVER_TLS).warnings
    assert two.endswith("https://a:1 and 1 more")


def test_a_section_that_nobody_uses_is_said(tmp_path):
    assert load_text(tmp_path, "[upstream.tls]\nverify = false").warnings == (
        "[upstream.tls] is for nobody: no upstream is written https://host:port",
    )
    assert load_text(tmp_path, "").warnings == ()
