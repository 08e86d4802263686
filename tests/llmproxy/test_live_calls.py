from llmproxy.errors import ProxyDraining, ProxyError
from llmproxy.live_calls import LiveCalls


class RunningCall:
    """Leaves when it is cut, as calls do."""

    token_id = project_id = "an id"

    def __init__(self, live: LiveCalls, *, is_session: bool) -> None:
        self.is_session = is_session
        self.cuts: list[ProxyError] = []
        self.ends: list[ProxyError | None] = []
        self._live = live
        live.join(self)

    def cut(self, reason: ProxyError) -> None:
        self.cuts.append(reason)
        self._live.leave(self)

    def end(self, cut: ProxyError | None, *, bytes_out: int) -> None:
        if self.is_session:
            raise RuntimeError("it has ended already")
        self.ends.append(cut)


def test_every_call_can_be_cut_though_each_leaves_then() -> None:
    live, reason = LiveCalls(), ProxyDraining()
    calls = [RunningCall(live, is_session=turn % 2 == 0) for turn in range(10)]
    live.cut_all(reason)

    assert [call.cuts for call in calls] == [[reason]] * 10
    assert list(live) == []


def test_what_a_token_holds_is_known_until_it_has_let_go_of_it() -> None:
    live = LiveCalls()
    live.hold("t", is_session=True)
    live.hold("t", is_session=False)
    live.hold("u", is_session=False)
    held = [live.held_by(token) for token in ("t", "u", "v")]
    live.let_go("t", is_session=True)
    less = live.held_by("t")
    live.let_go("t", is_session=False)

    assert held == [(2, 1), (1, 0), (0, 0)]
    assert (less, live.held_by("t")) == ((1, 0), (0, 0))


def test_sessions_can_be_cut_alone() -> None:
    live, reason = LiveCalls(), ProxyDraining()
    session, call = RunningCall(live, is_session=True), RunningCall(live, is_session=False)
    live.cut_sessions(reason)

    assert (session.cuts, call.cuts) == ([reason], [])
    assert list(live) == [call]


def test_leaving_twice_does_nothing() -> None:
    live = LiveCalls()
    call = RunningCall(live, is_session=False)
    live.leave(call)
    live.leave(call)

    assert list(live) == []


def test_every_call_is_abandoned_though_one_cannot_be() -> None:
    live, reason = LiveCalls(), ProxyDraining()
    calls = [RunningCall(live, is_session=turn == 1) for turn in range(3)]
    live.abandon(reason)

    assert [call.ends for call in calls] == [[reason], [], [reason]]
