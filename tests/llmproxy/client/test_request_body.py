import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.client.request_body import HELD_BYTES, PIECE_BYTES, RequestBody
from llmproxy.errors import BadRequest, BodyTooLarge, ClientGone, SpoolUnavailable


class Stream:
    """Gives what it has in reads of a given size, then what stands at its end."""

    def __init__(self, data: bytes, *, read_bytes: int = PIECE_BYTES, error: Exception | None = None) -> None:
        self._data = io.BytesIO(data)
        self._read_bytes = read_bytes
        self._error = error
        self.largest = 0

    def read1(self, size: int, /) -> bytes:
        self.largest = max(self.largest, size)
        data = self._data.read(min(size, self._read_bytes))
        if not data and self._error:
            raise self._error
        return data


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.mark.parametrize(("size", "fits"), [(0, True), (9, True), (10, True), (11, False)])
def test_a_known_length_over_the_limit_is_refused_before_a_byte_is_read(size: int, fits: bool) -> None:
    stream = Stream(b"x" * size)
    if fits:
        assert b"".join(RequestBody(stream, length=size, max_bytes=10)) == b"x" * size
    else:
        with pytest.raises(BodyTooLarge):
            RequestBody(stream, length=size, max_bytes=10)
        assert stream.largest == 0


@pytest.mark.parametrize("read_bytes", [1, 3, 100])
@pytest.mark.parametrize(("size", "fits"), [(0, True), (9, True), (10, True), (11, False)])
def test_a_chunked_body_is_cut_at_the_limit(size: int, fits: bool, read_bytes: int) -> None:
    body = RequestBody(Stream(b"x" * size, read_bytes=read_bytes), length=None, max_bytes=10)
    if fits:
        assert b"".join(body) == b"x" * size
    else:
        with pytest.raises(BodyTooLarge):
            list(body)


@pytest.mark.parametrize(
    ("length", "is_held"), [(0, True), (1, True), (HELD_BYTES, True), (HELD_BYTES + 1, False), (None, False)]
)
def test_a_small_body_of_known_length_is_held(length: int | None, is_held: bool) -> None:
    ended = Counter()
    data = b"x" * (length or 0)
    body = RequestBody(Stream(data, read_bytes=1000), length=length, max_bytes=1 << 30, on_end=ended)
    body.hold_if_small()

    assert body.held == (data if is_held else None)
    assert ended.count == (1 if is_held else 0)
    assert body.bytes_read == (length if is_held else 0)


@pytest.mark.parametrize("sent", [0, 1, 4])
@pytest.mark.parametrize("hold", [True, False])
def test_a_body_that_ends_early_means_that_the_client_is_gone(sent: int, hold: bool) -> None:
    ended = Counter()
    body = RequestBody(Stream(b"x" * sent), length=5, max_bytes=10, on_end=ended)

    with pytest.raises(ClientGone):
        body.hold_if_small() if hold else list(body)
    assert (ended.count, body.bytes_read) == (0, sent)


def test_an_error_of_the_clients_connection_means_that_it_is_gone() -> None:
    with pytest.raises(ClientGone):
        list(RequestBody(Stream(b"x", error=ClientGone()), length=None, max_bytes=10))


@pytest.mark.parametrize(("is_gone", "reason"), [(True, ClientGone), (False, BadRequest)])
def test_an_error_of_the_servers_parser_is_told_apart_by_a_look_at_the_client(
    is_gone: bool, reason: type[Exception]
) -> None:
    stream = Stream(b"x", error=BadRequest())

    with pytest.raises(reason) as refusal:
        list(RequestBody(stream, length=None, max_bytes=10, client_is_gone=lambda: is_gone))
    assert "secret" not in str(refusal.value)


