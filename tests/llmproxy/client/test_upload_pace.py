"""The floor under the rate of a request body: who waits for whom, and for how long."""

import gevent
import pytest
from gevent.event import Event

from llmproxy.client.guard import CallGuard
from llmproxy.client.upload_pace import PacedStream, UploadPace
from llmproxy.errors import BodyTooSlow, TokenRevoked


class Client:
    """Sends a piece at each read, or lets the reader wait."""

    def __init__(self, *pieces: bytes | None) -> None:
        self._pieces = list(pieces)
        self.never = Event()

    def read1(self, _: int, /) -> bytes:
        piece = self._pieces.pop(0)
        if piece is None:
            self.never.wait()
        return piece or b""


@pytest.mark.parametrize(
    ("size", "allowed_s"), [(0, 30.0), (1, 30.002), (500, 31.0), (65_536, 161.072), (5_000_000, 10_030.0)]
)
def test_every_byte_buys_time_at_the_lowest_rate(size: int, allowed_s: float) -> None:
    assert UploadPace(500, grace_s=30).allowed_s(size) == pytest.approx(allowed_s)


def test_a_client_that_stays_behind_ends_the_read() -> None:
    stream = PacedStream(Client(b"abc", None), UploadPace(1e9, grace_s=0.001), CallGuard(None))

    assert stream.read1(10) == b"abc"
    with pytest.raises(BodyTooSlow):
        stream.read1(10)


def test_what_comes_in_time_passes_and_leaves_no_timer_behind() -> None:
    stream = PacedStream(Client(b"abc", b"d", b""), UploadPace(1e9, grace_s=0.001), CallGuard(None))

    assert [stream.read1(10) for _ in range(3)] == [b"abc", b"d", b""]
    gevent.idle()  # a timer that was left would raise here


def test_an_error_of_the_stream_leaves_no_timer_behind() -> None:
    class Broken:
        def read1(self, _: int, /) -> bytes:
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        PacedStream(Broken(), UploadPace(1e9, grace_s=0.0), CallGuard(None)).read1(1)
    gevent.idle()


def test_time_that_the_upstream_takes_is_not_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("llmproxy.client.upload_pace.time.monotonic", lambda: now[0])
    stream = PacedStream(Client(b"abc", b"def"), UploadPace(500, grace_s=1), CallGuard(None))

    stream.read1(3)
    now[0] += 1e6  # sending the piece on took this long

    assert stream.read1(3) == b"def"


def test_a_cut_ends_the_wait_for_the_client_though_the_upstream_has_been_called() -> None:
    class Upstream:
        aborts = 0

        def abort(self) -> None:
            self.aborts += 1

    def read() -> Exception | None:
        guard = CallGuard(None)
        guard.guard(upstream)
        gevent.get_hub().loop.run_callback(guard.cut, TokenRevoked())
        try:
            PacedStream(Client(None), UploadPace(500, grace_s=60), guard).read1(10)
        except TokenRevoked as exc:
            return exc
        finally:
            guard.stop()
        return None

    upstream = Upstream()
    assert isinstance(gevent.spawn(read).get(timeout=60), TokenRevoked)
    assert upstream.aborts == 1
