"""One use of llm-benchmark once nothing is left to be refused: warm-up, the run or rounds in turn, the figures."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field, replace

import gevent
from rich.console import Console

from benchmark.call import Call
from benchmark.figures import comparison
from benchmark.figures.figures import figures
from benchmark.figures.goals import Goals
from benchmark.figures.percentiles import Figures
from benchmark.load.runner import Load
from benchmark.load.samples import Run, Sample
from benchmark.output.console import progress
from benchmark.plan import Plan
from benchmark.target import Target


@dataclass
class Side:
    """One of the two targets, or the only one, and what was measured of it."""

    target: Target
    load: Load
    rounds: list[Run] = field(default_factory=list)

    @property
    def run(self) -> Run:
        """All rounds as one."""
        return comparison.joined(self.rounds)


class Session:
    """
    Measures one target, or two in turn.

    Attributes:
        figures: What is written as JSON; of the second target under `compare`, with the differences.
        ended_by: The signal that ended it early, None where none did.
    """

    def __init__(self, targets: list[Target], call: Call, plan: Plan, goals: Goals) -> None:
        self.call = call
        self.sides = [Side(target, Load(target, call, plan.concurrency)) for target in targets]
        self.figures: Figures = {}
        self.ended_by: int | None = None
        self._plan, self._goals = plan, goals

    def measure(self, terminal: Console) -> None:
        """Until the end or a signal; the second signal ends it without figures."""
        handlers = [gevent.signal_handler(number, self._stop, number) for number in (signal.SIGINT, signal.SIGTERM)]
        self._warm_up()
        is_comparing = len(self.sides) == 2
        rounds = comparison.rounds_of(self._plan) if is_comparing else [self._plan]
        turns = comparison.in_turn(len(rounds)) if is_comparing else iter([(0, 0)])
        shown: list[Sample] = []
        with progress(terminal, shown, requests=self._times(self._plan.requests), seconds=self._plan.duration_s):
            for number, side in turns:
                self.sides[side].rounds.append(self.sides[side].load.run(rounds[number], shown))
        for handler in handlers:
            handler.cancel()
        self.figures = self._all_figures()

    def _times(self, requests: int | None) -> int | None:
        return None if requests is None else requests * len(self.sides)

    def _warm_up(self) -> None:
        count = self._plan.warmup
        if count:
            users = min(self._plan.concurrency, count)
            for side in self.sides:
                side.load.run(replace(self._plan, requests=count, duration_s=None, concurrency=users))

    def _stop(self, number: int) -> None:
        if self.ended_by is not None:
            raise SystemExit(128 + number)
        self.ended_by = number
        for side in self.sides:
            side.load.stop()

    def _all_figures(self) -> Figures:
        found = [figures(side.run, side.target, self.call, self._plan, self._goals) for side in self.sides]
        if len(found) == 2:
            found[1]["rounds"] = len(self.sides[0].rounds)
            found[1]["difference"] = comparison.comparison(self.sides[0].rounds, self.sides[1].rounds)
            found[0]["compare"] = found[1]
        return found[0]
