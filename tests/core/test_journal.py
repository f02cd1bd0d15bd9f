from __future__ import annotations

from binascii import crc32

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgproxy.core.journal import (
    Answer,
    Broken,
    Decided,
    GateSet,
    Intent,
    LastSwitch,
    Link,
    Outcome,
    PoolsSet,
    Snapshot,
    State,
    read,
    seal,
    unsealed,
)
from bgproxy.core.model import BLUE, GREEN

BEGIN = Snapshot(at="t0", format=2, state=State(epoch=7, live="blue", previous="green"))
INTENT = Intent(at="t1", epoch=8, from_="blue", to="green", kind="switch", by="ci", reason="1.2 → 1.3\r\n")
RECORDS = [
    BEGIN,
    INTENT,
    Decided(at="t2", epoch=8),
    Outcome(at="t3", epoch=8, result="acknowledged", acked_s=0.0004, late=True),
    Answer(at="t4", key="k", request_hash="h", status=200, document={"epoch": 8}, until="t9"),
    GateSet(at="t5", maintenance=True, by="ops"),
    PoolsSet(at="t6", document={"blue": ["127.0.0.1:9001"]}),
]


def lines(*records, after: Link | None = None) -> list[bytes]:
    after = after or Link()
    made = []
    for record in records:
        line, after = seal(record, after)
        made.append(line)
    return made


def resealed(line: bytes, **members: object) -> bytes:
    """The line with these members, "absent" for none; its checksum is right for them."""
    document = {key: value for key, value in (msgspec.json.decode(line[9:]) | members).items() if value != "absent"}
    body = msgspec.json.encode(document, order="sorted")
    return b"%08x %s\n" % (crc32(body), body)


def plain(record):
    return msgspec.structs.replace(record, seq=0, prev="")


def test_a_state_names_its_colours():
    assert (BEGIN.state.live_colour, BEGIN.state.previous_colour) == (BLUE, GREEN)
    assert State(epoch=0, live="green").previous_colour is None


def test_what_was_written_is_read_and_numbered_and_chained():
    data = b"".join(lines(*RECORDS))
    found = read(data)
    assert [plain(record) for record in found.records] == RECORDS
    assert [record.seq for record in found.records] == list(range(1, len(RECORDS) + 1))
    assert (found.end, found.torn, found.link.seq) == (len(data), b"", len(RECORDS))
    assert read(data + lines(GateSet(maintenance=False), after=found.link)[0]).link.seq == len(RECORDS) + 1


def test_a_line_is_a_checksum_and_one_object_with_sorted_keys():
    (line,) = lines(INTENT)
    checksum, _, body = line.partition(b" ")
    assert checksum == b"%08x" % crc32(body[:-1])
    document = msgspec.json.decode(body)
    assert list(document) == sorted(document)
    assert document["prev"] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "SHA-256 of nothing"
    assert "forced" not in document, "what is as it always is, is not written"
    assert b"\n" not in body[:-1]


def test_a_second_file_carries_the_chain_of_the_first_on():
    first = read(b"".join(lines(BEGIN, INTENT)))
    second = b"".join(lines(BEGIN, after=first.link))
    assert read(second, first.link).records[0].seq == 3
    assert read(second).link.seq == 3, "alone it is good, too"
    with pytest.raises(Broken, match="it is record 3, and record 10 was to follow"):
        read(second, Link(9, first.link.digest))
    with pytest.raises(Broken, match=r"it \(record 3\) does not follow from the record before it"):
        read(second, Link(2, "0" * 64))


def test_every_beginning_of_a_file_ends_at_a_line_or_in_a_torn_tail():
    parts = lines(*RECORDS)
    data = b"".join(parts)
    ends = {len(b"".join(parts[:count])): count for count in range(1, len(parts) + 1)}
    for end in range(min(ends), len(data)):
        found = read(data[:end])
        whole = max(each for each in ends if each <= end)
        assert (found.end, len(found.records), found.torn) == (whole, ends[whole], data[whole:end])


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 400, b"rubbish", b"00000000 {}\n", b"\n"])
def test_a_last_line_that_is_not_whole_is_torn(tail):
    good = b"".join(lines(BEGIN, INTENT))
    found = read(good + tail)
    assert (found.end, found.torn, len(found.records)) == (len(good), tail, 2)


