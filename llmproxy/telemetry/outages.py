"""
What fails call after call, told in the process's own log: once at first, then once a minute with how often it did.

Told apart by project and cause, each with what the operator can do. In an outage a line for each call would fill the
disk, and hide every other line; the calls themselves are all in the call log.
"""

from __future__ import annotations

import logging
import time
import traceback
from dataclasses import dataclass

from llmproxy.errors import ProxyError, UpstreamAuthFailed, UpstreamError
from llmproxy.telemetry import metrics

EVERY_S = 60.0
# More projects than this are told of together.
MOST = 1000
MOST_TEXT = 300

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Outage:
    """One that goes on: what was told of it last, when, and how often it has happened since."""

    line: str
    about: dict[str, str | None]
    told_at: float
    more: int = 0


_outages: dict[tuple[str | None, str], _Outage] = {}
# Projects whose key an upstream has refused; whoever alerts of them takes them out.
keys_refused: set[str] = set()


def failed(reason: ProxyError, *, project_id: str | None, project_name: str | None, request_id: str) -> None:
    """A call ended for a reason that its class has a remedy for."""
    if isinstance(reason, UpstreamError) and reason.upstream:
        metrics.upstream_failed(reason.upstream, reason.cause)
    if isinstance(reason, UpstreamAuthFailed) and project_id:
        keys_refused.add(project_id)
    cause = type(reason).__name__
    if len(_outages) >= MOST and (project_id, cause) not in _outages:
        project_id = None
    whose = "" if project_id is None else f" in project {project_name!r} ({project_id})"
    # What libraries say has more than one line at times.
    detail = f": {' '.join(reason.detail.split())[:MOST_TEXT]}" if reason.detail else ""
    note(cause, f"{reason.code}{whose}{detail}. {reason.remedy}", project_id=project_id, request_id=request_id)


def broke(what: str, exc: BaseException, *, request_id: str | None = None) -> None:
    """Something failed by a fault of ours: each place of it is told with its traceback, as often as others."""
    place = type(exc).__name__
    for frame, line in traceback.walk_tb(exc.__traceback__):
        place = f"{type(exc).__name__} at {frame.f_code.co_filename}:{line}"
    if note(place, f"{what}: {place}. This is a fault of llm-proxy: please report it", request_id=request_id):
        log.error("%s, with this:", what, exc_info=exc, extra={"request_id": request_id})


def note(cause: str, line: str, *, project_id: str | None = None, request_id: str | None = None) -> bool:
    """Tell it now if it is new, or count it until its minute is over; whether it was told."""
    about = {"project_id": project_id, "request_id": request_id}
    key = (project_id, cause)
    outage = _outages.get(key)
    if outage is None:
        _outages[key] = _Outage(line, about, time.monotonic())
        log.warning("%s", line, extra=about)
        return True
    outage.line, outage.about = line, about
    outage.more += 1
    return False


def tell(*, is_last: bool = False) -> None:
    """Tell how often each has happened since it was told of, and forget what has not: every second or so."""
    now = time.monotonic()
    for key, outage in list(_outages.items()):
        if now - outage.told_at < EVERY_S and not is_last:
            continue
        if outage.more:
            times = "once" if outage.more == 1 else f"{outage.more} times"
            since_s = now - outage.told_at
            log.warning("%s more in %.0f s: %s", times, since_s, outage.line, extra=outage.about)
            outage.told_at, outage.more = now, 0
        else:
            del _outages[key]
