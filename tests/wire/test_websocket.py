from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode

from bgproxy.wire.websocket import Frames, close_frame

TEXT, MORE, BINARY, PING, CLOSE = Opcode.TEXT, Opcode.CONT, Opcode.BINARY, Opcode.PING, Opcode.CLOSE


def frame(opcode: Opcode, size: int = 3, *, fin: bool = True, mask: bool = False) -> bytes:
    return Frame(opcode, b"x" * size, fin).serialize(mask=mask)


def test_the_close_frame_is_what_a_websocket_library_writes():
    close = Close(1012, "the service moved to another version").serialize()
    assert close_frame(1012, b"the service moved to another version") == Frame(CLOSE, close).serialize(mask=False)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 70000])
def test_a_frame_of_any_size_ends_with_its_last_byte(size, mask):
    data = frame(BINARY, size, mask=mask)
    frames = Frames()
    frames.feed(data[:-1])
    assert not frames.is_between_frames
    frames.feed(data[-1:])
    assert frames.is_between_frames
    assert frames.is_between_messages


def test_a_message_in_fragments_ends_with_the_last_of_them():
    frames = Frames()
    said = []
    for data in (frame(TEXT, fin=False), frame(PING), frame(MORE, fin=False), frame(MORE), frame(PING, 0)):
        frames.feed(data)
        assert frames.is_between_frames
        said.append(frames.is_between_messages)
    assert said == [False, False, False, True, True]


def test_the_end_of_a_message_is_found_and_not_what_is_behind_it():
    first, second = frame(TEXT, fin=False) + frame(PING) + frame(MORE), frame(BINARY, 300)
    frames = Frames()
    assert frames.feed_to_end_of_message(first[:6]) == -1
    assert frames.feed_to_end_of_message(first[6:] + second) == len(first) - 6
    assert frames.is_between_messages
    assert frames.feed_to_end_of_message(second[:-1]) == -1
    assert not frames.is_between_messages
    assert frames.feed_to_end_of_message(b"") == -1


def test_it_knows_that_the_sender_has_said_goodbye():
    frames = Frames()
    frames.feed(frame(TEXT) + frame(PING))
    assert not frames.has_closed
    frames.feed(Frame(CLOSE, b"\x03\xe8").serialize(mask=False) + frame(PING))
    assert frames.has_closed


DATA = st.tuples(
    st.sampled_from([TEXT, BINARY, MORE]),
    st.integers(0, 140) | st.sampled_from([65535, 65536]),
    st.booleans(),
    st.booleans(),
)
CONTROL = st.tuples(st.sampled_from([PING, CLOSE]), st.integers(0, 125), st.just(True), st.booleans())
FRAMES = st.lists(DATA | CONTROL, max_size=8)


@given(FRAMES, st.data())
def test_the_boundaries_are_the_same_however_the_bytes_are_cut(kinds, data):
    whole = [Frame(opcode, b"y" * size, fin).serialize(mask=mask) for opcode, size, fin, mask in kinds]
    stream, ends, at, open_ = b"".join(whole), {0: True}, 0, False
    for (opcode, _, fin, _), encoded in zip(kinds, whole, strict=True):
        at += len(encoded)
        open_ = open_ if opcode in (PING, CLOSE) else not fin
        ends[at] = not open_
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)) | st.sampled_from(sorted(ends)), max_size=8)))
    frames, fed = Frames(), 0
    for cut in [*cuts, len(stream)]:
        frames.feed(stream[fed:cut])
        fed = cut
        assert frames.is_between_frames == (cut in ends)
        assert frames.is_between_messages == ends.get(cut, False)
    assert frames.has_closed == any(opcode is CLOSE for opcode, *_ in kinds)


@given(FRAMES, st.data())
def test_a_close_is_only_ever_put_where_a_message_has_ended(kinds, data):
    whole = [Frame(opcode, b"z" * size, fin).serialize(mask=mask) for opcode, size, fin, mask in kinds]
    stream, at, open_, good = b"".join(whole), 0, False, []
    for (opcode, _, fin, _), encoded in zip(kinds, whole, strict=True):
        at += len(encoded)
        open_ = open_ if opcode in (PING, CLOSE) else not fin
        if not open_:
            good.append(at)
    asked = data.draw(st.integers(0, len(stream)))
    second = data.draw(st.integers(asked, len(stream)))
    frames = Frames()
    frames.feed(stream[:asked])
    if frames.is_between_messages:
        return
    first = frames.feed_to_end_of_message(stream[asked:second])
    if first >= 0:
        ended = asked + first
    else:
        rest = frames.feed_to_end_of_message(stream[second:])
        ended = second + rest if rest >= 0 else -1
    assert ended == next((place for place in good if place > asked), -1)
