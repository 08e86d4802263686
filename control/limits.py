"""
What operators may do with limits: the rules and meters of tokens and projects; see `control.projects`.

Whoever touches several rows locks the project, then the token, then meters by their ids, as claims and settlements
do. Each change adds one to the owner's `rules_version`, so that a call that was judged before it is judged again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import orjson
from sqlalchemy import ColumnElement, Select, and_, or_, select

from control import alerts, audit
from control.audit import Actor, Facts
from control.errors import Conflict, NotFound
from database import schema
from database.engine import Session, write_transaction
from llmproxy.admission import utc_now
from llmproxy.limits import amounts, meters, periods
from llmproxy.limits.reservations import Ruled
from llmproxy.times import microseconds
from models import Meter, Project, Token, new_id

FIRST_TO_HOLD = "0010"  # older code lets calls pass that a rule or a meter would not
# A claim locks all that hold for its call.
MOST = 20
# What tells one meter from another, and stays as it is for its life.
_FIXED = ("unit", "period", "zone", "models")

# What was read before the lock may have changed while it was waited for.
_FRESH = {"populate_existing": True}

# Of what is said about an owner, what `apply` takes.
FIELDS = ("rules", "meters")

Owner = Project | Token
Row = TypeVar("Row")


class Standing(NamedTuple):
    """
    How a meter stands at a moment, in its unit.

    Attributes:
        remaining: What neither was spent nor is held for running calls; never below 0.
        resets_at: Microseconds since 1970 UTC; None for a total, which never does.
    """

    spent: int
    reserved: int
    remaining: int
    resets_at: int | None


def standing(row: Meter, now_us: int) -> Standing:
    """The meter's numbers; a period that is over has nothing spent, whether or not a call came since."""
    meter = _read(row)
    meter = meters.turned(meter, now_us, periods.period_ends(meter.period, meter.zone, now_us))
    left = max(meter.amount - meter.spent - meter.reserved, 0)
    return Standing(meter.spent, meter.reserved, left, None if row.period == "total" else meter.period_end)


def is_used_up(now_us: int, of_periods: Iterable[periods.Period]) -> ColumnElement[bool]:
    """Whether a row of `meters` has such a period and lets no call pass, of whatever model; see `standing`."""
    runs = (
        and_(Meter.period == period, Meter.period_end <= now_us + periods.FURTHEST_US[period])
        for period in sorted(of_periods)
    )
    return and_(Meter.spent >= Meter.amount, Meter.models.is_(None), Meter.period_end > now_us, or_(*runs))


def find(session: Session, meter_id: str) -> Meter:
    """The meter. Raises NotFound."""
    return _required(session.get(Meter, meter_id), "id", "meter")


def of(session: Session, owner: Owner) -> list[Meter]:
    """An owner's own meters, in the order of their names."""
    return sorted(session.scalars(_of(owner)), key=lambda meter: (meter.name, meter.id))


def holding_for(session: Session, token: Token) -> list[Meter]:
    """What holds for a token: its own meters, then its project's."""
    return of(session, token) + of(session, token.project)


def look(session: Session, owner: Owner, rules: dict[str, Any] | None) -> Ruled:
    """
    What a call of the token would be judged by at this moment, or of a project's token that has no limits of its own.

    Args:
        rules: The owner's, in place of those that it has.
    """
    token = owner if isinstance(owner, Token) else None
    project = token.project if token else owner
    own, beside = (orjson.dumps(each).decode() if each else None for each in (rules, project.rules))
    return Ruled(
        version=owner.rules_version,
        project_version=project.rules_version,
        rules=own if token else None,
        project_rules=beside if token else own,
        project_name=project.name,
        default_tier=project.default_tier,
        in_flight=token.in_flight if token else 0,
        meters=tuple(map(_read, holding_for(session, token) if token else of(session, owner))),
        now_us=microseconds(utc_now()),
        seen_s=time.monotonic(),
    )


def listed(
    session: Session, *, limit: int, project_id: str | None = None, token_id: str | None = None, after: str = ""
) -> tuple[list[Meter], bool]:
    """
    Meters by their ids, and whether more follow.

    Args:
        project_id: Those alone of the project and its tokens.
        token_id: Those alone of the token.
        after: The id of the last one of the page before.
    """
    statement = select(Meter).where(Meter.id > after)
    for column, value in ((Meter.project_id, project_id), (Meter.token_id, token_id)):
        if value is not None:
            statement = statement.where(column == value)
    rows = list(session.scalars(statement.order_by(Meter.id).limit(limit + 1)))
    return rows[:limit], len(rows) > limit


def create(
    session: Session, actor: Actor, *, project_id: str | None = None, token_id: str | None = None, **fields: Any
) -> Meter:
    """
    A new meter of a token, or of a project where no token is named. Raises NotFound, and Conflict past MOST or for a
    token that is over.

    Args:
        fields: As the model has them: unit, period, amount, and any of name, zone, models, reserve.
    """
    with write_transaction(session):
        owner = lock(session, project_id=project_id, token_id=token_id)
        require_life(owner, "token_id")
        meter = _add(session, actor, owner, fields)
        _mark(session, owner)
    return meter


