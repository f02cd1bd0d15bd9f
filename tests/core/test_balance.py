from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from bgproxy.core.balance import BALANCERS, least_requests, round_robin


@dataclass(eq=False)
class Server:
    name: str
    weight: int = 1
    in_flight: int = 0


def servers(*weights: int) -> list[Server]:
    return [Server("abcdefgh"[i], weight) for i, weight in enumerate(weights)]


def picked(pick, candidates: list[Server], times: int) -> str:
    return "".join(pick(candidates).name for _ in range(times))


@pytest.mark.parametrize("balancer", BALANCERS.values(), ids=BALANCERS)
def test_a_single_candidate_takes_everything(balancer):
    assert picked(balancer(), servers(1), 3) == "aaa"


@pytest.mark.parametrize("balancer", BALANCERS.values(), ids=BALANCERS)
def test_equals_share_a_trickle_of_requests_evenly(balancer):
    assert set(Counter(picked(balancer(), servers(1, 1, 1), 30)).values()) == {10}


@pytest.mark.parametrize("balancer", BALANCERS.values(), ids=BALANCERS)
def test_candidates_may_come_and_go(balancer):
    pick, three = balancer(), servers(1, 1, 1)
    for candidates in (three, three, three[:1], three[1:], three, three[:2], three):
        assert pick(candidates) in candidates


# --- least requests ---------------------------------------------------------------------------------------------------


def test_the_least_busy_takes_the_next_request_whoevers_turn_it_is():
    pick, three = least_requests(), servers(1, 1, 1)
    three[0].in_flight, three[1].in_flight, three[2].in_flight = 5, 2, 4
    assert picked(pick, three, 6) == "bbbbbb"


def test_twice_the_weight_carries_twice_the_load():
    pick, both = least_requests(), servers(2, 1)
    for _ in range(300):
        pick(both).in_flight += 1
    assert [server.in_flight for server in both] == [200, 100]


def test_load_is_compared_with_the_request_that_is_to_come():
    pick, both = least_requests(), servers(3, 1)
    both[0].in_flight = 1  # (1 + 1) / 3 is less than (0 + 1) / 1
    assert picked(pick, both, 4) == "aaaa"


def test_a_server_that_comes_back_empty_takes_requests_until_it_is_even():
    pick, both = least_requests(), servers(1, 1)
    both[0].in_flight = 3
    for _ in range(5):
        pick(both).in_flight += 1
    assert [server.in_flight for server in both] == [4, 4]


# --- round robin ------------------------------------------------------------------------------------------------------


def test_every_candidate_has_its_turn_whatever_its_load():
    both = servers(1, 1)
    both[0].in_flight = 100
    assert picked(round_robin(), both, 6) == "ababab"


def test_weights_are_turns_per_round_and_are_spread():
    assert picked(round_robin(), servers(5, 1, 1), 14) == "aabacaa" * 2


def test_two_pools_take_their_turns_independently():
    first, second, both = round_robin(), round_robin(), servers(1, 1)
    assert picked(first, both, 1) + picked(second, both, 1) + picked(first, both, 1) == "aab"
