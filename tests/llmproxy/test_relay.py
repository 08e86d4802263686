"""The relay against a raw answer whose every read a test decides; the answer itself is tested with the transport."""

import pytest
import requests
import requests_mock
from hypothesis import given
from hypothesis import strategies as st
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ReadTimeout

from llmproxy.client.guard import HangupWatch
from llmproxy.errors import ClientGone, ProxyError, TokenRevoked, UpstreamTimeout, UpstreamUnreachable
from llmproxy.relay import Relay, StreamCut
from llmproxy.transport.connection import Timeouts
from llmproxy.upstream import UpstreamSession

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
        self.gone: HangupWatch | None = None

    @property
    def is_drained(self) -> bool:
        return not self._pieces and self._end is None

    def read1(self, *, decode_content: bool) -> bytes:
        assert decode_content is False
        if self.gone is not None and self.gone.ended_by:
            raise RequestsConnectionError("aborted")
        if self._pieces:
            return self._pieces.pop(0)
        if self._end is not None:
            raise self._end
        return b""

    def close(self) -> None:
        self._journal.append("raw closed")


class Observer:
    def __init__(self, journal: list[object]) -> None:
        self.seen: list[bytes] = []
        self._journal = journal

    def feed(self, chunk: bytes, /) -> None:
        self.seen.append(chunk)

    def finish(self) -> None:
        self._journal.append("observer finished")


class Watch(HangupWatch):
    __slots__ = ("journal",)

    def __init__(self, journal: list[object]) -> None:
        super().__init__(None)
        self.journal = journal

    def stop(self) -> None:
        self.journal.append("watch stopped")


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

    def __init__(self, pieces: list[bytes], end: Exception | None = None, *, filtered: bool = False) -> None:
        self.journal: list[object] = []
        self.raw = Raw(pieces, end, self.journal)
        self.observer = Observer(self.journal)
        self.watch = Watch(self.journal)
        self.first_bytes = 0
        response = requests.Response()
        response.raw = self.raw
        self.relay = Relay(
            response,
            observer=self.observer,
            watch=self.watch,
            on_first_byte=self._saw_first_byte,
            on_end=self.journal.append,
            body_filter=Holding() if filtered else None,
        )

    def _saw_first_byte(self) -> None:
        self.first_bytes += 1

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
    assert scene.journal == ["watch stopped", "raw closed", "observer finished", None]
    assert (scene.observer.seen, scene.relay.bytes_out, scene.first_bytes) == ([b"one", b"two"], 6, 1)


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
    assert (scene.observer.seen, scene.relay.bytes_out) == ([b"a-", b"--", b"bc"], 3)
    assert scene.outcome() == "complete"


@pytest.mark.parametrize(("end", "reason"), [("broken", UpstreamUnreachable), ("stalled", UpstreamTimeout)])
def test_an_upstream_that_fails_cuts_the_stream(end: str, reason: type[ProxyError]) -> None:
    scene = Scene([b"one"], ENDS[end])

    assert next(scene.relay) == b"one"
    with pytest.raises(StreamCut):
        next(scene.relay)
    scene.relay.close()
    assert isinstance(scene.ends[0], reason)


def test_an_abort_after_the_client_left_is_not_the_upstreams_fault() -> None:
    scene = Scene([b"one"], ENDS["broken"])
    next(scene.relay)
    scene.watch.ended_by = ClientGone()
    with pytest.raises(StreamCut):
        next(scene.relay)
    scene.relay.close()

    assert isinstance(scene.ends[0], ClientGone)


def test_a_cut_is_neither_the_clients_nor_the_upstreams_fault() -> None:
    scene = Scene([b"one"], ENDS["broken"])
    next(scene.relay)
    scene.watch.ended_by = TokenRevoked()
    with pytest.raises(StreamCut):
        next(scene.relay)
    scene.relay.close()

    assert isinstance(scene.ends[0], TokenRevoked)


def test_a_cut_while_the_client_does_not_read_is_not_the_clients_fault() -> None:
    scene = Scene([b"one"], ENDS["whole"])
    next(scene.relay)
    scene.watch.ended_by = TokenRevoked()
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
    scene.raw.gone = scene.watch
    got: list[bytes] = []
    finished: str | None = None
    for action in actions:
        if action == "gone":
            scene.watch.ended_by = ClientGone()
        elif finished is None:
            try:
                got.append(next(scene.relay))
            except StopIteration:
                finished = "complete"
            except StreamCut:
                by_upstream = {"broken": "upstream_failed", "stalled": "upstream_timeout"}.get(end)
                finished = "client_closed" if scene.watch.ended_by else by_upstream
    for _ in range(closes):
        scene.relay.close()

    never_asked = "next" not in actions and not sent and end == "whole"
    assert scene.outcome() == (finished or ("complete" if never_asked else "client_closed"))
    assert scene.relay.bytes_out == len(b"".join(got))
    assert b"".join(sent).startswith(b"".join(scene.observer.seen))
    expected = b"".join(sent).replace(b"-", b"") if filtered else b"".join(sent)
    assert expected.startswith(b"".join(got))
    if finished == "complete":
        assert (b"".join(got), scene.observer.seen) == (expected, sent)
    assert scene.journal[:3] == ["watch stopped", "raw closed", "observer finished"]
    assert len(scene.journal) == 4
    assert scene.first_bytes == (1 if scene.observer.seen else 0)


def test_an_answer_of_requests_mock_can_be_relayed() -> None:
    session = UpstreamSession(Timeouts(1, 1, 1))
    with requests_mock.Mocker(session=session) as mock:
        mock.get("https://upstream.test/v1/models", content=b"mocked", headers={"X-A": "1"})
        response = session.send(requests.Request("GET", "https://upstream.test/v1/models").prepare(), stream=True)
    journal: list[object] = []
    relay = Relay(
        response,
        observer=Observer(journal),
        watch=Watch(journal),
        on_first_byte=lambda: None,
        on_end=journal.append,
    )

    assert b"".join(relay) == b"mocked"
    relay.close()
    assert journal[-1] is None


def test_a_first_piece_that_is_known_to_be_still_to_come_is_waited_for() -> None:
    scene = Scene([b"one"])
    assert scene.relay.is_waiting is False  # this raw cannot tell

    for there in (True, False):
        scene.raw.has_body_bytes = lambda there=there: there  # type: ignore[attr-defined]
        assert scene.relay.is_waiting is not there