@given(
    st.binary(max_size=300),
    st.booleans(),
    st.booleans(),
    st.integers(1, 100),
)
def test_whatever_the_reads_the_body_arrives_whole_and_ends_once(
    data: bytes, chunked: bool, hold: bool, read_bytes: int
) -> None:
    ended = Counter()
    stream = Stream(data + (b"" if chunked else b"next request"), read_bytes=read_bytes)
    body = RequestBody(stream, length=None if chunked else len(data), max_bytes=300, on_end=ended)
    if hold:
        body.hold_if_small()
    got = body.held if body.held is not None else b"".join(body)

    assert (got, body.bytes_read, ended.count) == (data, len(data), 1)
    assert stream.largest <= PIECE_BYTES


def test_what_room_was_lent_for_is_dropped_and_the_room_given_back_once() -> None:
    body, give_back = RequestBody(Stream(b"x" * 10, read_bytes=3), length=10, max_bytes=10), Counter()
    body.hold_in(give_back, 10)
    assert (body.held, give_back.count) == (b"x" * 10, 0)

    body.let_go()
    body.let_go()

    assert (body.held, give_back.count) == (None, 1)


def test_a_body_that_breaks_off_gives_its_room_back() -> None:
    body, give_back = RequestBody(Stream(b"x"), length=10, max_bytes=10), Counter()
    with pytest.raises(ClientGone):
        body.hold_in(give_back, 10)

    body.let_go()

    assert give_back.count == 1


@given(st.binary(max_size=300), st.lists(st.integers(0, 320), max_size=3), st.integers(1, 100))
def test_a_chunked_body_is_held_if_it_fits_and_arrives_whole_otherwise(
    data: bytes, limits: list[int], read_bytes: int
) -> None:
    ended = Counter()
    body = RequestBody(Stream(data, read_bytes=read_bytes), length=None, max_bytes=300, on_end=ended)
    for most in limits:
        if body.gather(most):
            assert body.gather(0)  # it stays
            break
        assert len(data) > most
    got = body.held if body.held is not None else b"".join(body)

    assert (got, body.bytes_read, ended.count) == (data, len(data), 1)
    assert (body.held is not None) == (len(data) <= max(limits, default=-1))


def test_what_is_held_without_room_stays() -> None:
    body = RequestBody(Stream(b"x" * 10), length=10, max_bytes=10)
    body.hold_if_small()
    body.let_go()

    assert body.held == b"x" * 10


@pytest.mark.parametrize("length", [9, None])
def test_a_spooled_body_goes_up_from_its_file(length: int | None) -> None:
    body, file = RequestBody(Stream(b"some body", read_bytes=4), length=length, max_bytes=10), io.BytesIO()

    pieces = list(body.spool(file, most=9))

    assert (pieces, body.has_arrived, body.bytes_read) == ([b"some", b" bod", b"y"], True, 9)
    assert b"".join(body) == b"some body"
    body.let_go()
    assert file.closed


def test_a_spooled_chunked_body_is_held_if_it_fits_and_arrives_whole_otherwise() -> None:
    body = RequestBody(Stream(b"some body", read_bytes=4), length=None, max_bytes=10)
    list(body.spool(io.BytesIO(), most=9))

    assert not body.gather(8) and b"".join(body) == b"some body"
    assert body.gather(9) and body.held == b"some body"
    assert body.bytes_read == 9


def test_no_more_is_spooled_than_may() -> None:
    body = RequestBody(Stream(b"some body", read_bytes=4), length=None, max_bytes=10)

    with pytest.raises(BodyTooLarge):
        list(body.spool(io.BytesIO(), most=8))

    assert not body.has_arrived


def test_a_full_spool_is_told_and_nothing_left_of_it() -> None:
    body = RequestBody(Stream(b"some body"), length=9, max_bytes=10)
    with open("/dev/full", "wb", buffering=0) as file:
        with pytest.raises(SpoolUnavailable):
            list(body.spool(file, most=9))

        assert file.closed
    assert not body.has_arrived


def test_a_spooled_body_can_be_held_after_all() -> None:
    body = RequestBody(Stream(b"some body"), length=9, max_bytes=10)
    list(body.spool(io.BytesIO(), most=9))

    body.hold_if_small(8)
    assert body.held is None
    body.hold_if_small(9)

    assert body.held == b"some body"
