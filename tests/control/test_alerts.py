"""The outbox of alerts on each kind of database: which budgets and tokens are told of, each of them once."""

from datetime import UTC, datetime, timedelta

import orjson
import pytest
from sqlalchemy import Engine, insert, select, update
from sqlalchemy.orm import Session

from control import alerts, cleanup, limits, projects
from control.alerts import close, count_waiting, note_new, note_refused_keys, note_unpriced, waiting
from control.audit import Actor
from llmproxy.keyring import KeyRing
from llmproxy.limits.periods import NEVER_US
from llmproxy.times import microseconds
from models import Meter, Project, Token
from models import alerts as table
from tests.control.test_cleanup import clean

NOW = datetime(2026, 11, 23, 10, 15, tzinfo=UTC)
TODAY_ENDS = datetime(2026, 11, 24, tzinfo=UTC)
DOLLAR = 10**6
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
ME = Actor("me", "127.0.0.1")
KEYRING = KeyRing([b"k" * 32])


@pytest.fixture
def add_meter(session: Session):
    """A meter of a token's, of a dollar a day."""
    session.add(Project(id="p", name="shop", openai_api_key="sealed", key_hint="", created_at=NOW))
    session.flush()
    token = {"id": "t", "token_hash": "h", "label": "till", "project_id": "p"}
    # What an operator changes asks the real clock whether the token still lives.
    session.add(Token(**token, expires_at=NOW + timedelta(days=36_500), created_at=NOW))
    session.commit()

    def add(**columns: object) -> str:
        usual = {"project_id": "p", "token_id": "t", "name": "m", "unit": "usd", "period": "day", "amount": DOLLAR}
        meter = Meter(**(usual | {"period_end": microseconds(TODAY_ENDS)} | columns))
        session.add(meter)
        session.commit()
        return meter.id

    return add


def spend(session: Session, meter_id: str, spent: int, **columns: object) -> None:
    session.execute(update(Meter).where(Meter.id == meter_id).values(spent=spent, **columns))
    session.commit()


def told(engine: Engine) -> list[tuple[str, int]]:
    """Of which meters, and at which thresholds."""
    found = [orjson.loads(alert.body)["data"] for alert in waiting(engine)]
    return [(data["meter"]["id"], data["threshold"]) for data in found]


@pytest.mark.parametrize(
    ("spent", "thresholds"),
    [(799_999, []), (800_000, [80]), (949_999, [80]), (950_000, [80, 95]), (999_999, [80, 95]),
     (1_000_000, [80, 95, 100]), (9_000_000, [80, 95, 100])],
)  # fmt: skip
def test_a_budget_is_told_of_at_each_threshold_that_it_has_come_to(database, add_meter, spent, thresholds):
    meter = add_meter(spent=spent)

    assert note_new(database, NOW) == len(thresholds)
    assert told(database) == [(meter, threshold) for threshold in thresholds]


def test_each_threshold_is_told_of_once_in_a_period(database, session, add_meter):
    meter = add_meter(spent=800_000)
    noted = [note_new(database, NOW)]
    close(database, waiting(database)[0].id)
    noted.append(note_new(database, NOW))
    spend(session, meter, DOLLAR)
    noted += [note_new(database, NOW), note_new(database, NOW)]
    spend(session, meter, 800_000, period_end=microseconds(TODAY_ENDS + timedelta(days=1)))
    noted.append(note_new(database, NOW + timedelta(days=1)))

    assert noted == [1, 0, 2, 0, 1]
    assert told(database) == [(meter, 95), (meter, 100), (meter, 80)]


def test_two_that_look_at_once_note_an_event_once(database, add_meter, monkeypatch):
    add_meter(spent=DOLLAR)
    events, noted = alerts._crossings, []

    def events_while_another_looks(row, now):
        monkeypatch.setattr(alerts, "_crossings", events)
        noted.append(note_new(database, NOW))
        return events(row, now)

    monkeypatch.setattr(alerts, "_crossings", events_while_another_looks)
    noted.append(note_new(database, NOW))

    assert (noted, count_waiting(database)) == ([3, 0], 3)


