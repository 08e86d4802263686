"""One use of llm-benchmark once nothing is left to be refused: warm-up, levels, rounds in turn, the figures."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import gevent
from rich.console import Console

from benchmark.call import Call
from benchmark.figures import comparison
from benchmark.figures.figures import figures
from benchmark.figures.goals import Goals
from benchmark.figures.percentiles import Figures
from benchmark.figures.saved import compared
from benchmark.load.runner import Load
from benchmark.load.samples import Run, Sample
from benchmark.output.progress import progress
from benchmark.plan import Plan
from benchmark.target import Target


@dataclass
class Level:
    """What was measured by one plan: the rounds of each target."""

    plan: Plan
    rounds: list[list[Run]]

    @cached_property
    def runs(self) -> list[Run]:
        """All rounds of a target as one run, for each target."""
        return [comparison.joined(rounds) for rounds in self.rounds]


class Session:
    """
    Measures one target, or two in turn, at one level of load or several.

    Attributes:
        levels: Those that were measured.
        figures: What is written as JSON, of the last level; of the second target under `compare`, with the
            differences, and of every level under `sweep` where there are several.
        ended_by: The signal that ended it early, None where none did.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        call: Call,
        plans: Sequence[Plan],
        goals: Goals,
        *,
        setup: Figures,
        saved: Figures | None = None,
    ) -> None:
        self.call = call
        self.targets = targets
        self.levels: list[Level] = []
        self.figures: Figures = {}
        self.ended_by: int | None = None
        self._plans, self._goals = plans, goals
        self._setup, self._saved = setup, saved
        users = max(plan.concurrency for plan in plans)
        self._loads = [Load(target, call, users) for target in targets]

    def measure(self, terminal: Console) -> None:
        """Until the end or a signal; the second signal ends it without figures."""
        handlers = [gevent.signal_handler(number, self._stop, number) for number in (signal.SIGINT, signal.SIGTERM)]
        self._warm_up()
        shown: list[Sample] = []
        with progress(terminal, shown, requests=self._all_requests(), seconds=self._all_seconds()):
            for plan in self._plans:
                if self.ended_by is None or not self.levels:
                    self.levels.append(self._measure_level(plan, shown))
        for handler in handlers:
            handler.cancel()
        self.figures = self._all_figures()

    @property
    def failed_urls(self) -> list[str]:
        """The servers that gave no response to any request, on any level."""
        every = zip(self.targets, zip(*(level.runs for level in self.levels), strict=True), strict=True)
        samples = ((target.base_url, [s for run in runs for s in run.samples]) for target, runs in every)
        return [url for url, found in samples if found and all(sample.cause is not None for sample in found)]

    def _measure_level(self, plan: Plan, shown: list[Sample]) -> Level:
        level = Level(plan, [[] for _ in self._loads])
        if len(self._loads) == 1:
            level.rounds[0].append(self._loads[0].run(plan, shown))
            return level
        rounds = comparison.rounds_of(plan)
        for number, side in comparison.in_turn(len(rounds)):
            level.rounds[side].append(self._loads[side].run(rounds[number], shown))
        return level

    def _all_requests(self) -> int | None:
        counts = [plan.requests for plan in self._plans if plan.requests is not None]
        return sum(counts) * len(self._loads) if counts else None

    def _all_seconds(self) -> float | None:
        seconds = [plan.duration_s for plan in self._plans if plan.duration_s is not None]
        return sum(seconds) * len(self._loads) if seconds else None

    def _warm_up(self) -> None:
        plan = max(self._plans, key=lambda plan: plan.concurrency)
        if plan.warmup:
            users = min(plan.concurrency, plan.warmup)
            for load in self._loads:
                load.run(replace(plan, requests=plan.warmup, duration_s=None, concurrency=users))

    def _stop(self, number: int) -> None:
        if self.ended_by is not None:
            raise SystemExit(128 + number)
        self.ended_by = number
        for load in self._loads:
            load.stop()

    def _all_figures(self) -> Figures:
        levels = [self._figures_of(level) for level in self.levels]
        found = levels[-1] | ({"sweep": levels} if len(self._plans) > 1 else {})
        return found | {"setup": self._setup}

    def _figures_of(self, level: Level) -> Figures:
        found, *others = [
            figures(run, target, self.call, level.plan, self._goals)
            for run, target in zip(level.runs, self.targets, strict=True)
        ]
        if others:
            first, second = level.rounds
            found["compare"] = others[0] | {
                "rounds": len(first),
                "difference": comparison.comparison(first, second),
            }
        elif self._saved is not None:
            found |= compared(found, self._saved, self._setup, is_swept=len(self._plans) > 1)
        return found
