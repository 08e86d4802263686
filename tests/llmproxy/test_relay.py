"""The relay against a raw response whose every read a test decides; the real one is tested with the transport."""

from collections.abc import Callable

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ReadTimeout

from llmproxy.client.guard import CallGuard
from llmproxy.errors import ClientGone, ProxyError, TokenRevoked, UpstreamTimeout, UpstreamUnreachable
from llmproxy.headers import Headers, Origin
from llmproxy.relay import Relay, SendNow, StreamCut
from llmproxy.transport.connection import Timeouts
from llmproxy.upstream import UpstreamSession
from tests.mocked_upstream import MockedUpstream

ENDS: dict[str, Exception | None] = {
    "whole": None,
    "broken": RequestsConnectionError("it broke off"),
    "stalled": ReadTimeout("nothing came"),
}


class Raw:
    """The raw side of a response: pieces, then an end."""

    def __init__(self, pieces: list[bytes], end: Exception | None, journal: list[object]) -> None:
        self._pieces = list(pieces)
        self._end = end
        self._journal = journal
        self.gone: CallGuard | None = None
        self.headers: Headers = []
        self.trailers: Headers = []

    @property
    def origin(self) -> Origin:
        return Origin("https", "api.test", 443, "api.test", "/v1")

    @property
    def is_drained(self) -> bool:
        return not self._pieces and self._end is None

    def has_body_bytes(self) -> bool:
        return self.is_drained

    def read1(self) -> bytes:
        if self.gone is not None and self.gone.ended_by:
            raise RequestsConnectionError("aborted")
        if self._pieces:
            return self._pieces.pop(0)
        if self._end is not None:
            raise self._end
        return b""

    def pump(self, take: Callable[[bytes], bool], /) -> None:
        """As the event loop: what comes is taken, but for the last of it."""
        while len(self._pieces) > 1 and take(self._pieces.pop(0)):
            pass

    def close(self) -> None:
        self._journal.append("raw closed")


class Observer:
    def __init__(self, journal: list[object]) -> None:
        self.seen: list[bytes] = []
        self._journal = journal

    def feed(self, chunk: bytes, /) -> None:
        self.seen.append(chunk)

    def ignores(self, chunk: bytes, /) -> bool:
        return chunk == b": ping"  # longer than any that is made up below

    def finish(self) -> None:
        self._journal.append("observer finished")


class Guard(CallGuard):
    __slots__ = ("journal",)

    def __init__(self, journal: list[object]) -> None:
        super().__init__(None)
        self.journal = journal

    def stop(self) -> None:
        self.journal.append("guard stopped")


class RunningCall:
    """A call as far as relaying sees it."""

    def __init__(self, journal: list[object]) -> None:
        self.guard = Guard(journal)
        self.first_bytes = 0
        self.bytes_out = 0
        self._journal = journal

    def first_byte_came(self) -> None:
        self.first_bytes += 1

    def end(self, cut: ProxyError | None, *, bytes_out: int) -> None:
        self.bytes_out = bytes_out
        self._journal.append(cut)


class Holding:
    """A filter that holds the last byte back until there is a next one, and swallows every `-`."""

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, chunk: bytes, /) -> bytes:
        data = self._kept + chunk.replace(b"-", b"")
        self._kept = data[-1:]
        return data[:-1]

    def finish(self) -> bytes:
        return self._kept


class Scene:
    """A relay with everything around it, and a journal of what happened in which order."""

    def __init__(
        self,
        pieces: list[bytes],
        end: Exception | None = None,
        *,
        filtered: bool = False,
        sends: SendNow | None = None,
    ) -> None:
        self.journal: list[object] = []
        self.raw = Raw(pieces, end, self.journal)
        self.observer = Observer(self.journal)
        self.call = RunningCall(self.journal)
        self.guard = self.call.guard
        self.cuts = 0
        self.relay = Relay(
            self.call,
            self.raw,
            observer=self.observer,
            on_cut=self._note_cut,
            body_filter=Holding() if filtered else None,
            sender=lambda: sends,
        )

    def _note_cut(self) -> None:
        self.cuts += 1

    @property
    def ends(self) -> list[ProxyError | None]:
        return [entry for entry in self.journal if entry is None or isinstance(entry, ProxyError)]

    def outcome(self) -> str:
        assert len(self.ends) == 1
        return self.ends[0].outcome if self.ends[0] else "complete"