def test_an_event_says_whose_budget_it_is_and_how_it_stands(database, add_meter):
    meter = add_meter(spent=812_500, models="gpt-5*")
    note_new(database, NOW)

    [alert] = waiting(database)
    assert orjson.loads(alert.body) == {
        "type": "budget.threshold",
        "timestamp": "2026-11-23T10:15:00Z",
        "data": {
            "threshold": 80,
            "meter": {
                "id": meter, "name": "m", "unit": "usd", "period": "day", "amount": "1.00", "spent": "0.8125",
                "resets_at": "2026-11-24T00:00:00Z",
            },
            "project": {"id": "p", "name": "shop"},
            "token": {"id": "t", "label": "till"},
        },
    }  # fmt: skip


def test_a_projects_budget_in_total_has_no_token_and_never_resets(database, add_meter):
    add_meter(token_id=None, unit="tokens", period="total", amount=1000, spent=800, period_end=NEVER_US)
    note_new(database, NOW)

    data = orjson.loads(waiting(database)[0].body)["data"]
    assert (data["token"], data["meter"]["resets_at"], data["meter"]["spent"]) == (None, None, 800)


@pytest.mark.parametrize(
    "columns",
    [{"period": "minute", "unit": "tokens"}, {"period": "hour", "unit": "requests"}, {"amount": 0},
     {"period_end": microseconds(NOW - timedelta(hours=2))}],
    ids=["a minute's", "an hour's", "nothing to spend", "long over"],
)  # fmt: skip
def test_a_rate_and_a_period_long_over_are_not_told_of(database, add_meter, columns):
    add_meter(**({"spent": DOLLAR} | columns))

    assert note_new(database, NOW) == 0


def test_a_period_that_is_over_is_still_told_of_while_no_call_has_begun_a_new_one(database, add_meter):
    add_meter(spent=DOLLAR)

    assert note_new(database, TODAY_ENDS + timedelta(seconds=20)) == 3


def test_what_the_last_period_came_to_is_told_once_when_another_has_begun(database, session, add_meter):
    meter = add_meter(spent=DOLLAR, period_end=microseconds(TODAY_ENDS + DAY))
    last = {"last_spent": 960_000, "last_end": microseconds(TODAY_ENDS)}
    spend(session, meter, 0, **last)
    now = TODAY_ENDS + 3 * SECOND

    assert [note_new(database, now), note_new(database, now)] == [2, 0]
    data = orjson.loads(waiting(database)[-1].body)["data"]["meter"]
    assert (data["spent"], data["resets_at"]) == ("0.96", "2026-11-24T00:00:00Z")
    assert note_new(database, TODAY_ENDS + timedelta(hours=2)) == 0


@pytest.mark.parametrize("change", ["reset", "amount"])
def test_what_the_last_period_came_to_is_no_news_after_a_reset_or_with_another_amount(
    database, session, add_meter, change
):
    last = {"last_spent": 960_000, "last_end": microseconds(NOW - SECOND)}
    meter = add_meter(**last)
    if change == "reset":
        limits.reset(session, ME, meter)
    else:
        limits.change(session, ME, meter, amount="1.10")

    assert note_new(database, NOW) == 0


@pytest.mark.parametrize("change", ["reset", "amount"])
def test_a_budget_that_begins_anew_is_told_of_anew_and_what_waits_still_goes_out(
    database, session, add_meter, change
):
    meter = add_meter(spent=950_000)
    note_new(database, NOW)
    close(database, waiting(database)[0].id)
    if change == "reset":
        limits.reset(session, ME, meter)
        spend(session, meter, 800_000)
    else:
        limits.change(session, ME, meter, amount="1.10")

    assert note_new(database, NOW) == 1
    assert sorted(told(database)) == [(meter, 80), (meter, 95)]


def test_a_name_that_changes_tells_nothing_anew(database, session, add_meter):
    meter = add_meter(spent=800_000)
    note_new(database, NOW)
    close(database, waiting(database)[0].id)
    limits.change(session, ME, meter, name="other", amount="1.00")

    assert note_new(database, NOW) == 0


@pytest.mark.parametrize(
    ("expires_in", "age", "is_active", "counts"),
    [(DAY, DAY, True, 1), (DAY + SECOND, DAY, True, 0), (DAY, DAY - SECOND, True, 0), (SECOND, DAY, True, 1),
     (timedelta(0), DAY, True, 0), (DAY, DAY, False, 0)],
)  # fmt: skip
def test_a_token_that_has_lived_for_a_day_is_told_of_on_its_last(
    database, session, add_meter, expires_in, age, is_active, counts
):
    times = {"expires_at": NOW + expires_in, "created_at": NOW - age}
    session.execute(update(Token).values(is_active=is_active, **times))
    session.commit()

    assert [note_new(database, NOW), note_new(database, NOW + SECOND / 2)] == [counts, 0]


