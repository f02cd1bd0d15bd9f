from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bgproxy.core.model import BLUE, GREEN
from bgproxy.shm.live_pointer import HOLD_MASK, MAX_EPOCH, Hold, Live, LivePointer, pack, unpack
from bgproxy.shm.segment import Segment

ROOT = Path(__file__).resolve().parents[2]


def pointer() -> LivePointer:
    return LivePointer(memoryview(bytearray(8)).cast("Q"))


@pytest.mark.parametrize("epoch", [0, 1, 2**31, 2**32 - 1, 2**32, MAX_EPOCH])
@pytest.mark.parametrize("colour", [BLUE, GREEN])
@pytest.mark.parametrize("hold", Hold)
def test_the_word_holds_epoch_hold_and_colour_side_by_side(epoch, colour, hold):
    word = pack(epoch, colour, hold)
    assert 0 <= word < 2**64
    assert unpack(word) == Live(epoch, colour, hold)
    assert word & 1 == colour
    assert bool(word & HOLD_MASK) == (hold is not Hold.OPEN)


@pytest.mark.parametrize("epoch", [-1, MAX_EPOCH + 1])
def test_an_epoch_that_does_not_fit_is_refused(epoch):
    with pytest.raises(ValueError, match=str(epoch)):
        pack(epoch, BLUE)


def test_what_was_stored_is_loaded_and_seen_in_the_cell():
    live = pointer()
    assert live.load() == Live(0, BLUE)
    live.store(7, GREEN)
    assert live.load() == Live(7, GREEN)
    assert live.cells[0] == 7 << 3 | 1


def test_epochs_only_go_forward():
    live = pointer()
    live.store(7, GREEN)
    with pytest.raises(ValueError, match="epoch 6 is behind the live epoch 7"):
        live.store(6, BLUE)
    assert live.load() == Live(7, GREEN)


def test_a_hold_comes_and_goes_without_another_epoch():
    live = pointer()
    live.store(7, GREEN)
    live.store(7, GREEN, Hold.ALL)
    assert live.load() == Live(7, GREEN, Hold.ALL)
    live.store(7, GREEN)
    assert live.load() == Live(7, GREEN)


def test_an_epoch_never_gets_another_colour():
    live = pointer()
    live.store(7, GREEN)
    with pytest.raises(ValueError, match="epoch 7 is that of green and cannot become that of blue"):
        live.store(7, BLUE)
    assert live.load() == Live(7, GREEN)


def test_before_the_first_switch_either_colour_may_be_live():
    live = pointer()
    live.store(0, GREEN)
    assert live.load() == Live(0, GREEN)


def test_a_released_pointer_holds_its_memory_no_longer():
    live = pointer()
    live.release()
    with pytest.raises(ValueError, match="released"):
        live.load()


# --- the torture -----------------------------------------------------------------------------------------------------

# The lower 60 bits of such an epoch are two equal halves, so a word made of halves of two of them would be found out.
TWIN_HALVES = "epoch >> 30 == epoch & 0x3FFF_FFFF and colour == epoch & 1"
READER = f"""
import json, sys
from bgproxy.shm.segment import Segment

segment = Segment.attach(int(sys.argv[1]))
cells, ready, stop = segment.live.cells, segment.slots[int(sys.argv[2])].cells, segment.slots[0].cells
reads = changes = torn = backward = last = 0
ready[0] = 1
while not stop[1]:
    for _ in range(1000):
        word = cells[0]
        if word != last:
            epoch, colour = word >> 3, word & 1
            torn += not ({TWIN_HALVES})
            backward += word < last
            changes += 1
            last = word
    reads += 1000
print(json.dumps([reads, changes, torn, backward]))
"""
WRITER = """
import sys
from bgproxy.core.model import Colour
from bgproxy.shm.segment import Segment

segment = Segment.attach(int(sys.argv[1]))
stop, half = segment.slots[0].cells, 0
while not stop[1]:
    for _ in range(1000):
        half += 1
        segment.live.store(half << 30 | half, Colour(half & 1))
"""


def started(code: str, segment: Segment, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", code, str(segment.fd), *map(str, arguments)]
    return subprocess.Popen(command, pass_fds=[segment.fd], stdout=subprocess.PIPE, cwd=ROOT)


def test_no_reader_in_another_process_ever_sees_a_torn_word_or_an_epoch_go_back():
    readers = 2
    segment = Segment.create(readers)
    processes = [started(READER, segment, number) for number in range(readers)]
    try:
        deadline = time.monotonic() + 60
        while not all(slot.cells[0] for slot in segment.slots):
            assert time.monotonic() < deadline, "the readers do not start"
            assert all(process.poll() is None for process in processes), "a reader died"
            time.sleep(0.01)
        processes.append(started(WRITER, segment))
        while segment.live.load().epoch & 0x3FFF_FFFF < 200_000:
            assert time.monotonic() < deadline, "the writer does not write"
            time.sleep(0.01)
        segment.slots[0].cells[1] = 1
        reports = [json.loads(process.communicate(timeout=60)[0]) for process in processes[:readers]]
    finally:
        segment.slots[0].cells[1] = 1
        for process in processes:
            process.kill()
            process.communicate()
        segment.close()
    for reads, changes, torn, backward in reports:
        assert reads >= 1000
        assert changes >= 100
        assert torn == 0
        assert backward == 0