def change(session: Session, actor: Actor, meter_id: str, **fields: Any) -> Meter:
    """
    Change a meter, which goes on with its count. Raises NotFound, and Conflict for an amount in another unit or a
    token that is over.

    Args:
        fields: Any of name, amount, reserve.
    """
    with write_transaction(session):
        owner, meter = _lock_owned(session, meter_id)
        _change(session, actor, owner, meter, fields)
        _mark(session, owner)
    return meter


def delete(session: Session, actor: Actor, meter_id: str) -> None:
    """Delete a meter, also of a token that is over: it limits nobody from the next call on. Raises NotFound."""
    with write_transaction(session):
        owner, meter = _lock_owned(session, meter_id, is_alive=False)
        _delete(session, actor, owner, meter)
        _mark(session, owner)


def reset(session: Session, actor: Actor, meter_id: str) -> Meter:
    """
    Let a meter begin its period anew, with nothing spent; running calls stay held.

    Raises NotFound, and Conflict for a token that is over.
    """
    with write_transaction(session):
        owner, meter = _lock_owned(session, meter_id)
        before = {"name": meter.name, "spent": amounts.shown(meter.unit, meter.spent)}
        meter.spent, meter.last_end, meter.alerted = 0, 0, 0
        alerts.tell_again(session, meter.id)
        audit.add(session, actor, "reset_meter", owner, before=before, after={"spent": amounts.shown(meter.unit, 0)})
    return meter


def lock(session: Session, *, project_id: str | None = None, token_id: str | None = None) -> Owner:
    """
    The token, or the project where no token is named, as it is once it is locked, in everybody's order.

    Raises NotFound. The caller has a transaction.
    """
    if token_id is None:
        of_project = select(Project).where(Project.id == project_id).with_for_update(key_share=True)
        project: Project | None = session.scalar(of_project.execution_options(**_FRESH))
        return _required(project, "project_id", "project")
    whose = select(Token.project_id).where(Token.id == token_id).scalar_subquery()
    session.execute(select(Project.id).where(Project.id == whose).with_for_update(read=True, key_share=True))
    of_token = select(Token).where(Token.id == token_id).with_for_update()
    token: Token | None = session.scalar(of_token.execution_options(**_FRESH))
    return _required(token, "token_id", "token")


def is_over(owner: Owner | None) -> bool:
    """Whether it is a token that was revoked or has expired."""
    return isinstance(owner, Token) and (not owner.is_active or owner.expires_at <= utc_now())


def require_life(owner: Owner, field: str) -> None:
    """Raises Conflict for a token that is over."""
    # Its holder was told that it is over, and may have thrown it away: where, nobody knows.
    if isinstance(owner, Token) and is_over(owner):
        state = "was revoked" if not owner.is_active else "has expired"
        raise Conflict(field, f"The token {state}, and does not come back: issue a new one.")


