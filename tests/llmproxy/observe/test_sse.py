"""The event decoder gives the same events at every split, and loses no byte of the stream."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.observe.sse import BOM, Block, DataLines, Event, EventSplitter, parse_event

BIG = 1 << 20

# Few letters, so that random streams are full of line ends, fields and half fields.
_pieces = st.sampled_from(
    [b"\n", b"\r", b"\r\n", b"\n\n", b"data", b"data:", b"data: ", b"data:  y", b"dat", b"event:", b"id: 1"]
) | st.sampled_from([b": c", b"retry: 5", b"x", b" ", b":", "ü🌿".encode(), BOM])
streams = st.lists(_pieces, max_size=40).map(b"".join)
cuts = st.lists(st.integers(0, 200), max_size=12)


def cut_at(stream: bytes, positions: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(position, len(stream)) for position in positions), len(stream)]
    return [stream[begin:end] for begin, end in pairwise(edges)]


def blocks_of(chunks: list[bytes], max_event_bytes: int = BIG) -> tuple[list[Block], bytes]:
    splitter = EventSplitter(max_event_bytes=max_event_bytes)
    blocks = [block for chunk in chunks for block in splitter.feed(chunk)]
    return blocks, splitter.held


def events_of(chunks: list[bytes]) -> list[Event]:
    blocks, _ = blocks_of(chunks)
    return [event for block in blocks if (event := parse_event(block.raw)) is not None]


def events_by_the_book(stream: bytes) -> list[Event]:
    """The algorithm of the WHATWG's page, step by step, on the whole stream."""
    text = stream.removeprefix(BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events, data, name = [], b"", b""
    for line in text.split(b"\n")[:-1]:
        if line == b"":
            if data:
                events.append(Event(name.decode("utf-8", "replace"), data.removesuffix(b"\n")))
            data, name = b"", b""
            continue
        if line.startswith(b":"):
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data += value + b"\n"
        elif field == b"event":
            name = value
    return events


@given(streams, cuts)
def test_any_split_gives_the_events_of_the_specification(stream, positions):
    assert events_of(cut_at(stream, positions)) == events_by_the_book(stream)


@given(streams)
def test_byte_by_byte_gives_the_events_of_the_specification(stream):
    assert events_of([stream[i : i + 1] for i in range(len(stream))]) == events_by_the_book(stream)


@given(streams, cuts, st.sampled_from([1, 5, 20, BIG]))
def test_the_blocks_and_what_is_held_are_the_stream(stream, positions, max_event_bytes):
    blocks, held = blocks_of(cut_at(stream, positions), max_event_bytes)

    assert b"".join(block.raw for block in blocks) + held == stream


@given(streams, cuts, st.sampled_from([1, 5, 20]))
def test_events_over_the_limit_come_in_parts_with_the_same_data(stream, positions, max_event_bytes):
    blocks, _ = blocks_of(cut_at(stream, positions), max_event_bytes)

    events, lines, data = [], DataLines(), []
    for block in blocks:
        if block.starts:
            lines, data = DataLines(), []
        data += lines.feed(block.raw)
        if block.ends:
            events.append(b"".join(data))
    assert [data for data in events if data] == [event.data for event in events_by_the_book(stream) if event.data]


@given(streams, cuts, st.sampled_from([5, 20]))
def test_no_more_than_the_limit_is_held(stream, positions, max_event_bytes):
    splitter = EventSplitter(max_event_bytes=max_event_bytes)

    for chunk in cut_at(stream, positions):
        splitter.feed(chunk)
        assert len(splitter.held) <= max(max_event_bytes, 2)


@given(streams, cuts)
def test_a_released_event_goes_on_in_parts_and_loses_nothing(stream, positions):
    splitter = EventSplitter(max_event_bytes=BIG)

    passed = b""
    for chunk in cut_at(stream, positions):
        passed += b"".join(block.raw for block in splitter.feed(chunk))
        passed += splitter.release()
    assert passed + splitter.held == stream


@pytest.mark.parametrize(
    ("stream", "event"),
    [
        (b"data: a\ndata:b\n\n", Event("", b"a\nb")),
        (b"data:  a\n\n", Event("", b" a")),
        (b"data\n\n", Event("", b"")),
        (b"data:\n\n", Event("", b"")),
        (b"event: done\ndata: a\n\n", Event("done", b"a")),
        (b"event: one\nevent: two\ndata: a\n\n", Event("two", b"a")),
        (b"data: a:b\n\n", Event("", b"a:b")),
        (b"id: 1\nretry: 2\nother: 3\n: comment\ndata: a\n\n", Event("", b"a")),
        (b"data: a\r\r", Event("", b"a")),
        (b"data: a\r\n\r\n", Event("", b"a")),
        (BOM + b"data: a\n\n", Event("", b"a")),
    ],
)
def test_fields_are_read_as_specified(stream, event):
    assert events_of([stream]) == [event]


@pytest.mark.parametrize(
    "stream", [b": ping\n\n", b"event: a\n\n", b"\n\n\n", b"Data: a\n\n", b" data: a\n\n", b"data: a", b"data: a\n"]
)
def test_what_is_no_event_gives_none(stream):
    assert events_of([stream]) == []


def test_a_mark_amid_the_stream_is_part_of_a_field_name():
    assert events_of([b"data: a\n\n" + BOM + b"data: b\n\n"]) == [Event("", b"a")]


def test_the_event_after_one_over_the_limit_is_whole_again():
    blocks, _ = blocks_of([b"data: ", b"x" * 50, b"\n", b"\ndata: a\n\n"], max_event_bytes=20)

    assert [(block.starts, block.ends) for block in blocks] == [(True, False), (False, True), (True, True)]
    assert parse_event(blocks[-1].raw) == Event("", b"a")
