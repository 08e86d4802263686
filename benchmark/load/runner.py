"""Runs a plan with Locust as a library: so many users, exactly so many requests, our own samples."""

from __future__ import annotations

import logging
import time
from typing import Any

from gevent.event import Event
from locust import task
from locust.env import Environment
from locust.exception import StopUser

from benchmark.call import Call
from benchmark.load.caller import Caller
from benchmark.load.connections import Connections
from benchmark.load.first_response import refusal
from benchmark.load.samples import Run, Sample
from benchmark.load.schedule import Schedule
from benchmark.load.strain import strain
from benchmark.plan import Plan
from benchmark.refused import Refused
from benchmark.target import Target

# Locust announces each step of a run; what there is to say is said by the summary.
logging.getLogger("locust").setLevel(logging.ERROR)


class Load:
    """
    The load on one target. Its connections stay open from one run to the next.

    The first response of all decides whether to go on: a probe would be one request more than was asked for.
    """

    def __init__(self, target: Target, call: Call, concurrency: int) -> None:
        self.target = target
        self.call = call
        self._outgoing = call.outgoing(target)
        self._connections = Connections(concurrency, call.timeout_s)
        self._environment: Environment | None = None
        self._stopped = False
        self._is_first = True
        self._refusal: str | None = None

    def run(self, plan: Plan, shown: list[Sample] | None = None) -> Run:
        """
        Sends what the plan asks for, without its warm-up, and waits for the last response.

        `shown` gets every sample as it ends, for whoever looks at it meanwhile. Raises Refused when the first
        response says that there is no use in going on.
        """
        samples: list[Sample] = []
        schedule, ready = Schedule(plan), Event()
        runner = self._spawn(plan.concurrency, schedule, ready, [samples] if shown is None else [samples, shown])
        with strain() as own:
            began_ns = time.monotonic_ns()
            schedule.begin()
            if not self._stopped:
                ready.set()
                runner.user_greenlets.join()
            stopped_ns = time.monotonic_ns()
        runner.quit()
        if self._refusal is not None:
            raise Refused(self._refusal)
        last_ns = max((sample.ended_ns for sample in samples), default=began_ns)
        ended_ns = stopped_ns if self._stopped else schedule.end_ns(last_ns)
        return Run(
            samples=samples,
            began_ns=began_ns,
            duration_s=(ended_ns - began_ns) / 1e9,
            interrupted=self._stopped,
            unfinished=schedule.taken - len(samples),
            strain=own,
            opened=self._connections.take_opened(),
        )

    def _spawn(self, users: int, schedule: Schedule, ready: Event, kept_in: list[list[Sample]]) -> Any:
        """Locust's runner with so many users, who wait until it is `ready`."""

        def keep(context: dict[str, Any], **_: Any) -> None:
            self._look_at_first(context["sample"])
            for samples in kept_in:
                samples.append(context["sample"])

        environment = self._environment = Environment(
            user_classes=[self._user_class(schedule, ready)], host=self.target.base_url.rstrip("/")
        )
        environment.events.request.add_listener(keep)  # type: ignore[no-untyped-call]
        runner: Any = environment.create_local_runner()
        runner.start(users, spawn_rate=users)
        runner.spawning_greenlet.join()
        return runner

    def stop(self) -> None:
        """Ends the run now, and any later one. Requests that are on their way are not counted."""
        self._stopped = True
        if self._environment is not None and self._environment.runner is not None:
            self._environment.runner.user_greenlets.kill(block=False)

    def _look_at_first(self, sample: Sample) -> None:
        if self._is_first:
            self._is_first = False
            self._refusal = refusal(self.target, sample, was_connected=self._connections.was_connected)
            if self._refusal is not None:
                self.stop()

    def _user_class(self, schedule: Schedule, ready: Event) -> type[Caller]:
        class User(Caller):
            call, outgoing, client_pool = self.call, self._outgoing, self._connections

            @task
            def work(self) -> None:
                ready.wait()
                while (due_ns := schedule.take()) is not None:
                    self.send(due_ns)
                raise StopUser

        return User
