from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bgproxy.config import Config, load
from bgproxy.config.changes import differences, effective

POOLS = '[pools.blue]\nupstreams = ["127.0.0.1:1"]\n[pools.green]\nupstreams = ["127.0.0.1:2"]\n'
TOKEN = '[[admin.tokens]]\nname = "ci"\nrole = "{}"\nsha256 = "{}"\n'


@pytest.fixture
def made(tmp_path: Path) -> Any:
    def make(text: str = "", pools: str = POOLS) -> Config:
        file = tmp_path / "bgproxy.toml"
        file.write_text(text + pools)
        return load(file, env={"BGPROXY_STATE__DIR": str(tmp_path), "HOME": str(tmp_path)})

    return make


def said(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    return {each.key: (each.old, each.new) for each in differences(old, new)}


def test_nothing_differs_where_nothing_differs(made):
    assert differences(made(), made()) == ()


def test_what_differs_is_named_by_its_key(made):
    new = made(
        '[server.timeouts]\nheader = "5s"\n[health]\nexpect_status = ["200-204"]\n[switch]\ninitial = "green"\n',
        '[pools.blue]\nupstreams = ["127.0.0.1:1", {address = "127.0.0.1:3", weight = 2}]\nmin_healthy = "all"\n'
        '[pools.green]\nupstreams = ["https://a:1"]\nrelease = "2"\n'
        '[upstream.tls]\nserver_name = "b"\nverify = false\n',
    )
    assert said(made(), new) == {
        "server.timeouts.header": (10.0, 5.0),
        "health.expect_status": ([[200, 299]], [[200, 204]]),
        "switch.initial": ("blue", "green"),
        "pools.blue.upstreams": (["127.0.0.1:1"], ["127.0.0.1:1", "127.0.0.1:3 weight 2"]),
        "pools.blue.min_healthy": (1, "all"),
        "pools.green.upstreams": (["127.0.0.1:2"], ["https://a:1"]),
        "pools.green.release": ("", "2"),
        "upstream.tls.verify": (True, False),
        "upstream.tls.server_name": ("", "b"),
    }


def test_secrets_are_not_said(made):
    old = made('[health]\nheaders = {Authorization = "secret-1"}\n', POOLS + TOKEN.format("read", "a" * 64))
    new = made('[health]\nheaders = {Authorization = "secret-2"}\n', POOLS + TOKEN.format("read", "b" * 64))
    assert said(old, new) == {
        "health.headers": ({"Authorization": "***"}, "changed"),
        "admin.tokens": (["ci (read)"], "changed"),
    }


def test_pages_are_told_by_name(made, tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "503.html").write_text("one")
    text = f'[server]\nerror_pages = "{pages}"\n'
    old = made(text)
    (pages / "503.html").write_text("two")
    assert said(old, made(text)) == {"server.error_pages (files)": (["503.html"], "changed")}
    assert said(made(), made(text))["server.error_pages (files)"] == ([], ["503.html"])


def test_what_only_a_restart_can_change_stays_as_it_is_and_the_rest_does_not(made):
    running = made()
    wanted = made('[server]\nlisten = ["127.0.0.1:9"]\nworkers = 7\n[server.limits]\npipeline = 3\n')
    now = effective(running, wanted)
    assert set(said(running, now)) == {"server.limits.pipeline"}
    assert set(said(now, wanted)) == {"server.listen", "server.workers"}
    assert effective(now, wanted) == now, "asked again, the same waits"


def test_the_header_of_proxies_and_who_may_send_it_go_together(made):
    required = made('[server]\nproxy_protocol = true\ntrusted_proxies = ["10.0.0.0/8"]\n')
    assert effective(required, made()).server.trusted_proxies == ("10.0.0.0/8",), "or nobody could connect"
    other = made('[server]\nproxy_protocol = true\ntrusted_proxies = ["10.1.0.0/16"]\n')
    assert effective(required, other).server.trusted_proxies == ("10.1.0.0/16",)


def test_the_last_token_is_not_taken_away_while_the_network_may_still_listen(made):
    open_to_all = made('[admin]\nlisten = "0.0.0.0:8081"\n', POOLS + TOKEN.format("admin", "a" * 64))
    local = made()
    now = effective(open_to_all, local)
    assert len(now.admin.tokens) == 1, "it still listens on every interface"
    assert {"admin.listen", "admin.tokens"} <= set(said(now, local))
    revoked = made('[admin]\nlisten = "127.0.0.1:9"\n', POOLS + TOKEN.format("read", "b" * 64))
    assert [token.role for token in effective(open_to_all, revoked).admin.tokens] == ["read"]


def test_where_tls_comes_or_goes_all_of_it_waits(made, tmp_path):
    from tests.support.certificates import issue, write_pair

    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_pair(issue("a.example"), cert, key)
    tls = f'[tls]\nlisten = ["{{}}"]\nhsts = "{{}}"\ncertificates = [{{{{cert = "{cert}", key = "{key}"}}}}]\n'
    with_tls = made(tls.format("127.0.0.1:8443", "1d"))
    assert effective(made(), with_tls).tls == made().tls
    assert effective(with_tls, made()).tls == with_tls.tls
    moved = made(tls.format("127.0.0.1:9443", "2d"))
    now = effective(with_tls, moved)
    assert (str(now.tls.listen[0]), now.tls.hsts) == ("127.0.0.1:8443", 2 * 86400.0)