def test_the_event_of_a_token_says_which_it_is_and_until_when_it_works(database, session, add_meter):
    session.execute(update(Token).values(expires_at=NOW + SECOND, created_at=NOW - DAY))
    session.commit()
    note_new(database, NOW)

    assert orjson.loads(waiting(database)[0].body) == {
        "type": "token.expires_soon",
        "timestamp": "2026-11-23T10:15:00Z",
        "data": {
            "token": {"id": "t", "label": "till"},
            "project": {"id": "p", "name": "shop"},
            "expires_at": "2026-11-23T10:15:01Z",
        },
    }


def test_a_token_that_was_prolonged_is_told_of_again_on_its_new_last_day(database, session, add_meter):
    noted = []
    for days in (1, 5):
        session.execute(update(Token).values(expires_at=NOW + days * DAY, created_at=NOW - DAY))
        session.commit()
        noted += [note_new(database, NOW + day * DAY) for day in range(days)]

    assert noted == [1, 0, 0, 0, 0, 1]


def test_a_model_without_a_price_is_told_of_once_a_day(database) -> None:
    long = "x" * 200
    assert note_unpriced(database, {"llama": 3, long: 1}, NOW) == 2
    assert note_unpriced(database, {"llama": 9, long: 9}, NOW + SECOND) == 0

    told = [orjson.loads(alert.body) for alert in waiting(database)]
    assert sorted((event["type"], *event["data"].values()) for event in told) == [
        ("model.unpriced", "llama", 3),
        ("model.unpriced", long, 1),
    ]
    assert note_unpriced(database, {"llama": 1}, TODAY_ENDS) == 1
    assert note_unpriced(database, {}, NOW) == 0


def test_a_key_that_an_upstream_refuses_is_told_of_once_a_day_and_anew_when_it_was_replaced(
    database, session, add_meter
):
    noted = [note_refused_keys(database, {"p", "gone"}, moment) for moment in (NOW, NOW + SECOND, TODAY_ENDS)]
    told = waiting(database)
    for alert in told:
        close(database, alert.id)
    projects.change(session, KEYRING, ME, "p", name="store")
    noted.append(note_refused_keys(database, {"p"}, TODAY_ENDS))
    projects.change(session, KEYRING, ME, "p", openai_api_key="sk-other")
    noted.append(note_refused_keys(database, {"p"}, TODAY_ENDS))

    assert noted == [1, 0, 1, 0, 1]
    assert [orjson.loads(alert.body) for alert in told] == [
        {"type": "upstream.key_refused", "timestamp": at, "data": {"project": {"id": "p", "name": "shop"}}}
        for at in ("2026-11-23T10:15:00Z", "2026-11-24T00:00:00Z")
    ]


@pytest.mark.parametrize(
    ("kind", "counts"), [("budget.threshold", 3), ("token.expires_soon", 1), ("model.unpriced", 0)]
)
def test_only_wanted_kinds_are_looked_for(database, session, add_meter, kind, counts):
    add_meter(spent=DOLLAR)
    session.execute(update(Token).values(expires_at=NOW + SECOND, created_at=NOW - DAY))
    session.commit()

    assert note_new(database, NOW, {kind}) == counts


def test_events_go_after_thirty_days_but_for_those_of_a_period_that_lasts(database, session, add_meter):
    meters = {name: add_meter(period="total", spent=800_000, period_end=NEVER_US) for name in ("lasts", "deleted")}
    usual = {"kind": "budget.threshold", "threshold": 80, "body": "{}", "state": "delivered"}
    old, over = microseconds(NOW - timedelta(days=cleanup.ALERT_DAYS, seconds=1)), microseconds(NOW) - 1
    rows = [("lasts", meters["lasts"], NEVER_US, old), ("deleted", meters["deleted"], NEVER_US, old),
            ("over", meters["lasts"], over, old), ("young", meters["deleted"], over, over)]  # fmt: skip
    for name, subject, period_end, at in rows:
        session.execute(insert(table).values(id=name, subject=subject, period_end=period_end, at=at, **usual))
    session.commit()
    limits.delete(session, ME, meters["deleted"])

    assert clean(database) == [("alerts", 2)]
    assert set(session.scalars(select(table.c.id))) == {"lasts", "young"}
