"""
Ships records as CloudWatch log events through boto3, an optional extra.

AWS's rules for PutLogEvents, kept here: at most 10,000 events and 1,048,576 bytes per call, where an event counts
its UTF-8 bytes and 26 more; events in the order of time; 24 hours between the first and the last. Events older
than 14 days (or than the group's retention) or more than 2 hours ahead are refused one by one and named in the
answer; those, and events too large for any call, are for the dead letters. A missing group or stream is made.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from llmproxy.api_log.logging_url import CloudWatchTarget
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.api_log.sink import BatchRefused, Rejection, SinkUnavailable
from llmproxy.egress import Egress

try:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
except ImportError as exc:
    raise ImportError("cloudwatch:// in LOGGING_URL needs boto3: pip install -r requirements-cloudwatch.txt") from exc

MAX_EVENTS = 10_000
MAX_CALL_BYTES = 1_048_576
EVENT_OVERHEAD_BYTES = 26
MAX_SPAN_MS = 24 * 3600 * 1000


class Event(NamedTuple):
    timestamp_ms: int
    size: int
    record: ReadRecord


class CloudWatchSink:
    """
    One log stream. Credentials come from where boto3 looks for them (environment, profile, instance role).

    Source: API reference of PutLogEvents, Amazon CloudWatch Logs.
    """

    def __init__(self, target: CloudWatchTarget, egress: Egress) -> None:
        self._target = target
        url = target.endpoint or f"https://logs.{target.region}.amazonaws.com"
        self._client: Any = boto3.client(
            "logs",
            region_name=target.region,
            endpoint_url=target.endpoint,
            # The shipper repeats, with longer pauses; botocore's own retries would only hold the batch.
            config=Config(
                connect_timeout=5.0,
                read_timeout=30.0,
                retries={"total_max_attempts": 1},
                proxies=egress.for_requests(url),
            ),
        )

    @property
    def name(self) -> str:
        return f"cloudwatch://{self._target.group}/{self._target.stream}"

    def deliver(self, records: Sequence[ReadRecord]) -> list[Rejection]:
        events = sorted((_event(record) for record in records), key=lambda event: event.timestamp_ms)
        too_large = [event for event in events if event.size > MAX_CALL_BYTES]
        rejections = [Rejection(event.record, "too large for a log event") for event in too_large]
        for call in calls(event for event in events if event.size <= MAX_CALL_BYTES):
            rejections += self._put(call)
        return rejections

    def close(self) -> None:
        self._client.close()

    def _put(self, events: list[Event]) -> list[Rejection]:
        try:
            try:
                answer = self._put_once(events)
            except self._client.exceptions.ResourceNotFoundException:
                self._make_the_stream()
                answer = self._put_once(events)
        except ClientError as exc:
            raise _translated(exc) from None
        except BotoCoreError as exc:
            raise SinkUnavailable(f"AWS cannot be reached or asked ({type(exc).__name__})") from None
        return _rejected(events, answer.get("rejectedLogEventsInfo") or {})

    def _put_once(self, events: list[Event]) -> dict[str, Any]:
        answer: dict[str, Any] = self._client.put_log_events(
            logGroupName=self._target.group,
            logStreamName=self._target.stream,
            logEvents=[{"timestamp": event.timestamp_ms, "message": event.record.line.decode()} for event in events],
        )
        return answer

    def _make_the_stream(self) -> None:
        exists = self._client.exceptions.ResourceAlreadyExistsException
        with suppress(exists):
            self._client.create_log_group(logGroupName=self._target.group)
        with suppress(exists):
            self._client.create_log_stream(logGroupName=self._target.group, logStreamName=self._target.stream)


def calls(events: Iterator[Event]) -> Iterator[list[Event]]:
    """Events in the order of time, cut into calls that AWS's limits allow."""
    call: list[Event] = []
    size = 0
    for event in events:
        is_full = len(call) == MAX_EVENTS or size + event.size > MAX_CALL_BYTES
        if call and (is_full or event.timestamp_ms - call[0].timestamp_ms >= MAX_SPAN_MS):
            yield call
            call, size = [], 0
        call.append(event)
        size += event.size
    if call:
        yield call


def _event(record: ReadRecord) -> Event:
    # Without a readable time it is from the start of time: AWS refuses it, and it is set aside.
    arrived_s = record.arrived_at.timestamp() if record.arrived_at else 0.0
    return Event(max(0, round(arrived_s * 1000)), len(record.line) + EVENT_OVERHEAD_BYTES, record)


def _rejected(events: list[Event], info: dict[str, int]) -> list[Rejection]:
    """What the answer's indices say: everything before an end index, everything from a start index on."""
    expired = info.get("expiredLogEventEndIndex", 0)
    too_old = info.get("tooOldLogEventEndIndex", 0)
    too_new = info.get("tooNewLogEventStartIndex", len(events))
    rejections = []
    for index, event in enumerate(events):
        if index < max(expired, too_old):
            rejections.append(Rejection(event.record, "too old for the log group"))
        elif index >= too_new:
            rejections.append(Rejection(event.record, "too far in the future"))
    return rejections


def _translated(exc: ClientError) -> Exception:
    """AWS's error codes, never its message: that may quote the request."""
    code = str(exc.response.get("Error", {}).get("Code", "unknown"))
    if code == "InvalidParameterException":
        return BatchRefused(f"AWS answered {code}")
    if code in ("AccessDeniedException", "UnrecognizedClientException", "ExpiredTokenException"):
        return SinkUnavailable(f"AWS answered {code}: check the credentials")
    return SinkUnavailable(f"AWS answered {code}")