def given(rules: dict[str, Any] | None, meters: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `apply` takes for a new owner: nothing where it gets no limits."""
    return ({"rules": rules} if rules else {}) | ({"meters": meters} if meters else {})


def apply(session: Session, actor: Actor, owner: Owner, limits: Mapping[str, Any]) -> None:
    """
    Give an owner limits, in the caller's transaction, which has locked it, and tells the audit trail of its rules.

    Raises NotFound, and Conflict for what cannot be changed in a meter or past MOST.

    Args:
        limits: Any of `rules`, a JSON document that has been checked or None, and `meters`: fields of each that it is
            to have, and no others. One that has an `id` is there already and goes on with its count.
    """
    if "rules" in limits:
        owner.rules = limits["rules"] or None
    if "meters" in limits:
        _replace(session, actor, owner, limits["meters"])
    if limits:
        _mark(session, owner)


def columns(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of a new owner that is to have limits; `give` brings its meters."""
    return {"rules": limits.get("rules"), "is_ruled": True, "rules_version": 1} if limits else {}


def give(session: Session, actor: Actor, owners: Sequence[Owner], limits: Mapping[str, Any]) -> None:
    """
    Give new owners their limits, as `apply` would each, with as few statements for a thousand as for one.

    They have `columns` already, and are in the caller's transaction. Raises Conflict past MOST.
    """
    if not limits:
        return
    if wanted := limits.get("meters", ()):
        _require_few(owners[0], len(wanted))
        made = [(owner, _owned(owner, fields)) for owner in owners for fields in wanted]
        session.add_all(meter for _, meter in made)
        audit.add_made(session, actor, "create_meter", [(owner, _facts(meter)) for owner, meter in made])
    schema.raise_floor(session, FIRST_TO_HOLD)


def are_as_asked(session: Session, owner: Owner, limits: Mapping[str, Any]) -> bool:
    """Whether an owner has the limits that a call like `apply` would have given a new one."""
    wanted = [_facts(_new(fields)) for fields in limits.get("meters", ())]
    present = [_facts(meter) for meter in session.scalars(_of(owner))]
    return owner.rules == (limits.get("rules") or None) and sorted(wanted, key=repr) == sorted(present, key=repr)


def _replace(session: Session, actor: Actor, owner: Owner, wanted: Sequence[dict[str, Any]]) -> None:
    present = {meter.id: meter for meter in session.scalars(_of(owner).with_for_update())}
    named = [fields["id"] for fields in wanted if "id" in fields]
    kept = set(named)
    if kept - present.keys():
        raise NotFound("meters.id", f"meter of this {audit.kind_of(owner)}")
    if len(kept) < len(named):
        raise Conflict("meters", "A meter stands in the list twice.")
    for meter_id in sorted(present.keys() - kept):
        _delete(session, actor, owner, present[meter_id])
    for fields in wanted:
        if "id" in fields:
            changes = {name: value for name, value in fields.items() if name != "id"}
            _change(session, actor, owner, present[fields["id"]], changes)
        else:
            _add(session, actor, owner, fields)


def _read(row: Meter) -> meters.Meter:
    return meters.Meter(**{name: getattr(row, name) for name in meters.Meter._fields})


def _required(row: Row | None, field: str, what: str) -> Row:
    if row is None:
        raise NotFound(field, what)
    return row


def _of(owner: Owner) -> Select[Any]:
    if isinstance(owner, Token):
        return select(Meter).where(Meter.token_id == owner.id).order_by(Meter.id)
    return select(Meter).where(Meter.project_id == owner.id, Meter.token_id.is_(None)).order_by(Meter.id)


def _lock_owned(session: Session, meter_id: str, *, is_alive: bool = True) -> tuple[Owner, Meter]:
    found = find(session, meter_id)
    owner = lock(session, project_id=found.project_id, token_id=found.token_id)
    if is_alive:
        require_life(owner, "id")
    of_id = select(Meter).where(Meter.id == meter_id).with_for_update()
    return owner, _required(session.scalar(of_id.execution_options(**_FRESH)), "id", "meter")


def _add(session: Session, actor: Actor, owner: Owner, fields: dict[str, Any]) -> Meter:
    meter = _owned(owner, fields)
    session.add(meter)
    audit.add(session, actor, "create_meter", owner, after=_facts(meter))
    return meter


def _owned(owner: Owner, fields: dict[str, Any]) -> Meter:
    project_id, token_id = (owner.project_id, owner.id) if isinstance(owner, Token) else (owner.id, None)
    return _new(fields, id=new_id(), project_id=project_id, token_id=token_id)


def _new(fields: dict[str, Any], **whose: str | None) -> Meter:
    columns = {"zone": "UTC", "reserve": "likely", "models": None, **fields, **whose}
    columns["amount"] = _amount(fields["unit"], fields["amount"])
    columns["name"] = fields.get("name") or _name(fields["unit"], fields["period"])
    return Meter(**columns)


def _change(session: Session, actor: Actor, owner: Owner, meter: Meter, fields: dict[str, Any]) -> None:
    for name in _FIXED:
        if name in fields and fields[name] != getattr(meter, name):
            raise Conflict(name, f"A meter's {name} stays as it is: delete the meter, and make another.")
    before = _facts(meter)
    if "amount" in fields:
        meter.amount = _amount(meter.unit, fields["amount"])
    meter.name = fields.get("name", meter.name)
    meter.reserve = fields.get("reserve", meter.reserve)
    after = _facts(meter)
    changed = [name for name in after if after[name] != before[name]]
    if "amount" in changed:
        meter.last_end = 0  # it was spent of another amount
        alerts.tell_again(session, meter.id)
    if changed:
        told = {name: before[name] for name in ("name", *changed)}
        audit.add(session, actor, "change_meter", owner, before=told, after={name: after[name] for name in changed})


def _amount(unit: str, wire: str | int) -> int:
    try:
        return amounts.read(unit, wire)
    except ValueError as exc:
        raise Conflict("amount", f"This meter counts {unit}, so its amount {exc}.") from exc


def _delete(session: Session, actor: Actor, owner: Owner, meter: Meter) -> None:
    audit.add(session, actor, "delete_meter", owner, before=_facts(meter))
    session.delete(meter)


def _mark(session: Session, owner: Owner) -> None:
    """Let claims see that something about the owner's limits has changed."""
    session.flush()
    count = len(session.scalars(_of(owner)).all())
    _require_few(owner, count)
    owner.is_ruled = bool(count) or owner.rules is not None
    owner.rules_version += 1
    if owner.is_ruled:
        schema.raise_floor(session, FIRST_TO_HOLD)


def _require_few(owner: Owner, meters: int) -> None:
    if meters > MOST:
        raise Conflict("meters", f"A {audit.kind_of(owner)} may have {MOST} meters at most.")


def _facts(meter: Meter) -> Facts:
    told: Facts = {name: getattr(meter, name) for name in ("name", *_FIXED, "reserve")}
    return told | {"amount": amounts.shown(meter.unit, meter.amount)}


def _name(unit: str, period: str) -> str:
    return f"{'USD' if unit == 'usd' else unit} {'in total' if period == 'total' else f'per {period}'}"
