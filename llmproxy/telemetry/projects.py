"""
What metrics tell of projects by the database: their names, their tokens about to expire, what is used of budgets.

Each process tells what it saw last, whichever is asked: shared files would go on telling of names of before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gevent.event import Event
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

# A scrape waits so long for the first look: longer than a database takes that answers, and no scrape's time-out.
FIRST_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class ProjectSeen:
    """
    A project, and how many of its tokens expire soon.

    Attributes:
        used: Of its own meters, by their ids: what is spent as a part of the amount, above 1 where that is more.
    """

    id: str
    name: str
    expiring: int
    used: tuple[tuple[str, float], ...] = ()


class _Projects(Collector):
    seen: tuple[ProjectSeen, ...] = ()

    def collect(self) -> Iterable[Metric]:
        info = GaugeMetricFamily("llmproxy_project_info", "Always 1.", labels=["project", "name"])
        expiring = GaugeMetricFamily(
            "llmproxy_tokens_expiring",
            "Tokens that have been used for long and lately, and expire within three days.",
            labels=["project"],
        )
        used = GaugeMetricFamily(
            "llmproxy_meter_used_ratio",
            "What is spent of a project's limit, as a part of its amount.",
            labels=["project", "meter"],
        )
        for project in self.seen:
            info.add_metric([project.id, project.name], 1)
            expiring.add_metric([project.id], project.expiring)
            for meter_id, ratio in project.used:
                used.add_metric([project.id, meter_id], ratio)
        return info, expiring, used


_projects = _Projects()
_registry = CollectorRegistry()
_registry.register(_projects)
_looked = Event()
_looked.set()


def await_first_look() -> None:
    """Let scrapes wait for the next `look_at_projects`: who asks a process right after its start gets all, too."""
    _looked.clear()


def look_at_projects(seen: Iterable[ProjectSeen]) -> None:
    """Tell of these projects from now on, and of no others."""
    _projects.seen = tuple(seen)
    _looked.set()


def exposition() -> bytes:
    """In Prometheus' text format. Waits for a first look that is awaited, FIRST_LOOK_S at most."""
    _looked.wait(FIRST_LOOK_S)
    return generate_latest(_registry)
