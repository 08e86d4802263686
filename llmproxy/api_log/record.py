"""
One proxied request as one line of JSON. Pure: nothing here opens a file.

The line is UTF-8 JSON without raw newlines, ended by `\\n`, its keys always in this order:

    timestamp, request_id, token, project_id, endpoint, method, status_code, duration_ms, metadata,
    outcome, stream, ttft_ms, upstream_status, upstream_request_id, bytes_in, bytes_out, usage_source, error,
    cost_usd, cost_source, price_date, service_tier, requested_model, client_address,

and, only where they have something to say, user_agent, secret, usage_of, failed_inside, cut, would_refuse,
model_mismatch, part and count.

The order is part of the format: a reader finds the start of a record inside a damaged line by its first key, and a
count by its being the last.
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import orjson

from llmproxy.errors import Outcome
from llmproxy.limits.charge import CostSource

# Readers hold one line in memory, so a line has a largest size: 1 MiB. Only metadata and the endpoint can be
# long; both are shortened before a record would go over it.
MAX_LINE_BYTES = 1 << 20
MAX_ENDPOINT_CHARS = 8192

MICRO = 10**6

_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_DEPTH = 32


@dataclass(slots=True)
class CallRecord:
    """
    What is kept of one request; prompts, completions, queries and secrets never are.

    Never changed once it is made. It is not frozen, because Python fills a frozen one's fields in six times the time.

    Attributes:
        timestamp: Epoch seconds when the request arrived.
        request_id: A UUID, with the part's number behind where there is one; whoever receives a record twice drops
            the second by it.
        token_id: The token's public id, `token` in the line. None when no token was recognised.
        endpoint: The path alone.
        metadata: Usage, model, created as the upstream told them. None where it told nothing.
        duration_ms: Milliseconds to the end, to three places.
        ttft_ms: Likewise, to the first body byte. None when none came.
        usage_source: Whose the usage in `metadata` is: "reported" for this call's; "partial" likewise, but a count of
            it could not be read; "stored" for that of an object which was there before; "absent" where there is none.
        error: {"code", "type"} of an error body. None when there was none.
        cost: Micro-dollars, `cost_usd` in the line. None where nobody can tell, or no prices are kept.
        cost_source: How it was found, or why there is none. None where no prices are kept.
        price_date: The day of the price sheet, where a price was put on the call.
        service_tier: The tier that served it, as the upstream told it.
        secret: Where it was one that has been replaced; in the line only then.
        requested_model: What the request named, where the response named no model and that could be seen.
        client_address: Where the call came from. None where that is not to be kept, and not in the line.
        usage_of: The object whose usage it is, where others may tell it too: it counts once under this id.
        failed_inside: The upstream told of an error within a response whose status is a good one.
        is_cut: It was refused when it had gone up already, `cut` in the line: the upstream may have done its work.
        would_refuse: The code that rules in mode `report` would have refused it with.
        model_mismatch: The response names a model that the token's rules do not allow.
        user_agent: What the client calls itself, cut. None where its address is not to be kept.
        part: Which response of a WebSocket it is; None for all other calls, and for the WebSocket itself.
        count: Of how many calls it is the sample; in the line where there is more than one (see `refusals`).
    """

    timestamp: float
    request_id: str
    token_id: str | None
    project_id: str | None
    endpoint: str
    method: str
    status_code: int
    duration_ms: float
    metadata: dict[str, Any] | None
    outcome: Outcome
    stream: bool
    ttft_ms: float | None
    upstream_status: int | None
    upstream_request_id: str | None
    bytes_in: int
    bytes_out: int
    usage_source: Literal["reported", "partial", "stored", "absent"]
    error: dict[str, str | None] | None
    cost: int | None = None
    cost_source: CostSource | None = None
    price_date: str | None = None
    service_tier: str | None = None
    requested_model: str | None = None
    client_address: str | None = None
    secret: Literal["retired"] | None = None
    usage_of: str | None = None
    failed_inside: bool = False
    is_cut: bool = False
    would_refuse: str | None = None
    model_mismatch: bool = False
    user_agent: str | None = None
    part: int | None = None
    count: int = 1
    _line: bytes | None = field(default=None, init=False, repr=False, compare=False)

    def to_line(self) -> bytes:
        """The record's line. Never raises for what a client or an upstream can send."""
        line = self.whole_line()
        return line if len(line) <= MAX_LINE_BYTES else self._short_line()

    def whole_line(self) -> bytes:
        """All that the record tells, as a line of any length. Written once, however often it is asked for."""
        if self._line is None:
            fields = self._fields()
            try:
                self._line = orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
            except orjson.JSONEncodeError:
                # Lone surrogates (raw bytes of a path), integers over 64 bits, keys that are no strings.
                self._line = orjson.dumps(_writable(fields, _MAX_DEPTH), option=orjson.OPT_APPEND_NEWLINE)
        return self._line

    def _fields(self) -> dict[str, Any]:
        fields = {
            "timestamp": _timestamp(self.timestamp),
            "request_id": self.request_id,
            "token": self.token_id,
            "project_id": self.project_id,
            "endpoint": self.endpoint,
            "method": self.method,
            "status_code": self.status_code,
            "duration_ms": self.duration_ms,
            "metadata": self.metadata,
            "outcome": self.outcome,
            "stream": self.stream,
            "ttft_ms": self.ttft_ms,
            "upstream_status": self.upstream_status,
            "upstream_request_id": self.upstream_request_id,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "usage_source": self.usage_source,
            "error": self.error,
            "cost_usd": None if self.cost is None else self.cost / MICRO,
            "cost_source": self.cost_source,
            "price_date": self.price_date,
            "service_tier": self.service_tier,
            "requested_model": self.requested_model,
        }
        if self.client_address is not None:
            fields["client_address"] = self.client_address
        if self.user_agent is not None:
            fields["user_agent"] = self.user_agent
        if self.secret is not None:
            fields["secret"] = self.secret
        if self.usage_of is not None:
            fields["usage_of"] = self.usage_of
        if self.failed_inside:
            fields["failed_inside"] = True
        if self.is_cut:
            fields["cut"] = True
        if self.would_refuse is not None:
            fields["would_refuse"] = self.would_refuse
        if self.model_mismatch:
            fields["model_mismatch"] = True
        if self.part is not None:
            fields["part"] = self.part
        if self.count > 1:
            fields["count"] = self.count
        return fields

    def _short_line(self) -> bytes:
        """The line of a record over MAX_LINE_BYTES: long strings cut, metadata left out."""
        short = {key: _cut(value) for key, value in self._fields().items()}
        short["metadata"] = None
        short["error"] = {key: _cut(value) for key, value in self.error.items()} if self.error else None
        return orjson.dumps(_writable(short, _MAX_DEPTH), option=orjson.OPT_APPEND_NEWLINE)


def _timestamp(epoch_s: float) -> str:
    """As `times.iso_utc` writes it with milliseconds, for a third of the time: this is done for every call."""
    second, millisecond = divmod(round(epoch_s * 1000), 1000)
    return f"{_whole_second(second)}.{millisecond:03d}Z"


@lru_cache(maxsize=1024)
def _whole_second(epoch_s: int) -> str:
    # Many records share a second.
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _cut(value: Any) -> Any:
    return value[:MAX_ENDPOINT_CHARS] if isinstance(value, str) else value


def _writable(value: Any, depth: int) -> Any:
    """The value with everything JSON or UTF-8 cannot hold replaced; deeper than `depth` becomes null."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value) if value.bit_length() < 4096 else None
    if value is None or isinstance(value, float):
        return value
    if depth == 0:
        return None
    if isinstance(value, dict):
        return {_writable(str(key), 0): _writable(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(item, depth - 1) for item in value]
    return _SURROGATE.sub("\ufffd", str(value))
