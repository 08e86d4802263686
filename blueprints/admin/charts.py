"""Charts as coordinates: what the server draws as SVG, and the numbers that a script draws anew. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, Literal

import orjson

from accounting.report import Period
from blueprints.admin.display import ABSENT, compact, milliseconds, usd

WIDTH, HEIGHT = 600, 120
# Of each unit; money is counted in micro-dollars.
_WORDS: dict[str, Callable[[Any], str]] = {"count": compact, "ms": milliseconds, "usd": usd}
_GAP = 0.22  # of a bar's share of the width

Number = int | float | None


@dataclass(frozen=True, slots=True)
class Series:
    """One line or set of bars. `tone` names its colour."""

    label: str
    tone: str
    values: list[Number]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the server draws of a series: bars as rectangles, a line as pieces of points."""

    tone: str
    bars: list[tuple[float, float, float, float]]
    lines: list[str]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart over some periods, whose starts are told in `zone`. `highest` is the number at its top, in words."""

    title: str
    kind: Literal["bars", "lines"]
    unit: Literal["count", "ms", "usd"]
    series: list[Series]
    starts: list[int]
    end: int
    zone: str

    @property
    def highest(self) -> str:
        """The number at the top of the scale."""
        return _words(self.unit)(_top(self.series))

    @property
    def shapes(self) -> list[Shape]:
        """The drawing, in a box of WIDTH by HEIGHT."""
        top = _top(self.series) or 1
        draw = _bars if self.kind == "bars" else _lines
        return [draw(series, top) for series in self.series]

    @property
    def data(self) -> str:
        """The same for a script, as JSON."""
        series = [{"label": s.label, "tone": s.tone, "values": s.values} for s in self.series]
        told = {"kind": self.kind, "unit": self.unit, "zone": self.zone, "starts": self.starts, "end": self.end}
        return orjson.dumps(told | {"series": series}).decode()

    def words(self, index: int) -> list[str]:
        """What each series says about one period."""
        say = _words(self.unit)
        return [ABSENT if (value := series.values[index]) is None else say(value) for series in self.series]


def charts(periods: Sequence[Period], end: datetime, *, with_cost: bool) -> list[Chart]:
    """Requests with errors and refusals, tokens, costs if there are any, and durations."""
    starts = [int(period.start.timestamp()) for period in periods]
    zone = str(periods[0].start.tzinfo) if periods else "UTC"

    def series(label: str, tone: str, sums: str) -> Series:
        return Series(label, tone, [attrgetter(sums)(period.usage) for period in periods])

    last = int(end.timestamp())
    requests = [
        series("Requests", "fresh", "requests"),
        series("Refused", "fading", "refusals"),
        series("Errors", "withered", "errors"),
    ]
    tokens = [series("In and out", "fresh", "total_tokens"), series("Out", "deep", "completion_tokens")]
    durations = [series("95th percentile", "fading", "duration_ms.p95"), series("Median", "fresh", "duration_ms.p50")]
    return [
        Chart("Requests", "bars", "count", requests, starts, last, zone),
        Chart("LLM tokens", "bars", "count", tokens, starts, last, zone),
        *([Chart("Cost", "bars", "usd", [series("Cost", "fresh", "cost")], starts, last, zone)] if with_cost else []),
        Chart("Duration", "lines", "ms", durations, starts, last, zone),
    ]


def _words(unit: str) -> Callable[[Any], str]:
    return _WORDS[unit]


def _top(series: list[Series]) -> float:
    return max((value for each in series for value in each.values if value), default=0)


def _bars(series: Series, top: float) -> Shape:
    share = WIDTH / max(1, len(series.values))
    bars = [
        (round(index * share + share * _GAP / 2, 2), round(HEIGHT - height, 2), round(share * (1 - _GAP), 2), height)
        for index, value in enumerate(series.values)
        if value and (height := round(max(1.5, HEIGHT * value / top), 2))
    ]
    return Shape(series.tone, bars, [])


def _lines(series: Series, top: float) -> Shape:
    """One piece of line for each run of periods with a value."""
    share = WIDTH / max(1, len(series.values))
    pieces: list[list[str]] = [[]]
    for index, value in enumerate(series.values):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{(index + 0.5) * share:.1f},{HEIGHT - (HEIGHT - 3) * value / top:.1f}")
    # A single period would be a line without length.
    lines = [" ".join(piece * 2 if len(piece) == 1 else piece) for piece in pieces if piece]
    return Shape(series.tone, [], lines)
