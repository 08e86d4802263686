"""What the blueprints work with: built once per process by `create_app`, found through the current app."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Event
from typing import cast

from flask import Flask, current_app

from config import Settings
from llmproxy.admission import Admission
from llmproxy.api_log.writer import LogWriter
from llmproxy.live_calls import LiveCalls
from llmproxy.upload_pace import UploadPace
from llmproxy.upstream import Upstream
from operations import Operations

EXTENSION = "llmproxy"


@dataclass(frozen=True, slots=True)
class Services:
    """
    The assembled parts.

    ``draining`` is set when this process is about to stop, ``refusing`` when it takes no new calls any more; ``live``
    has what runs.
    """

    settings: Settings
    admission: Admission
    operations: Operations
    upstream: Upstream
    upload_pace: UploadPace
    log: LogWriter
    draining: Event = field(default_factory=Event)
    live: LiveCalls = field(default_factory=LiveCalls)
    refusing: Event = field(default_factory=Event)


def services() -> Services:
    """The running application's parts."""
    return services_of(current_app)


def services_of(app: Flask) -> Services:
    """The parts of `app`."""
    return cast(Services, app.extensions[EXTENSION])
