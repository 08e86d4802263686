"""
What the template draws: pixels, and texts that stand in nobody's way.

Every chart is made in two widths, because an SVG that shrinks with the window shrinks its letters too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from benchmark.output.charts.axis import Axis
from benchmark.output.spoken import spoken_count, spoken_ms

WIDTHS = {"wide": 1000, "narrow": 343}
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 30
SPARSE_DOTS = 300
# Ticks may stand close together far from zero.
TICK_DIGITS = 4
# Of the 12 pixels that the stylesheet gives to texts, in the widest of usual fonts (DejaVu Sans Bold).
LETTER_WIDTH, LETTER_HEIGHT, LETTER_DEPTH, MARK_RADIUS = 8.4, 12, 3, 6
OTHER_WIDTHS = dict.fromkeys(" .,/:", 5.0) | dict.fromkeys("m%", 12.5)
# Half the stroke round a mark's name: it covers what stands below.
HALO = 2.5
TICK_DISTANCE = 8

Anchor = str
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Text:
    """A text at a place: `anchor` says which end of it stands there, `halo` how far it covers what is round it."""

    x: float
    y: float
    text: str
    anchor: Anchor = "middle"
    halo: float = 0.0

    @property
    def box(self) -> Box:
        """Left, top, right, bottom."""
        width = sum(OTHER_WIDTHS.get(letter, LETTER_WIDTH) for letter in self.text)
        left = self.x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor]
        top, bottom = self.y - LETTER_HEIGHT, self.y + LETTER_DEPTH
        return left - self.halo, top - self.halo, left + width + self.halo, bottom + self.halo


@dataclass(frozen=True)
class Mark:
    """A point; `label` is None where there is no room for its name."""

    x: float
    y: float
    name: str
    side: int
    label: Text | None = None


@dataclass
class Chart:
    """`lines` are SVG paths, one or more for each side, with their class; `bars` have place, size and class."""

    kind: str
    height: int
    x_ticks: list[Text] = field(default_factory=list)
    x_lines: list[float] = field(default_factory=list)
    y_ticks: list[Text] = field(default_factory=list)
    lines: list[tuple[str, int, str]] = field(default_factory=list)
    dots: list[tuple[float, float, int]] = field(default_factory=list)
    failed: list[tuple[float, float]] = field(default_factory=list)
    bars: list[tuple[float, float, float, float, str]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    axis: Axis | None = None
    _ink: list[tuple[float, float]] = field(default_factory=list)

    @property
    def width(self) -> int:
        """All of it."""
        return WIDTHS[self.kind]

    @property
    def right(self) -> int:
        """Where the plot ends."""
        return self.width - RIGHT

    @property
    def bottom(self) -> int:
        """Where the plot ends."""
        return self.height - BOTTOM

    @property
    def is_sparse(self) -> bool:
        """Whether its dots are few enough to be drawn boldly."""
        return len(self.dots) < SPARSE_DOTS

    def add_x_ticks(self, axis: Axis, *, wide: int, narrow: int, told: Callable[[float], str]) -> None:
        """About so many in either width, of which none overlaps another."""
        for value in axis.ticks(wide if self.kind == "wide" else narrow):
            text = Text(axis.at(value), self.height - 10, told(value))
            self.x_lines.append(text.x)
            if text.box[2] > self.width:
                text = replace(text, x=self.width - 2, anchor="end")
            if not self.x_ticks or text.box[0] >= self.x_ticks[-1].box[2] + TICK_DISTANCE:
                self.x_ticks.append(text)

    def add_y_ticks(self, axis: Axis, count: int, told: Callable[[float], str]) -> None:
        """About so many."""
        self.y_ticks += [Text(LEFT - 8, axis.at(value) + 4, told(value), "end") for value in axis.ticks(count)]

    def add_line(self, points: Sequence[tuple[float, float] | None], side: int, name: str) -> None:
        """A line through the points, interrupted where there is none; `name` is its class."""
        self.lines.append((path(points), side, name))
        self._ink += _along(points)

    def name_marks(self) -> None:
        """Finds a place for each name, where it meets no other, no mark, no edge, and no line where that can be."""
        taken = [(m.x - MARK_RADIUS, m.y - MARK_RADIUS, m.x + MARK_RADIUS, m.y + MARK_RADIUS) for m in self.marks]
        for number, mark in enumerate(self.marks):
            roomy = [text for text in _places(mark) if self._has_room(text.box, taken)]
            label = next((text for text in roomy if not self._is_inked(text.box)), roomy[0] if roomy else None)
            taken += [label.box] if label is not None else []
            self.marks[number] = replace(mark, label=label)

    def _has_room(self, box: Box, taken: Sequence[Box]) -> bool:
        left, top, right, bottom = box
        is_inside = left >= LEFT and right <= self.right and top >= 0 and bottom <= self.bottom
        return is_inside and not any(
            left < other[2] and right > other[0] and top < other[3] and bottom > other[1] for other in taken
        )

    def _is_inked(self, box: Box) -> bool:
        left, top, right, bottom = box
        return any(left < x < right and top < y < bottom for x, y in self._ink)


def _places(mark: Mark) -> Iterator[Text]:
    """Where its name may stand, best first: that of the second side on the other side of its curve."""
    for far in range(0, 96, 16):
        below = Text(mark.x + 10, mark.y + 16 + far, mark.name, "start", HALO)
        above = Text(mark.x - 10, mark.y - 8 - far, mark.name, "end", HALO)
        yield from (below, above) if mark.side == 0 else (above, below)
        for text in (above, below):
            yield replace(text, x=mark.x + 10, anchor="start")
            yield replace(text, x=mark.x - 10, anchor="end")
            yield replace(text, x=mark.x, anchor="middle")


def spoken_tick_ms(value: float) -> str:
    """Milliseconds beside an axis."""
    return spoken_ms(value, TICK_DIGITS)


def spoken_seconds(value: float) -> str:
    """Seconds beside an axis."""
    return f"{spoken_count(value)} s"


def _along(points: Sequence[tuple[float, float] | None]) -> Iterator[tuple[float, float]]:
    """Points of the line, none farther from the next than a letter is high."""
    for (x, y), (to_x, to_y) in pairwise(point for point in points if point is not None):
        count = 1 + int(max(abs(to_x - x), abs(to_y - y)) / LETTER_HEIGHT)
        yield from ((x + (to_x - x) * part / count, y + (to_y - y) * part / count) for part in range(count))


def path(points: Sequence[tuple[float, float] | None]) -> str:
    """An SVG path through the points, interrupted where there is none."""
    drawn, command = "", "M"
    for point in points:
        drawn += f"{command}{point[0]:g},{point[1]:g}" if point else ""
        command = "L" if point else "M"
    return drawn
