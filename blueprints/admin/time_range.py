"""
*From* and *To* of a list: in addresses as times of UTC, which mean the same to every reader; in forms as times of
the pages' zone, as `<input type="datetime-local">` holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo

from blueprints.admin import zones

NAMES = ("from", "to")
# The first and the last times that there are have none in another zone.
_YEARS = range(2000, 2201)


def moment(name: str, text: str, zone: tzinfo = UTC) -> datetime | None:
    """
    What *From* or *To* means; None for none, or for what is no time.

    A day alone is meant from its beginning, or to its end. Where clocks are put back an hour comes twice, and
    where they are put forward one does not come: *From* is the earlier of what may be meant, *To* the later.
    """
    try:
        told = datetime.fromisoformat(text)
        if name == "to" and _is_day(text):
            told += timedelta(days=1)
    except (ValueError, OverflowError):
        return None
    if told.year not in _YEARS:
        return None
    if told.tzinfo:
        return told
    meant = (told.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    return (max if name == "to" else min)(meant, key=datetime.timestamp)


def moments(said: Mapping[str, str]) -> tuple[datetime | None, datetime | None, str | None]:
    """What the *From* and *To* of an address mean, and the name of the first of them that is no time."""
    meant = {name: moment(name, said.get(name, "").strip()) for name in NAMES}
    wrong = next((name for name in NAMES if said.get(name) and meant[name] is None), None)
    return meant["from"], meant["to"], wrong


def words(zone: str) -> str:
    """What is wrong with what is no time; `zone` is that of the form."""
    return f"A time must be like 2026-11-23T18:30, in {zone}."


def for_address(form: Mapping[str, str]) -> dict[str, str]:
    """
    What a form says, as an address has it; what is no time stays as it was sent.

    What nobody touched means what the address did that the form was shown for (`from_was`, `to_was`): a field has
    no second of the hours that come twice.
    """
    return {name: _for_address(name, form) for name in NAMES}


def for_form(said: Mapping[str, str]) -> dict[str, str]:
    """What an address says, as a form shows it, and for it to send again as `from_was` and `to_was`."""
    told = {name: said.get(name, "") for name in NAMES}
    return {name: _shown(name, told[name]) for name in NAMES} | {f"{name}_was": told[name] for name in NAMES}


def _for_address(name: str, form: Mapping[str, str]) -> str:
    text, was = form.get(name, "").strip(), form.get(f"{name}_was", "").strip()
    if text == _shown(name, was):
        return was
    meant = moment(name, text, zones.of_pages())
    return _written(meant, UTC) if meant else text


def _shown(name: str, text: str) -> str:
    meant = moment(name, text)
    return _written(meant, zones.of_pages()) if meant else text


def _written(meant: datetime, zone: tzinfo) -> str:
    return meant.astimezone(zone).replace(tzinfo=None).isoformat().removesuffix(":00")


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
