"""How values read on a page: times relative to now, numbers, sizes, and bars that wither. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Literal

from jinja2 import Environment
from markupsafe import Markup

from accounting.report import Brief
from control.limits import standing
from llmproxy.admission import WINDOW, utc_now
from llmproxy.api_log.record import MICRO
from llmproxy.limits import amounts
from llmproxy.limits.periods import PERIODS, RATES
from llmproxy.times import at_microsecond, iso_utc, microseconds
from models import Meter, Project, Token

Tone = Literal["fresh", "fading", "withered"]
# By a budget that is spent, or by what may be done in a minute or an hour.
HeldBack = Literal["spent", "limited"]

_FADING_PERCENT = 50
_WITHERED_PERCENT = 15
_NOW_S = 5
_DOLLARS_IN_FULL = 10_000
_DATE_CHARS = len("2026-11-23 ")
_OF_CALENDAR = frozenset(PERIODS) - RATES - {"total"}
ABSENT = "\N{EN DASH}"
# Up to so many seconds, counted in this unit.
_UNITS = (
    (90, 1, "second"),
    (90 * 60, 60, "minute"),
    (36 * 3600, 3600, "hour"),
    (21 * 86400, 86400, "day"),
    (60 * 86400, 7 * 86400, "week"),
    (730 * 86400, 30.44 * 86400, "month"),
    (float("inf"), 365.25 * 86400, "year"),
)


def span(seconds: float) -> str:
    """A length of time in one unit: "3 hours"."""
    for limit, unit_s, name in _UNITS:
        if seconds < limit:
            number = max(1, round(seconds / unit_s))
            return f"{number} {name}{'' if number == 1 else 's'}"
    raise AssertionError("the last unit has no limit")


def relative(moment: datetime, now: datetime) -> str:
    """A time as seen from `now`: "in 3 hours", "2 days ago", "just now"."""
    seconds = (moment - now).total_seconds()
    if abs(seconds) < _NOW_S:
        return "just now"
    return f"in {span(seconds)}" if seconds > 0 else f"{span(-seconds)} ago"


def exact(moment: datetime, zone: tzinfo = UTC) -> str:
    """A time to the second: "2026-11-23 13:41:05 UTC"."""
    return moment.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S %Z")


def exact_and_utc(moment: datetime, zone: tzinfo) -> str:
    """A time to the second in a zone, and in UTC where that is another: log lines and addresses have that one."""
    local, utc = exact(moment, zone), exact(moment)
    if local == utc:
        return local
    return f"{local}, {utc.removeprefix(local[:_DATE_CHARS])}"


def when(moment: datetime | None, absent: str = "never", *, zone: tzinfo = UTC) -> Markup:
    """A time for a page: relative to now, exact in the zone and in UTC on hover, and for machines."""
    if moment is None:
        return Markup('<span class="quiet">{}</span>').format(absent)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        iso_utc(moment),
        exact_and_utc(moment, zone),
        relative(moment, utc_now()),
    )


def number(value: float | None) -> str:
    """A number with its thousands apart; a dash for none."""
    return ABSENT if value is None else f"{value:,.0f}"


def compact(value: float) -> str:
    """A number in four characters or so: 950, 12.3k, 1.2M."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            divisor = 1e3 if unit == "k" else limit
            return f"{value / divisor:.1f}".rstrip("0").rstrip(".") + unit
    return f"{value:,.0f}"


def usd(microdollars: int | None) -> str:
    """An amount of money: $0.000012, $0.0323, $12.50, $12.3k; a dash for none."""
    if microdollars is None:
        return ABSENT
    dollars = microdollars / MICRO
    if dollars >= _DOLLARS_IN_FULL:
        return f"${compact(dollars)}"
    decimals = 2 if dollars >= 1 else 4 if dollars >= 0.01 else 6
    whole, _, cents = f"{dollars:,.{decimals}f}".partition(".")
    return f"${whole}" if not microdollars else f"${whole}.{cents.rstrip('0'):0<2}"


def milliseconds(value: float | None) -> str:
    """A duration: 850 ms, 12.4 s, 3.5 min; a dash for none."""
    if value is None:
        return ABSENT
    if value < 1000:
        return f"{value:.0f} ms"
    return f"{value / 1000:.1f} s" if value < 120_000 else f"{value / 60_000:.1f} min"


def size(value: float) -> str:
    """Bytes: 512 B, 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that withers: how much is left of it, in percent and in words."""

    percent: int
    words: str

    @property
    def tone(self) -> Tone:
        """Its colour."""
        if self.percent <= _WITHERED_PERCENT:
            return "withered"
        return "fading" if self.percent <= _FADING_PERCENT else "fresh"