def test_a_whole_answer_passes_piece_by_piece_and_is_complete() -> None:
    scene = Scene([b"one", b"two"])

    assert list(scene.relay) == [b"one", b"two"]
    assert scene.ends == []  # the last byte may not have left yet
    scene.relay.close()
    assert scene.journal == ["guard stopped", "raw closed", "observer finished", None]
    assert (scene.observer.seen, scene.call.bytes_out, scene.call.first_bytes) == ([b"one", b"two"], 6, 1)


def test_a_piece_is_observed_only_after_the_client_has_got_it() -> None:
    scene = Scene([b"one", b"two"])

    assert next(scene.relay) == b"one"
    assert scene.observer.seen == []
    assert next(scene.relay) == b"two"
    assert scene.observer.seen == [b"one"]


def test_a_client_that_leaves_before_the_first_piece_has_closed() -> None:
    scene = Scene([b"one"])
    scene.relay.close()

    assert scene.outcome() == "client_closed"


def test_an_answer_without_a_body_is_complete_though_nobody_asked_for_it() -> None:
    scene = Scene([])
    scene.relay.close()

    assert scene.outcome() == "complete"


def test_a_client_that_leaves_while_the_last_piece_is_written_has_closed() -> None:
    scene = Scene([b"one"])
    next(scene.relay)
    scene.relay.close()

    assert scene.outcome() == "client_closed"
    assert scene.observer.seen == [b"one"]  # written in vain, but the upstream told it


def test_a_client_that_leaves_while_what_was_held_back_is_written_has_closed() -> None:
    scene = Scene([b"a"], filtered=True)
    assert next(scene.relay) == b"a"
    scene.relay.close()

    assert scene.outcome() == "client_closed"


def test_a_filter_changes_what_the_client_gets_and_not_what_is_observed() -> None:
    scene = Scene([b"a-", b"--", b"bc"], filtered=True)

    assert b"".join(scene.relay) == b"abc"
    scene.relay.close()
    assert (scene.observer.seen, scene.call.bytes_out) == ([b"a-", b"--", b"bc"], 3)
    assert scene.outcome() == "complete"


@pytest.mark.parametrize(("end", "reason"), [("broken", UpstreamUnreachable), ("stalled", UpstreamTimeout)])
def test_an_upstream_that_fails_cuts_the_stream(end: str, reason: type[ProxyError]) -> None:
    scene = Scene([b"one"], ENDS[end])

    assert next(scene.relay) == b"one"
    with pytest.raises(StreamCut):
        next(scene.relay)
    scene.relay.close()
    assert isinstance(scene.ends[0], reason)
    assert scene.cuts == 1


def test_what_goes_through_whole_is_no_cut() -> None:
    scene = Scene([b"one"])
    list(scene.relay)
    scene.relay.close()

    assert (scene.ends, scene.cuts) == ([None], 0)


def test_fields_that_follow_the_body_come_down_with_it() -> None:
    scene, trailers = Scene([b"one"]), []
    relay = Relay(scene.call, scene.raw, observer=scene.observer, trailers=trailers)
    scene.raw.trailers = [("X-Sum", "1"), ("Content-Length", "9")]
    list(relay)

    assert trailers == [("X-Sum", "1")]


def test_an_abort_after_the_client_left_is_not_the_upstreams_fault() -> None:
    scene = Scene([b"one"], ENDS["broken"])
    next(scene.relay)
    scene.guard.ended_by = ClientGone()
    with pytest.raises(StreamCut):
        next(scene.relay)
    scene.relay.close()

    assert isinstance(scene.ends[0], ClientGone)


def test_a_cut_is_neither_the_clients_nor_the_upstreams_fault() -> None:
    scene = Scene([b"one"], ENDS["broken"])
    next(scene.relay)
    scene.guard.ended_by = TokenRevoked()
    with pytest.raises(StreamCut):
        next(scene.relay)
    scene.relay.close()

    assert isinstance(scene.ends[0], TokenRevoked)


def test_a_cut_while_the_client_does_not_read_is_not_the_clients_fault() -> None:
    scene = Scene([b"one"], ENDS["whole"])
    next(scene.relay)
    scene.guard.ended_by = TokenRevoked()
    scene.relay.close()  # the server could not write

    assert isinstance(scene.ends[0], TokenRevoked)


pieces = st.lists(st.binary(min_size=1, max_size=5).map(lambda data: data.replace(b"\x00", b"-")), max_size=6)


