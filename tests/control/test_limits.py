"""What operators do with meters and rules: exact, in one transaction with its line, and seen by the next claim."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, select
from sqlalchemy.orm import Session

from control import limits, projects, tokens
from control.errors import Conflict, NotFound
from database import schema
from llmproxy.admission import utc_now
from llmproxy.limits import periods
from llmproxy.times import microseconds
from models import Meter, Token
from tests.control.changes import ACTOR, HOUR, RING, UNKNOWN, Dump, actions, issue, project, refused

DAILY: dict[str, Any] = {"unit": "usd", "period": "day", "amount": "2.00"}


@pytest.fixture
def token(session: Session) -> Token:
    return issue(session, project(session))[1]


def seen(session: Session, meter: Meter) -> limits.Standing:
    return limits.standing(meter, microseconds(utc_now()))


@pytest.mark.parametrize("period", periods.PERIODS)
def test_a_list_and_a_meters_own_standing_agree_on_what_is_used_up(session: Session, period: periods.Period) -> None:
    owner = project(session, meters=[{"unit": "requests", "period": period, "amount": 2, "name": "any"}])
    [meter] = limits.of(session, owner)
    now_us = microseconds(utc_now())
    furthest = now_us + periods.FURTHEST_US[period]
    for spent in (1, 2, 3):
        # An end that lies too far ahead was written by a clock that was wrong.
        for end in (0, now_us, now_us + 1, furthest, furthest + 1):
            meter.spent, meter.period_end = spent, end
            session.flush()

            listed = session.scalar(select(limits.is_used_up(now_us, [period])).select_from(Meter))
            assert listed is (limits.standing(meter, now_us).spent >= meter.amount), (spent, end)
            assert (
                session.scalars(select(Meter).where(limits.is_used_up(now_us, set(periods.PERIODS) - {period}))).all()
                == []
            )


def test_a_token_is_issued_with_its_meter(session: Session, dump: Dump) -> None:
    _, token = issue(session, project(session), meters=[DAILY])

    [meter] = limits.of(session, token)
    assert (meter.name, meter.unit, meter.amount, meter.zone, meter.reserve) == (
        "USD per day", "usd", 2_000_000, "UTC", "likely",
    )  # fmt: skip
    assert (meter.project_id, meter.token_id) == (token.project_id, token.id)
    assert token.is_ruled and token.rules_version == 1
    assert actions(dump) == ["project.create", "token.issue", "token.create_meter"]


def test_a_project_has_meters_of_its_own(session: Session) -> None:
    owner = project(session, meters=[DAILY])
    _, token = issue(session, owner, meters=[{"unit": "requests", "period": "hour", "amount": 100}])

    assert [(meter.unit, meter.token_id) for meter in limits.of(session, owner)] == [("usd", None)]
    assert [meter.unit for meter in limits.holding_for(session, token)] == ["requests", "usd"]
    assert owner.is_ruled


def test_many_tokens_are_issued_at_once_with_numbered_labels(session: Session) -> None:
    owner = project(session)

    issued = tokens.issue_many(
        session, ACTOR, count=12, project_id=owner.id, lifetime=HOUR, label="student", meters=[DAILY]
    )

    assert [token.label for _, token in issued][::11] == ["student 01", "student 12"]
    assert len({secret for secret, _ in issued}) == 12
    assert [meter.token_id for meter in limits.listed(session, limit=100)[0]].count(issued[3][1].id) == 1


def test_many_tokens_with_limits_take_no_more_statements_than_few(session: Session, database: Engine) -> None:
    owner, seen = project(session), []
    event.listen(database, "before_cursor_execute", lambda *arguments: seen.append(arguments[2]))

    def statements(count: int) -> int:
        seen.clear()
        tokens.issue_many(
            session, ACTOR, count=count, project_id=owner.id, lifetime=HOUR, meters=[DAILY], rules={"concurrency": 2}
        )
        return len(seen)

    assert statements(3) == statements(30)


def test_a_new_token_has_so_many_meters_at_most(session: Session) -> None:
    owner = project(session)

    with pytest.raises(Conflict):
        tokens.issue(session, ACTOR, project_id=owner.id, lifetime=HOUR, meters=[DAILY] * (limits.MOST + 1))

    assert limits.listed(session, limit=100)[0] == []


def test_the_first_meter_stops_code_that_knows_none(session: Session, database: Engine, token: Token) -> None:
    with database.connect() as connection:
        assert schema.floor(connection) < limits.FIRST_TO_HOLD

    limits.create(session, ACTOR, token_id=token.id, **DAILY)

    with database.connect() as connection:
        assert schema.floor(connection) == limits.FIRST_TO_HOLD


def test_each_change_of_limits_is_another_version(session: Session, token: Token) -> None:
    meter = limits.create(session, ACTOR, token_id=token.id, **DAILY)
    limits.change(session, ACTOR, meter.id, amount="3.00")
    tokens.change(session, ACTOR, token.id, rules={"concurrency": 2})

    assert token.rules_version == 3
    limits.delete(session, ACTOR, meter.id)
    assert token.is_ruled
    tokens.change(session, ACTOR, token.id, rules=None)
    assert not token.is_ruled and token.rules_version == 5


def test_a_change_of_something_else_is_no_new_version(session: Session, token: Token) -> None:
    tokens.change(session, ACTOR, token.id, label="new")

    assert token.rules_version == 0


def test_a_list_of_meters_is_what_there_is_afterwards(session: Session, token: Token, dump: Dump) -> None:
    kept = limits.create(session, ACTOR, token_id=token.id, **DAILY)
    limits.create(session, ACTOR, token_id=token.id, unit="tokens", period="minute", amount=1000)
    kept.spent = 5
    session.commit()

    tokens.change(
        session,
        ACTOR,
        token.id,
        meters=[{"id": kept.id, "amount": "4.00"}, {"unit": "requests", "period": "day", "amount": 9}],
    )

    found = {meter.unit: meter for meter in limits.of(session, token)}
    assert found.keys() == {"usd", "requests"}
    assert (found["usd"].id, found["usd"].amount, found["usd"].spent) == (kept.id, 4_000_000, 5)
    assert actions(dump)[-3:] == ["token.delete_meter", "token.change_meter", "token.create_meter"]


def test_what_was_not_named_of_a_kept_meter_stays(session: Session, token: Token) -> None:
    meter = limits.create(session, ACTOR, token_id=token.id, name="mine", reserve="bound", **DAILY)

    limits.change(session, ACTOR, meter.id, amount="0.00")

    assert (meter.name, meter.reserve, meter.amount) == ("mine", "bound", 0)


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"unit": "tokens"}, "unit"), ({"period": "week"}, "period"), ({"zone": "Asia/Tokyo"}, "zone")],
)
def test_what_tells_a_meter_from_others_does_not_change(
    session: Session, token: Token, dump: Dump, fields: dict[str, Any], field: str
) -> None:
    meter = limits.create(session, ACTOR, token_id=token.id, **DAILY)

    def call() -> None:
        tokens.change(session, ACTOR, token.id, meters=[{"id": meter.id, **fields}])

    assert refused(Conflict, call, dump).field == field  # type: ignore[attr-defined]


def test_dollars_are_no_amount_of_tokens(session: Session, token: Token, dump: Dump) -> None:
    meter = limits.create(session, ACTOR, token_id=token.id, unit="tokens", period="day", amount=1000)

    refused(Conflict, lambda: limits.change(session, ACTOR, meter.id, amount="1.00"), dump)


def test_somebody_elses_meter_is_not_kept(session: Session, token: Token, dump: Dump) -> None:
    other = limits.create(session, ACTOR, project_id=token.project_id, **DAILY)

    refused(NotFound, lambda: tokens.change(session, ACTOR, token.id, meters=[{"id": other.id}]), dump)


def test_an_owner_has_so_many_meters_at_most(session: Session, token: Token, dump: Dump) -> None:
    tokens.change(session, ACTOR, token.id, meters=[DAILY] * limits.MOST)

    refused(Conflict, lambda: limits.create(session, ACTOR, token_id=token.id, **DAILY), dump)


def test_a_reset_forgets_what_was_spent_and_keeps_what_is_held(session: Session, token: Token, dump: Dump) -> None:
    meter = limits.create(session, ACTOR, token_id=token.id, **DAILY)
    meter.spent, meter.reserved, meter.bounds, meter.alerted = 1_500_000, 200_000, 300_000, 80
    meter.period_end = microseconds(utc_now() + HOUR)
    session.commit()

    limits.reset(session, ACTOR, meter.id)

    assert (meter.spent, meter.reserved, meter.bounds, meter.alerted) == (0, 200_000, 300_000, 0)
    assert dump()["audit"][-1]["action"] == "token.reset_meter"
    assert seen(session, meter).remaining == 1_800_000


def test_a_period_that_is_over_has_nothing_spent(session: Session, token: Token) -> None:
    meter = limits.create(session, ACTOR, token_id=token.id, **DAILY)
    meter.spent, meter.period_end = 1_500_000, microseconds(utc_now() - timedelta(seconds=1))
    session.commit()

    found = seen(session, meter)

    assert (found.spent, found.remaining) == (0, 2_000_000)
    assert found.resets_at is not None and found.resets_at > microseconds(utc_now())


def test_a_total_never_resets(session: Session, token: Token) -> None:
    meter = limits.create(session, ACTOR, token_id=token.id, **DAILY | {"period": "total"})

    assert seen(session, meter).resets_at is None


def test_meters_are_listed_page_by_page(session: Session, token: Token) -> None:
    made = {limits.create(session, ACTOR, token_id=token.id, **DAILY).id for _ in range(3)}
    limits.create(session, ACTOR, project_id=token.project_id, **DAILY)

    first, has_more = limits.listed(session, limit=2, token_id=token.id)
    rest, has_none = limits.listed(session, limit=2, token_id=token.id, after=first[-1].id)

    assert (has_more, has_none) == (True, False)
    assert {meter.id for meter in [*first, *rest]} == made
    assert len(limits.listed(session, limit=9, project_id=token.project_id)[0]) == 4


def test_limits_of_what_is_not_there_are_not_found(session: Session, dump: Dump) -> None:
    for call in (
        lambda: limits.create(session, ACTOR, token_id=UNKNOWN, **DAILY),
        lambda: limits.create(session, ACTOR, project_id=UNKNOWN, **DAILY),
        lambda: limits.change(session, ACTOR, UNKNOWN, name="x"),
        lambda: limits.delete(session, ACTOR, UNKNOWN),
        lambda: limits.reset(session, ACTOR, UNKNOWN),
    ):
        refused(NotFound, call, dump)


def test_meters_go_with_their_token_and_project(session: Session, token: Token) -> None:
    limits.create(session, ACTOR, token_id=token.id, **DAILY)
    limits.create(session, ACTOR, project_id=token.project_id, **DAILY)

    projects.delete(session, ACTOR, token.project_id, force=True)

    assert limits.listed(session, limit=9)[0] == []


def test_rules_are_told_in_the_trail(session: Session, token: Token, dump: Dump) -> None:
    tokens.change(session, ACTOR, token.id, rules={"concurrency": 2})
    projects.change(session, RING, ACTOR, token.project_id, rules={"endpoints": ["chat"]})

    entries = dump()["audit"][-2:]
    assert [entry["action"] for entry in entries] == ["token.change", "project.change"]
    assert ["concurrency" in str(entries[0]["after"]), "chat" in str(entries[1]["after"])] == [True, True]
