"""
Ships records as JSON arrays by POST.

`http_receiver` has what an answer means. Beyond that, a batch that is refused for its content is halved until the
record at fault stands alone, and a 415 to a gzip body is tried once more without gzip; if that passes, without gzip
from then on. Retries of a batch carry the same Idempotency-Key, and each record its `request_id`, so that a receiver
can drop doubles.
"""

import gzip
import hashlib
from collections.abc import Sequence

from llmproxy.api_log.http_receiver import READ_TIMEOUT_S, Answer, HttpReceiver
from llmproxy.api_log.logging_url import HttpTarget
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.api_log.sink import Rejection
from llmproxy.egress import Egress

_UNSUPPORTED_MEDIA_TYPE = 415


class HttpSink:
    """One receiver on one kept-alive connection. Not shared between threads."""

    def __init__(
        self,
        target: HttpTarget,
        *,
        token: str | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
        egress: Egress | None = None,
    ) -> None:
        names = ("LOGGING_URL", "LOGGING_TOKEN")
        self._receiver = HttpReceiver(
            target, settings=names, token=token, read_timeout_s=read_timeout_s, egress=egress
        )
        self._compresses = True

    @property
    def name(self) -> str:
        return self._receiver.origin

    def deliver(self, records: Sequence[ReadRecord]) -> list[Rejection]:
        body = b"[" + b",".join(record.line for record in records) + b"]"
        answer = self._post(body)
        if answer.status == _UNSUPPORTED_MEDIA_TYPE and self._compresses:
            self._compresses = False
            answer = self._post(body)
            self._compresses = answer.status == _UNSUPPORTED_MEDIA_TYPE
        self._receiver.check(answer)
        return []

    def close(self) -> None:
        self._receiver.close()

    def _post(self, body: bytes) -> Answer:
        headers = {"Idempotency-Key": hashlib.sha256(body).hexdigest()[:32]}
        if self._compresses:
            body = gzip.compress(body, compresslevel=1, mtime=0)
            headers["Content-Encoding"] = "gzip"
        return self._receiver.post(body, headers)
