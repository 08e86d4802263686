"""Who holds more than half of what is nearly used up gets no more; while there is room, everybody may have more."""

import resource

import pytest

from llmproxy.errors import ConcurrencyLimited
from llmproxy.fairness import FILES_PER_CALL, OTHER_FILES, Fairness
from llmproxy.live_calls import LiveCalls

CAPACITY = 80
GREEDY = ("hash", "greedy", "project")


class Connections:
    """Of one listening socket."""

    def __init__(self, taken: int, size: int = CAPACITY) -> None:
        self.size = size
        self.taken = taken

    def __len__(self) -> int:
        return self.taken


def fairness(calls: int, *, taken: int, sessions: int = 0, max_sessions: int = 100) -> Fairness:
    """Where one token holds so many calls of so many connections."""
    live = LiveCalls()
    for number in range(calls):
        live.hold("greedy", is_session=number < sessions)
    made = Fairness(live, max_sessions=max_sessions)
    made.serves([Connections(taken)])
    return made


def refuses(fair: Fairness, *, is_session: bool = False) -> bool:
    """Whether a claim of that token is refused, and so the next one before it is made."""
    verdicts = []
    for check in (
        fair.check_claimed,
        lambda token_hash, *_, is_session: fair.check(token_hash, is_session=is_session),
    ):
        try:
            check(*GREEDY, is_session=is_session)
            verdicts.append(None)
        except ConcurrencyLimited as exc:
            verdicts.append((exc.token_id, exc.project_id))
    assert verdicts in ([None, None], [GREEDY[1:], GREEDY[1:]])
    return verdicts[0] is not None


@pytest.mark.parametrize(
    ("calls", "taken", "refused"),
    [
        (31, 60, True),
        (30, 60, False),
        (31, 59, False),
        (59, 59, False),
        (40, 80, False),
        (41, 80, True),
        (1, 80, False),
    ],
)
def test_a_share_is_too_large_from_three_quarters_on(calls, taken, refused):
    assert refuses(fairness(calls, taken=taken)) is refused


@pytest.mark.parametrize(
    ("sessions", "is_session", "refused"), [(2, True, False), (3, True, True), (3, False, False)]
)
def test_websockets_are_counted_by_themselves(sessions, is_session, refused):
    fair = fairness(sessions, sessions=sessions, max_sessions=3, taken=10)

    assert refuses(fair, is_session=is_session) is refused


def test_who_holds_less_again_is_let_in_again():
    live = LiveCalls()
    fair = Fairness(live, max_sessions=1)
    live.hold("greedy", is_session=True)
    assert refuses(fair, is_session=True)
    live.let_go("greedy", is_session=True)

    fair.check(GREEDY[0], is_session=True)


def test_a_process_has_room_for_as_many_calls_as_it_may_open_files_for(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (OTHER_FILES + FILES_PER_CALL * 40, 10**6))

    assert refuses(fairness(20, taken=31))


def test_without_connections_to_share_any_number_of_calls_is_fine():
    live = LiveCalls()
    for _ in range(1000):
        live.hold("greedy", is_session=False)

    assert not refuses(Fairness(live, max_sessions=100))
