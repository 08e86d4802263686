"""
The reading side of a record: what a line of the call log says, typed. `record` is the side that writes.

A line may be of an older version or by somebody else, so nothing in it is trusted: what has not the expected type
counts as absent. Values are looked up when they are asked for, for a reader asks few of them of thousands of lines.
"""

from datetime import datetime
from typing import Any

import orjson

from llmproxy.api_log.record import MICRO
from llmproxy.statuses import BAD_REQUEST, SWITCHING_PROTOCOLS
from llmproxy.times import from_iso

# A line stands for the refusals of a second. More than that is no count of ours.
MAX_COUNT = 10**9

_TEXT, _WHOLE, _NUMBER, _FLAG = (str,), (int,), (int, float), (bool,)


def _field(types: tuple[type, ...], *names: str) -> Any:
    """A property: the value of one of these types (a bool is no int) under names from the outside in, or None."""
    *outer, last = names

    def get(record: "ReadRecord") -> object:
        value = record.fields.get(last)
        return value if type(value) in types else None

    def get_inside(record: "ReadRecord") -> object:
        found: Any = record.fields
        for name in outer:
            found = found.get(name)
            if type(found) is not dict:
                return None
        value = found.get(last)
        return value if type(value) in types else None

    # A line's readers ask for most of its fields, and for few of those inside of others.
    return property(get_inside if outer else get)


class ReadRecord:
    """
    One record: its line as it stands in the file, without the newline, and all that the line says.

    What a field means is told by `record.CallRecord`; `token_id` is the JSON's `token`.
    """

    __slots__ = ("fields", "line")

    def __init__(self, line: bytes, fields: dict[str, Any]) -> None:
        self.line = line
        self.fields = fields

    request_id: str = _field(_TEXT, "request_id")
    token_id: str | None = _field(_TEXT, "token")
    project_id: str | None = _field(_TEXT, "project_id")
    endpoint: str | None = _field(_TEXT, "endpoint")
    method: str | None = _field(_TEXT, "method")
    outcome: str | None = _field(_TEXT, "outcome")
    is_stream: bool | None = _field(_FLAG, "stream")
    status_code: int | None = _field(_WHOLE, "status_code")
    upstream_status: int | None = _field(_WHOLE, "upstream_status")
    upstream_request_id: str | None = _field(_TEXT, "upstream_request_id")
    duration_ms: float | None = _field(_NUMBER, "duration_ms")
    ttft_ms: float | None = _field(_NUMBER, "ttft_ms")
    bytes_in: int | None = _field(_WHOLE, "bytes_in")
    bytes_out: int | None = _field(_WHOLE, "bytes_out")
    client_address: str | None = _field(_TEXT, "client_address")
    user_agent: str | None = _field(_TEXT, "user_agent")
    would_refuse: str | None = _field(_TEXT, "would_refuse")
    error_code: str | None = _field(_TEXT, "error", "code")
    error_type: str | None = _field(_TEXT, "error", "type")
    usage_source: str | None = _field(_TEXT, "usage_source")
    cost_usd: float | None = _field(_NUMBER, "cost_usd")
    cost_source: str | None = _field(_TEXT, "cost_source")
    price_date: str | None = _field(_TEXT, "price_date")
    service_tier: str | None = _field(_TEXT, "service_tier")
    requested_model: str | None = _field(_TEXT, "requested_model")
    secret: str | None = _field(_TEXT, "secret")
    usage_of: str | None = _field(_TEXT, "usage_of")
    part: int | None = _field(_WHOLE, "part")
    model: str | None = _field(_TEXT, "metadata", "model")
    prompt_tokens: int | None = _field(_WHOLE, "metadata", "prompt_tokens")
    cached_tokens: int | None = _field(_WHOLE, "metadata", "prompt_tokens_details", "cached_tokens")
    completion_tokens: int | None = _field(_WHOLE, "metadata", "completion_tokens")
    reasoning_tokens: int | None = _field(_WHOLE, "metadata", "completion_tokens_details", "reasoning_tokens")
    total_tokens: int | None = _field(_WHOLE, "metadata", "total_tokens")
    seconds: float | None = _field(_NUMBER, "metadata", "seconds")

    @property
    def failed_inside(self) -> bool:
        """An error was told within a response with a good status."""
        if self.fields.get("error") is None or "failed_inside" in self.fields:
            return self.fields.get("failed_inside") is True
        # Older records have the error alone, also where it was that of an object which was read.
        has_error = self.error_code is not None or self.error_type is not None
        is_good = self.outcome == "complete" and (self.status_code or 0) < BAD_REQUEST
        return has_error and is_good and self.method == "POST"

    @property
    def is_cut(self) -> bool:
        """It was refused when it had gone up already."""
        return self.fields.get("cut") is True

    @property
    def is_websocket(self) -> bool:
        """It is a WebSocket's own record, and none of a response that was made in it."""
        return self.upstream_status == SWITCHING_PROTOCOLS and self.part is None

    @property
    def websocket_id(self) -> str | None:
        """Of a response that was made in a WebSocket: the id of the WebSocket's own record."""
        return self.request_id.removesuffix(f"-{self.part}") if self.part is not None else None

    @property
    def has_failed(self) -> bool:
        """It was refused, or went wrong in any way but that its client hung up."""
        if self.failed_inside or self.outcome == "client_closed":
            return self.failed_inside
        return self.outcome != "complete" or (self.status_code or 0) >= BAD_REQUEST

    @property
    def cost(self) -> int | None:
        """Micro-dollars; None where nobody could tell."""
        dollars = self.cost_usd
        return None if dollars is None else round(dollars * MICRO)

    @property
    def is_before_prices(self) -> bool:
        """It told usage, and was written by a version that put no price on it."""
        return "cost_source" not in self.fields and self.usage_source == "reported"

    @property
    def is_unpriced(self) -> bool:
        """It used what had no price, or was written before prices."""
        return self.cost_source == "unpriced" or self.is_before_prices

    @property
    def is_silent_stream(self) -> bool:
        """A stream that came well, and told no usage."""
        is_well = self.outcome == "complete" and not self.has_failed
        return self.is_stream is True and self.usage_source == "absent" and is_well

    @property
    def billed_model(self) -> str | None:
        """The model that the response named, or where it named none the one that the request named and got."""
        model = self.model
        if model or (status := self.upstream_status) is None or status >= BAD_REQUEST:
            return model
        return self.requested_model

    @property
    def named_model(self) -> str | None:
        """The model that the response named, or else the request."""
        return self.model or self.requested_model

    @property
    def count(self) -> int:
        """How many calls it stands for; see `refusals`."""
        count = self.fields.get("count")
        return count if type(count) is int and 0 < count <= MAX_COUNT else 1

    @property
    def arrived_at(self) -> datetime | None:
        """When the request arrived, in UTC."""
        return from_iso(self.fields.get("timestamp"))


def parse_line(line: bytes) -> ReadRecord | None:
    """
    The record in a line, or None when the line holds none (torn, blank, someone else's text).

    A JSON object with a `request_id` counts as a record, so that fields added later do not stop an older reader.
    """
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    is_record = isinstance(fields, dict) and isinstance(fields.get("request_id"), str)
    return ReadRecord(line, fields) if is_record else None
