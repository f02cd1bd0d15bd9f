from __future__ import annotations

import asyncio

from bgproxy.controlplane.bell import Bell


async def test_what_is_so_already_is_not_waited_for():
    assert await Bell().until(lambda: True, 0.0)


async def test_every_ring_makes_everybody_look_again():
    bell, seen = Bell(), []
    waiting = [asyncio.ensure_future(bell.until(lambda n=n: n in seen, 10.0)) for n in (1, 2)]
    for n in (1, 2):
        await asyncio.sleep(0)  # a turn of the loop, in which whoever was woken looks
        seen.append(n)
        bell.ring()
        bell.ring()
    assert await asyncio.gather(*waiting) == [True, True]


async def test_what_does_not_come_in_time_is_false_and_leaves_nobody_waiting():
    bell = Bell()
    assert not await bell.until(lambda: False, 0.01)
    bell.ring()
