from __future__ import annotations

import pytest

from bgproxy.config.run_time import read_pool
from bgproxy.errors import ConfigError


def test_upstreams_are_written_as_in_the_file():
    made = read_pool(
        ["127.0.0.1:9001", {"address": "https://a.example", "weight": 3, "server_name": "b.example"}, "https://c:1"],
        "2.1",
        balance="round-robin",
        server_name="common.example",
    )
    assert [(each.id, each.weight, each.address.server_name) for each in made.upstreams] == [
        ("127.0.0.1:9001", 1, ""),
        ("https://a.example:443", 3, "b.example"),
        ("https://c:1", 1, "common.example"),
    ]
    assert (made.release, made.balance) == ("2.1", "round-robin")


@pytest.mark.parametrize(
    ("upstreams", "release", "said"),
    [
        ([], "", "upstreams: is empty; expected 1 to 256 items"),
        ("127.0.0.1:1", "", "upstreams: is the text '127.0.0.1:1'; expected a list"),
        (["127.0.0.1:1", "127.0.0.1:1"], "", "upstreams[1]: is the same as item 0"),
        (["nonsense"], "", "upstreams[0]: 'nonsense': the port is missing"),
        ([{"address": "127.0.0.1:1", "wieght": 2}], "", "upstreams[0].wieght: unknown key; did you mean 'weight'?"),
        ([{"address": "127.0.0.1:1", "server_name": "a"}], "", "has a server_name, but no TLS"),
        (["127.0.0.1:1"], "a\nb", "release: is the text"),
    ],
)
def test_what_is_wrong_is_said_as_it_is_about_the_file(upstreams, release, said):
    with pytest.raises(ConfigError) as wrong:
        read_pool(upstreams, release, balance="round-robin", server_name="")
    assert said in wrong.value.detail


def test_everything_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError) as wrong:
        read_pool(["nonsense", {"weight": 1}], "a\nb", balance="round-robin", server_name="")
    assert len(wrong.value.detail.splitlines()) == 3