@given(
    pieces,
    st.sampled_from(sorted(ENDS)),
    st.booleans(),
    st.lists(st.sampled_from(["next", "gone"])),
    st.integers(1, 3),
)
def test_every_course_of_events_ends_once_with_the_right_outcome(
    sent: list[bytes], end: str, filtered: bool, actions: list[str], closes: int
) -> None:
    scene = Scene(sent, ENDS[end], filtered=filtered)
    scene.raw.gone = scene.guard
    got: list[bytes] = []
    finished: str | None = None
    for action in actions:
        if action == "gone":
            scene.guard.ended_by = ClientGone()
        elif finished is None:
            try:
                got.append(next(scene.relay))
            except StopIteration:
                finished = "complete"
            except StreamCut:
                by_upstream = {"broken": "upstream_failed", "stalled": "upstream_timeout"}.get(end)
                finished = "client_closed" if scene.guard.ended_by else by_upstream
    for _ in range(closes):
        scene.relay.close()

    never_asked = "next" not in actions and not sent and end == "whole"
    assert scene.outcome() == (finished or ("complete" if never_asked else "client_closed"))
    assert scene.call.bytes_out == len(b"".join(got))
    assert b"".join(sent).startswith(b"".join(scene.observer.seen))
    expected = b"".join(sent).replace(b"-", b"") if filtered else b"".join(sent)
    assert expected.startswith(b"".join(got))
    if finished == "complete":
        assert (b"".join(got), scene.observer.seen) == (expected, sent)
    assert scene.journal[:3] == ["guard stopped", "raw closed", "observer finished"]
    assert len(scene.journal) == 4
    assert scene.call.first_bytes == (1 if scene.observer.seen else 0)


class Sending:
    """Sends what the event loop is given, all of it but for a piece that does not fit."""

    def __init__(self, too_long: bytes = b"") -> None:
        self.sent: list[bytes] = []
        self._too_long = too_long

    def __call__(self, piece: bytes) -> bool:
        self.sent.append(piece)
        return piece != self._too_long


def test_from_the_second_piece_on_the_event_loop_sends_what_tells_nothing() -> None:
    sends = Sending()
    scene = Scene([b"one", b": ping", b": ping", b"end"], sends=sends)

    assert list(scene.relay) == [b"one", b"end"]
    scene.relay.close()
    assert (sends.sent, scene.observer.seen) == ([b": ping", b": ping"], [b"one", b"end"])
    assert (scene.call.bytes_out, scene.outcome()) == (18, "complete")


def test_what_tells_something_is_observed_by_the_greenlet_when_it_has_been_sent() -> None:
    sends = Sending()
    scene = Scene([b"one", b"two", b": ping", b"end"], sends=sends)

    assert [next(scene.relay), next(scene.relay)] == [b"one", b""]
    assert (sends.sent, scene.observer.seen) == ([b"two"], [b"one"])
    assert list(scene.relay) == [b"end"]
    assert (sends.sent, scene.observer.seen) == ([b"two", b": ping"], [b"one", b"two", b"end"])


def test_what_does_not_fit_is_left_to_the_server_before_anything_else_is_read() -> None:
    sends = Sending(too_long=b": ping")
    scene = Scene([b"one", b": ping", b"two", b"end"], sends=sends)

    assert [next(scene.relay), next(scene.relay)] == [b"one", b""]
    assert sends.sent == [b": ping"]


def test_what_fails_while_the_event_loop_passes_it_on_is_the_upstreams_fault() -> None:
    scene = Scene([b"one", b"two"], sends=Sending())
    scene.raw.pump = raising(ReadTimeout("nothing came"))
    next(scene.relay)

    with pytest.raises(StreamCut):
        next(scene.relay)
    scene.relay.close()
    assert isinstance(scene.ends[0], UpstreamTimeout)


def raising(error: Exception) -> Callable[[object], None]:
    def pump(_: object) -> None:
        raise error

    return pump


@pytest.mark.parametrize(("filtered", "sends"), [(True, Sending()), (False, None)])
def test_what_is_changed_or_may_not_be_sent_so_is_not_left_to_the_event_loop(filtered, sends) -> None:
    scene = Scene([b"one", b": ping", b": ping", b"end"], filtered=filtered, sends=sends)
    scene.raw.pump = raising(AssertionError())

    assert b"".join(scene.relay) == b"one: ping: pingend"


def test_a_response_of_requests_mock_can_be_relayed() -> None:
    session = UpstreamSession(Timeouts(1, 1, 1))
    upstream = MockedUpstream()
    session.mount("https://", upstream)
    upstream.register_uri("GET", "https://upstream.test/v1/models", content=b"mocked", headers={"X-A": "1"})
    response = session.send(requests.Request("GET", "https://upstream.test/v1/models").prepare(), stream=True)
    journal: list[object] = []
    relay = Relay(RunningCall(journal), response.raw, observer=Observer(journal))

    assert b"".join(relay) == b"mocked"
    relay.close()
    assert journal[-1] is None
