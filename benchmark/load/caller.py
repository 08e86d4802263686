"""
The user that Locust lets loose: FastHttpUser with one request, read to its end and timed piece by piece.

Used by llm-benchmark as a library and by `locustfile.py`. Each request fires Locust's `request` event, whose context
holds our own `Sample`: Locust rounds its percentiles, we do not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from locust import FastHttpUser
from locust.contrib.fasthttp import FAILURE_EXCEPTIONS

from benchmark.call import Call, Headers
from benchmark.load import causes
from benchmark.load.event_stream import StreamTimes
from benchmark.load.samples import Sample
from benchmark.load.stream_reader import read_stream
from benchmark.load.usage import tokens_in


class Caller(FastHttpUser):
    """A user that sends, as `call` says, the next of what is `outgoing` for all of its class. Subclasses set both."""

    abstract = True
    call: Call
    outgoing: Iterator[tuple[bytes, Headers]]

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        agent: Any = self.client.client
        # No cookies, no redirects; and whether a status is a success is decided here, with the body at hand.
        agent.cookiejar = None
        agent.redirect_response_codes = frozenset()
        agent.valid_response_codes = range(1000)

    def send(self, due_ns: int | None = None) -> None:
        """One request, to its last byte."""
        sent_ns = time.monotonic_ns()
        sample = Sample(due_ns=sent_ns if due_ns is None else min(due_ns, sent_ns), sent_ns=sent_ns)
        client: Any = self.client
        body, headers = next(self.outgoing)
        with client.request(
            self.call.method, self.call.endpoint, data=body, headers=headers, stream=True, catch_response=True
        ) as response:
            self._read(response, sample)
            meta = response.request_meta
            meta["response_time"], meta["response_length"] = sample.latency_ms, sample.size
            meta["context"] = {"sample": sample}
            if sample.cause is not None:
                response.failure(sample.cause)

    def _read(self, response: Any, sample: Sample) -> None:
        error = getattr(response, "error", None)
        if error is not None:
            sample.ended_ns = time.monotonic_ns()
            sample.cause = causes.of_exception(error, answered=False)
            return
        sample.first_byte_ns = time.monotonic_ns()
        sample.status = response.status_code
        read = self._read_events if sample.is_success and self.call.stream else self._read_body
        try:
            read(response._response, sample)
        except FAILURE_EXCEPTIONS as broken:
            sample.ended_ns = time.monotonic_ns()
            sample.cause = causes.of_exception(broken, answered=True)

    def _read_body(self, response: Any, sample: Sample) -> None:
        body = response.read()
        # The clock is stopped before anything is looked at.
        sample.ended_ns = time.monotonic_ns()
        sample.size = len(body)
        sample.tokens = tokens_in(body) if sample.is_success else None
        sample.fail(causes.of_body(body) if sample.is_success else causes.of_response(sample.status, body))

    def _read_events(self, response: Any, sample: Sample) -> None:
        times = sample.stream = StreamTimes()
        try:
            read_stream(response, times.feed, self.call.timeout_s)
        finally:
            sample.ended_ns = time.monotonic_ns()
            sample.size = times.size
            times.finish()
        sample.tokens = times.tokens
        sample.fail(times.failure)
        if not times.events:
            sample.fail(causes.of_body(times.unfinished) or ("no event in the stream", ""))
