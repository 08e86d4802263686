"""Where frames end, for every split; wsproto is who knows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from llmproxy.websocket.frames import FrameScanner, close_frame

SIZES = st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 70000])


def frames(sizes: list[int], *, client: bool) -> list[bytes]:
    """A frame of each size; masked when it is a client that sends."""
    protocol = FrameProtocol(client=client, extensions=[])
    return [protocol.send_data(b"\x88" * size, fin=True) for size in sizes]


@given(st.lists(SIZES, max_size=4), st.booleans(), st.lists(st.integers(1, 80_000), max_size=6))
def test_the_end_of_every_frame_is_found_however_they_are_split(
    sizes: list[int], client: bool, cuts: list[int]
) -> None:
    made = frames(sizes, client=client)
    ends = {sum(map(len, made[:count])) for count in range(len(made) + 1)}
    data = b"".join(made)
    scanner = FrameScanner()
    place = 0
    for size in [*cuts, len(data)]:
        piece = data[place : place + size]
        last_end = scanner.feed(piece)
        inside = [end - place for end in ends if place < end <= place + len(piece)]
        place += len(piece)

        assert last_end == max(inside, default=0)
        assert scanner.is_between_frames == (place in ends)
    assert not scanner.saw_close


def test_byte_by_byte_is_the_same() -> None:
    data = b"".join(frames([3, 126, 0, 65536], client=True))
    scanner = FrameScanner()

    assert sum(scanner.feed(data[at : at + 1]) for at in range(len(data))) == 4


def test_others_run_between_many_frames_of_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[None] = []
    monkeypatch.setattr("llmproxy.websocket.frames.give_way", lambda: turns.append(None))
    data = b"".join(frames([1], client=False)) * 2000

    assert FrameScanner().feed(data) == len(data)
    assert len(turns) == 3


@pytest.mark.parametrize("client", [True, False])
def test_a_close_frame_is_seen_by_its_header(client: bool) -> None:
    scanner = FrameScanner()
    protocol = FrameProtocol(client=client, extensions=[])
    scanner.feed(protocol.send_data("hello", fin=True))
    assert not scanner.saw_close
    scanner.feed(protocol.close(1000)[:6])

    assert scanner.saw_close


@pytest.mark.parametrize("reason", ["", "revoked", "x" * 200])
def test_a_close_frame_is_read_by_others(reason: str) -> None:
    protocol = FrameProtocol(client=True, extensions=[])
    protocol.receive_bytes(close_frame(1008, reason))
    [frame] = protocol.received_frames()

    assert frame.opcode is Opcode.CLOSE
    code, told = frame.payload
    assert (code, reason.startswith(told)) == (1008, True)
    assert len(told) == min(len(reason), 123)
