"""The numbers of charts, for the script that draws them and for the table beside it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, Literal

import orjson

from accounting.report import Period
from blueprints.admin.display import ABSENT, compact, milliseconds, usd

# Of each unit; money is counted in micro-dollars.
_WORDS: dict[str, Callable[[Any], str]] = {"count": compact, "ms": milliseconds, "usd": usd}

Number = int | float | None


@dataclass(frozen=True, slots=True)
class Series:
    """One line or set of bars. `tone` names its colour."""

    label: str
    tone: str
    values: list[Number]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart over some periods, whose starts are told in `zone`. In a stack the last series stands at the ground."""

    title: str
    kind: Literal["bars", "lines", "stack"]
    unit: Literal["count", "ms", "usd"]
    series: list[Series]
    starts: list[int]
    end: int
    zone: str

    @property
    def data(self) -> str:
        """For the script, as JSON."""
        series = [{"label": s.label, "tone": s.tone, "values": s.values} for s in self.series]
        told = {"kind": self.kind, "unit": self.unit, "zone": self.zone, "starts": self.starts, "end": self.end}
        return orjson.dumps(told | {"series": series}).decode()

    def words(self, index: int) -> list[str]:
        """What each series says about one period."""
        say = _WORDS[self.unit]
        return [ABSENT if (value := series.values[index]) is None else say(value) for series in self.series]


def charts(periods: Sequence[Period], end: datetime, *, with_cost: bool) -> list[Chart]:
    """Requests by how they ended, tokens, costs if there are any, and durations."""
    starts = [int(period.start.timestamp()) for period in periods]
    zone = str(periods[0].start.tzinfo) if periods else "UTC"

    def series(label: str, tone: str, sums: str) -> Series:
        return Series(label, tone, [attrgetter(sums)(period.usage) for period in periods])

    last = int(end.timestamp())
    # Each request is in one of them.
    refused = series("Refused", "fading", "refusals")
    errors = series("Errors", "withered", "errors")
    closed = series("Client closed", "deep", "client_closed")
    told = (period.usage for period in periods)
    well: list[Number] = [each.requests - each.refusals - each.errors - each.client_closed for each in told]
    requests = [Series("Successful", "fresh", well), closed, refused, errors]
    tokens = [series("In and out", "fresh", "total_tokens"), series("Out", "deep", "completion_tokens")]
    durations = [series("95th percentile", "fading", "duration_ms.p95"), series("Median", "fresh", "duration_ms.p50")]
    return [
        Chart("Requests", "stack", "count", requests, starts, last, zone),
        Chart("LLM tokens", "bars", "count", tokens, starts, last, zone),
        *([Chart("Cost", "bars", "usd", [series("Cost", "fresh", "cost")], starts, last, zone)] if with_cost else []),
        Chart("Duration", "lines", "ms", durations, starts, last, zone),
    ]
