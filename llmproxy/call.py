"""
One proxied call from its arrival to its record: gathers the facts as they become known, and tells the log and
the metrics exactly once, however the call ended.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from random import getrandbits
from typing import Protocol

from llmproxy.admission import Grant
from llmproxy.api_log.record import CallRecord
from llmproxy.client.request_body import RequestBody
from llmproxy.errors import ProxyError
from llmproxy.live_calls import LiveCalls
from llmproxy.observe.usage import UsageObserver
from llmproxy.telemetry import metrics
from llmproxy.telemetry.tracing import CallSpan

STATUS_CLIENT_CLOSED = 499


class RecordWriter(Protocol):
    """Where records go."""

    def write(self, record: CallRecord) -> bool:
        """Write a record, now or later. Never raises, never waits."""


class Call:
    """
    The facts of one call.

    Args:
        method, endpoint: As requested; the endpoint is the path alone.
        log: Gets the record.
        live: Has the call from its admission to its end.
        cut: Ends it from outside; see LiveCall.
    """

    is_stream = False
    is_session = False

    def __init__(
        self, method: str, endpoint: str, log: RecordWriter, live: LiveCalls, cut: Callable[[ProxyError], None]
    ) -> None:
        # No secret, so no random bytes from the kernel; forked processes are seeded anew.
        self.request_id = str(uuid.UUID(int=getrandbits(128), version=4))
        self.method = method
        self.endpoint = endpoint
        self.token_id: str | None = None
        self.project_id: str | None = None
        self.body: RequestBody | None = None
        self.upstream_status: int | None = None
        self.upstream_request_id: str | None = None
        self.bytes_in = 0  # beyond the body
        self.bytes_out = 0
        self.cut = cut
        self._log = log
        self._live = live
        self.arrived_at = time.time()
        self.span: CallSpan | None = None
        self._arrived = time.perf_counter()
        self._asked = 0.0
        self._answered = 0.0
        self._overhead_s: float | None = None
        self._ttft_s: float | None = None
        self._is_open = True
        metrics.call_began()

    def granted(self, grant: Grant) -> None:
        """The token was admitted."""
        self.token_id, self.project_id = grant.token_id, grant.project_id
        self._live.join(self)

    def asks(self) -> None:
        """From here on the upstream takes the time."""
        self._asked = time.perf_counter()

    def answered(self, status: int, request_id: str | None) -> None:
        """The head of the upstream's answer is there."""
        self._answered = time.perf_counter()
        self.upstream_status, self.upstream_request_id = status, request_id

    def answers(self) -> None:
        """The head of our answer is ready. What follows takes as long as the upstream and the client take."""
        own_s = self._asked - self._arrived + time.perf_counter() - self._answered
        self._overhead_s = own_s - (self.body.waited_s if self.body else 0.0)

    def saw_first_byte(self) -> None:
        """The first byte of the answer's body arrived."""
        self._ttft_s = time.perf_counter() - self._arrived

    def end(self, cut: ProxyError | None, *, status: int, observer: UsageObserver | None = None) -> None:
        """
        Write the record. Only the first call counts.

        Args:
            cut: What ended the call early; None when the upstream's answer went through whole.
            status: Of the answer that the client got.
            observer: Of the answer's body; None when there was none.
        """
        if not self._is_open:
            return
        self._is_open = False
        self._live.leave(self)
        duration_s = time.perf_counter() - self._arrived
        error = {"code": cut.code, "type": cut.type} if cut else None
        # What the proxy itself decided says more than what the upstream told before.
        if observer and observer.error and not (cut and cut.outcome == "refused"):
            error = observer.error
        metadata = observer.metadata if observer else None
        record = CallRecord(
            timestamp=self.arrived_at,
            request_id=self.request_id,
            token_id=self.token_id,
            project_id=self.project_id,
            endpoint=self.endpoint,
            method=self.method,
            status_code=STATUS_CLIENT_CLOSED if cut and cut.outcome == "client_closed" else status,
            duration_ms=round(duration_s * 1000, 3),
            metadata=metadata,
            outcome=cut.outcome if cut else "complete",
            stream=observer.is_stream if observer else False,
            ttft_ms=None if self._ttft_s is None else round(self._ttft_s * 1000, 3),
            upstream_status=self.upstream_status,
            upstream_request_id=self.upstream_request_id,
            bytes_in=self.bytes_in + (self.body.bytes_read if self.body else 0),
            bytes_out=self.bytes_out,
            usage_source=observer.usage_source if observer else "absent",
            error=error,
        )
        self._log.write(record)
        metrics.call_ended(record, overhead_s=self._overhead_s)
        if self.span:
            self.span.end(record, self.body.held if self.body else None)