def test_no_flipped_bit_goes_unnoticed():
    parts = lines(*RECORDS)
    data = b"".join(parts)
    last = len(data) - len(parts[-1])
    for position in range(len(data)):
        for bit in range(8):
            bad = bytearray(data)
            bad[position] ^= 1 << bit
            if position < last - 1:  # the end of the last line but one: without it the last two are one torn line
                with pytest.raises(Broken):
                    read(bytes(bad))
            else:
                assert read(bytes(bad)).torn


def test_the_first_broken_record_is_named_with_those_before_it():
    parts = lines(*RECORDS)
    parts[2] = parts[2].replace(b'"epoch":8', b'"epoch":9')
    with pytest.raises(Broken, match=r"^line 3: its checksum does not match its contents$") as caught:
        read(b"".join(parts))
    assert (caught.value.line, len(caught.value.good)) == (3, 2)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"seq": 4}, "it is record 4, and record 2 was to follow"),
        ({"prev": "0" * 64}, r"it \(record 2\) does not follow from the record before it"),
        ({"type": "wish"}, r"it is not a record of format 2: Invalid value 'wish' - at `\$.type`"),
        ({"type": "absent"}, "it is not a record of format 2: Object missing required field `type`"),
        ({"to": "purple"}, "it is not a record of format 2: Invalid enum value 'purple'"),
        ({"epoch": "8"}, "it is not a record of format 2: Expected `int`, got `str`"),
        ({"wish": 1}, "it is not a record of format 2: Object contains unknown field `wish`"),
    ],
)
def test_a_record_that_says_something_else_is_broken_whatever_its_checksum(changed, complaint):
    first, second = lines(BEGIN, INTENT)
    with pytest.raises(Broken, match=f"^line 2: {complaint}"):
        read(first + resealed(second, **changed))


def test_what_is_not_json_or_no_snapshot_is_broken():
    first, second = lines(BEGIN, INTENT)
    with pytest.raises(Broken, match="line 1: the file is empty"):
        read(b"")
    with pytest.raises(Broken, match="line 1: a file begins with a snapshot, and has no other"):
        read(second)
    with pytest.raises(Broken, match="line 2: a file begins with a snapshot, and has no other"):
        read(first + lines(BEGIN, after=read(first).link)[0])
    with pytest.raises(Broken, match="line 1: it is not a record of format 2"):
        read(b"%08x []\n" % crc32(b"[]"))
    with pytest.raises(Broken, match="line 1: its checksum"):
        read(first[:-5])


def test_another_format_is_refused_by_name():
    (line,) = lines(BEGIN)
    with pytest.raises(Broken, match="its format is 3, made by a newer bgproxy; this one reads up to 2"):
        read(resealed(line, format=3, more="members"))
    with pytest.raises(Broken, match=r"its format is 1$"):
        read(resealed(line, format=1))


@given(st.binary(max_size=200))
def test_garbage_is_never_a_record(data):
    assert unsealed(data) is None
    with pytest.raises(Broken):
        read(data)


@given(
    st.integers(0, 2**63 - 1),
    st.sampled_from(["blue", "green"]),
    st.text(st.characters(codec="utf-8"), max_size=50),
    st.floats(0, 1e6),
)
def test_any_state_survives_the_round_trip(epoch, live, reason, acked_s):
    last = LastSwitch(
        at="t", from_="blue", to="green", kind="rollback", by="", reason=reason, forced=True, acked_s=acked_s
    )
    state = State(epoch=epoch, live=live, last_switch=last, pools={"x": [reason, None]})
    assert read(b"".join(lines(Snapshot(format=2, state=state)))).records[0].state == state
