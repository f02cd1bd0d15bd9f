from __future__ import annotations

import pytest

from bgproxy.core.model import BLUE, Address, Pool, PoolTable, Upstream, parse_upstream
from bgproxy.core.pools import added, identity, successor, with_drained


def pool(*ports: int, **more: object) -> Pool:
    return Pool(tuple(Upstream(str(port), 0, Address("127.0.0.1", port)) for port in ports), **more)


def table(*ports: int) -> PoolTable:
    return successor(PoolTable(0, Pool(()), Pool(())), (pool(*ports), pool(9)), rows=8)


def rows(of: PoolTable) -> dict[str, int]:
    return {upstream.id: upstream.index for upstream in of.pool(BLUE).upstreams}


def test_who_stays_keeps_its_row_and_who_comes_gets_a_free_one():
    first = table(1, 2, 3)
    assert (first.version, rows(first)) == (1, {"1": 0, "2": 1, "3": 2})
    second = successor(first, (pool(4, 3, 1), first.green), rows=8)
    assert (second.version, rows(second)) == (2, {"4": 3, "3": 2, "1": 0}), "row 1 is still that of 2 for some worker"
    third = successor(second, (pool(5, 4, 3, 1), first.green), rows=8)
    assert rows(third) == {"5": 1, "4": 3, "3": 2, "1": 0}, "nobody has the first table any more"


def test_held_rows_are_given_to_nobody():
    first = table(1)
    assert rows(successor(first, (pool(1, 2), first.green), rows=8, held=({1, 2}, ()))) == {"1": 0, "2": 3}


def test_the_same_address_under_another_server_name_is_another_upstream():
    plain = Upstream("https://a:1", 0, parse_upstream("https://a:1"))
    other = Upstream("https://a:1", 0, Address("a", 1, server_name="b"))
    assert identity(plain) != identity(other)
    first = successor(PoolTable(0, Pool(()), Pool(())), (Pool((plain,)), Pool(())), rows=8)
    assert rows(successor(first, (Pool((other,)), Pool(())), rows=8)) == {"https://a:1": 1}


def test_more_than_there_are_rows_is_refused_in_words():
    first = table(1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match=r"blue: .* more than 8 together"):
        successor(first, (pool(6, 7, 8, 10), first.green), rows=8)
    assert successor(first, (pool(1, 2, 6, 7, 8), first.green), rows=8).version == 2


def test_the_other_facts_of_a_pool_go_along():
    made = successor(table(1), (pool(1, balance="round-robin", release="2"), pool(9)), rows=8)
    assert (made.blue.balance, made.blue.release) == ("round-robin", "2")


def test_exactly_those_that_are_named_are_drained():
    once = with_drained(pool(1, 2, 3), ["1", "2", "unknown"])
    assert [upstream.drained for upstream in with_drained(once, ["2"]).upstreams] == [False, True, False]


def test_who_came_and_who_is_gone():
    assert added(pool(1, 2), pool(2, 3, 4)) == ["3", "4"]
    assert added(pool(2, 3, 4), pool(1, 2)) == ["1"]
