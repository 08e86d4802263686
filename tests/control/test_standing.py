"""What the metrics are told of projects, on SQLite and PostgreSQL alike."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from control import standing
from control.standing import projects_seen
from llmproxy.telemetry.projects import ProjectSeen
from llmproxy.times import microseconds
from models import Meter, Project, Token

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("expires_in", "age", "unused_for", "is_active", "counts"),
    [
        (3 * DAY, 7 * DAY, 7 * DAY, True, True),
        (3 * DAY + timedelta(seconds=1), 7 * DAY, DAY, True, False),
        (timedelta(0), 30 * DAY, DAY, True, False),
        (DAY, 7 * DAY - timedelta(seconds=1), DAY, True, False),
        (DAY, 30 * DAY, 7 * DAY + timedelta(seconds=1), True, False),
        (DAY, 30 * DAY, None, True, False),
        (DAY, 30 * DAY, DAY, False, False),
    ],
)
def test_a_token_counts_that_will_be_missed_soon(
    database: Engine,
    session: Session,
    expires_in: timedelta,
    age: timedelta,
    unused_for: timedelta | None,
    is_active: bool,
    counts: bool,
) -> None:
    session.add(Project(id="p", name="shop", openai_api_key="sealed", key_hint="", created_at=NOW))
    used_at = None if unused_for is None else NOW - unused_for
    times = {"expires_at": NOW + expires_in, "created_at": NOW - age, "last_used_at": used_at}
    session.add(Token(token_hash="h", id="t", project_id="p", is_active=is_active, **times))
    session.commit()

    assert projects_seen(database, NOW) == [ProjectSeen("p", "shop", int(counts))]


@pytest.mark.parametrize(("ends_in", "ratio"), [(DAY / 2, 0.75), (timedelta(0), 0.0)])
def test_a_projects_own_meters_are_told_by_the_part_that_is_spent_in_this_period(
    database: Engine, session: Session, ends_in: timedelta, ratio: float
) -> None:
    session.add(Project(id="p", name="shop", openai_api_key="sealed", key_hint="", created_at=NOW))
    session.add(Token(token_hash="h", id="t", project_id="p", expires_at=NOW + DAY, created_at=NOW))
    session.flush()
    numbers = {"amount": 400, "spent": 300, "period_end": microseconds(NOW + ends_in)}
    kind = {"project_id": "p", "name": "m", "unit": "usd", "period": "day", "zone": "UTC", "reserve": "likely"}
    session.add(Meter(id="own", **kind, **numbers))
    session.add(Meter(id="of its token", token_id="t", **kind, **numbers))
    session.commit()

    assert projects_seen(database, NOW) == [ProjectSeen("p", "shop", 0, (("own", ratio),))]


def _missed_soon(project_id: str, expires_at: datetime) -> Token:
    times = {"expires_at": expires_at, "created_at": NOW - 30 * DAY, "last_used_at": NOW}
    return Token(token_hash=project_id, id=project_id, project_id=project_id, **times)


def test_the_bound_keeps_the_newest_those_with_the_soonest_expiry_and_the_owners_of_the_most_used_meters(
    database: Engine, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "MOST", 1)
    names = [
        "oldest",
        "expires soonest",
        "expires later",
        "full",
        "half full",
        "full before",
        "newest",
    ]
    for at, name in enumerate(names):
        made = {"created_at": NOW + timedelta(seconds=at)}
        session.add(Project(id=name, name=name, openai_api_key="sealed", key_hint="", **made))
    session.flush()
    session.add_all([_missed_soon("expires later", NOW + 2 * DAY), _missed_soon("expires soonest", NOW + DAY)])
    kind = {"name": "m", "unit": "usd", "period": "day", "zone": "UTC", "reserve": "likely", "amount": 4}
    for project, spent, ends_in in [(names[4], 2, DAY), (names[5], 5, -DAY), (names[3], 4, DAY)]:
        numbers = {"spent": spent, "period_end": microseconds(NOW + ends_in)}
        session.add(Meter(id=f"of {project}", project_id=project, **kind, **numbers))
    session.commit()

    assert {seen.id: (seen.expiring, seen.used) for seen in projects_seen(database, NOW)} == {
        "newest": (0, ()),
        "expires soonest": (1, ()),
        "full": (0, (("of full", 1.0),)),
    }
