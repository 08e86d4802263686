"""What the figures should be."""

from __future__ import annotations

from dataclasses import dataclass

from measure.suite.measurements import Figures


@dataclass(frozen=True)
class Target:
    """
    One figure and its two marks.

    Attributes:
        must, reach: At most so much, or at least where `is_least`; what is only to be reached for has no `must`.
    """

    what: str
    figure: str
    must: float | None
    reach: float
    unit: str
    is_least: bool = False

    def holds(self, value: float, mark: float) -> bool:
        """Whether a value meets a mark."""
        return value >= mark if self.is_least else value <= mark


TARGETS = (
    Target("CPU of a JSON call beside a bare Flask view, same server", "json_cpu_ratio", 2.0, 1.5, "x"),
    Target(
        "calls a second, two workers, load and upstream on the same processors",
        "workers_2_per_s", 4500, 6000, "", is_least=True,
    ),
    # The same target for any machine: those figures are of one whose bare view made 5,990 calls a second.
    Target(
        "calls a second, two workers, beside one worker of the bare view",
        "workers_2_beside_bare", 0.75, 1.0, "x", is_least=True,
    ),
    Target("CPU of an event, 400 streams of 50/s, two workers", "streams_400_cpu_us", 45, 30, "µs"),
    # There a call of the bare view took 166 µs.
    Target("CPU of such an event beside a call of the bare view", "event_beside_bare", 0.27, 0.18, "x"),
    Target("events lost, 400 streams of 50/s", "streams_400_lost", 0, 0, ""),
    Target("added delay of an event, p99, 400 streams of 50/s", "streams_400_added_p99_ms", 20, 20, "ms"),
    Target("events lost, 800 streams of 50/s", "streams_800_lost", None, 0, ""),
    Target("added delay of an event, p99, 800 streams of 50/s", "streams_800_added_p99_ms", None, 20, "ms"),
    Target("added time to first byte, one client, p50", "first_byte_p50_ms", 1.5, 0.8, "ms"),
    Target("added time to first byte, one client, p99", "first_byte_p99_ms", 5, 2, "ms"),
    Target("memory of a worker at rest, what it has in common with others included", "memory_rest_mb", 75, 60, "MB"),
    Target("memory of a worker at rest, its share where there are two", "memory_rest_share_mb", 75, 60, "MB"),
    Target("memory of a worker with 2,000 open streams", "memory_streams_mb", 150, 110, "MB"),
    Target("start to first answer", "start_s", 2, 1, "s"),
    Target("a claim with 100,000 tokens instead of 10, ten in use", "claim_growth", 1.2, 1.0, "x"),
    Target("the overview at 1,000,000 records", "dashboard_ms", 300, 100, "ms"),
)  # fmt: skip


def verdict(target: Target, figures: Figures) -> str:
    """Which of the two marks a figure meets; "-" for none where nothing must be met."""
    value = figures[target.figure]
    if target.holds(value, target.reach):
        return "reach"
    if target.must is None:
        return "-"
    return "must" if target.holds(value, target.must) else "falls short"