@dataclass(frozen=True, slots=True)
class TokenView:
    """
    A token as a row of a table shows it.

    Attributes:
        state: live, limited, spent (its budget is), expired, revoked or off (its project is).
        is_in_hour: Whether an hour that requests are counted in is running.
        lately: What it did in the last 30 days; None where nobody looked.
    """

    token: Token
    project: Project
    state: str
    time_left: Bar
    requests_left: Bar
    rate_limit: int
    is_in_hour: bool
    lately: Brief | None = None

    @property
    def is_over(self) -> bool:
        """Whether it was revoked or has expired, for good."""
        return self.state in ("revoked", "expired")

    @property
    def has_expired(self) -> bool:
        """Whether its time is over, revoked or not."""
        return self.token.expires_at <= utc_now()

    @property
    def title(self) -> str:
        """Its label, or the start of its id where it has none."""
        return self.token.label or f"Token {self.token.id[:8]}"


@dataclass(frozen=True, slots=True)
class LimitView:
    """
    A meter as a page shows it: its amounts in words, and what is left of it as a bar.

    Attributes:
        held: For running calls; "" for nothing.
        held_percent: Of the bar, behind what is left.
        calendar: Whose days, weeks or months it counts by, "days of UTC"; "" where it goes by none.
        is_used_up: It lets no call pass, whether or not some of it is held.
    """

    id: str
    name: str
    unit: str
    per: str
    models: str
    amount: str
    spent: str
    held: str
    left: str
    bar: Bar
    held_percent: int
    resets_at: datetime | None
    calendar: str
    is_used_up: bool


def limit_view(meter: Meter, now: datetime) -> LimitView:
    """How a meter stands at `now`."""
    found = standing(meter, microseconds(now))
    unit = "dollars" if meter.unit == "usd" else "LLM tokens" if meter.unit == "tokens" else meter.unit

    def words(amount: int) -> str:
        if meter.unit == "usd":
            return f"${amounts.usd(amount)}"
        return f"{amount:,} {unit.removesuffix('s') if amount == 1 else unit}"

    left_percent = _percent(found.remaining / (meter.amount or 1))
    return LimitView(
        id=meter.id,
        name=meter.name,
        unit=unit,
        per="in total" if meter.period == "total" else f"per {meter.period}",
        models=(meter.models or "").replace(",", ", "),
        amount=words(meter.amount),
        spent=words(found.spent),
        held=words(found.reserved) if found.reserved else "",
        left=words(found.remaining),
        bar=Bar(left_percent, words(found.remaining)),
        held_percent=min(_percent(found.reserved / (meter.amount or 1)), 100 - left_percent),
        resets_at=at_microsecond(found.resets_at) if found.resets_at is not None else None,
        calendar=f"{meter.period}s of {meter.zone}" if meter.period in _OF_CALENDAR else "",
        is_used_up=found.spent >= meter.amount,
    )


def token_view(
    token: Token, project: Project, *, now: datetime, default_limit: int, held_back: HeldBack | None
) -> TokenView:
    """
    What is left of `token` at `now`.

    Args:
        held_back: By a meter of its own or of its project, which lets none of its calls pass.
    """
    limit = token.rate_limit or default_limit
    is_in_hour = token.window_started_at is not None and token.window_started_at > now - WINDOW
    used = token.request_count if is_in_hour else 0
    left = max(0, limit - used)
    left_s = (token.expires_at - now).total_seconds()
    lifetime_s = max(1.0, (token.expires_at - token.created_at).total_seconds())
    return TokenView(
        token=token,
        project=project,
        state=_state(token, project, now, held_back or (None if left else "limited")),
        time_left=Bar(_percent(left_s / lifetime_s), f"{span(left_s)} left" if left_s > 0 else "none left"),
        requests_left=Bar(_percent(left / limit), f"{left:,} of {limit:,} left"),
        rate_limit=limit,
        is_in_hour=is_in_hour,
    )


def _state(token: Token, project: Project, now: datetime, held_back: HeldBack | None) -> str:
    if not token.is_active:
        return "revoked"
    if token.expires_at <= now:
        return "expired"
    if not project.is_active:
        return "off"
    return held_back or "live"


def _percent(part: float) -> int:
    return round(100 * min(1.0, max(0.0, part)))


def for_input(moment: datetime, zone: tzinfo) -> str:
    """A time as `<input type="datetime-local">` holds it, in a zone to the minute."""
    return moment.astimezone(zone).strftime("%Y-%m-%dT%H:%M")


def _now_ms() -> int:
    return int(utc_now().timestamp() * 1000)


def register(environment: Environment, zone: Callable[[], tzinfo]) -> None:
    """Give the templates these filters, and the time; `zone` tells the zone of the page that is being made."""
    environment.globals["now_ms"] = _now_ms
    environment.filters["when"] = lambda moment, absent="never": when(moment, absent, zone=zone())
    for function in (number, compact, usd, milliseconds, size):
        environment.filters[function.__name__] = function
