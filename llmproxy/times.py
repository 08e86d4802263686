"""Times as text: how this product writes them, and how it reads what others wrote."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH, _US = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def iso_utc(moment: datetime, *, timespec: str = "seconds") -> str:
    """An aware time as ISO 8601 in UTC with Z; `timespec` as of `datetime.isoformat`."""
    return moment.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def from_iso(text: object) -> datetime | None:
    """The time in UTC that a text of ISO 8601 with a zone names; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)  # type: ignore[arg-type]
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (TypeError, ValueError, OverflowError):
        return None


def microseconds(moment: datetime) -> int:
    """An aware time in whole microseconds since 1970 UTC."""
    return (moment - _EPOCH) // _US


def at_microsecond(count: int) -> datetime:
    """The time in UTC of so many microseconds since 1970."""
    return _EPOCH + count * _US
