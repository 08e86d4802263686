"""
What the mock upstream received: requests, and the ledger that tests read.

A request's body is counted and hashed while it arrives. It is kept only when it is JSON of at most 4 MiB; a
multipart body is taken apart on the way, its files counted and hashed, its short fields kept.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable
from email.message import Message
from typing import Any

import gevent.event
import orjson
from werkzeug.sansio import multipart

from mock_openai.shapes import FormFile

KEPT_JSON_BYTES = 4 * 1024 * 1024
SHOWN_JSON_BYTES = 64 * 1024
LEDGER_REQUESTS = 1000

FINAL_OUTCOMES = frozenset({"answered", "client_gone", "cut"})


class Form:
    """Reads a multipart body as it arrives: fields by name, files counted and hashed."""

    def __init__(self, boundary: bytes) -> None:
        self.fields: dict[str, str] = {}
        self.files: list[FormFile] = []
        self.broken = False
        self._decoder = multipart.MultipartDecoder(boundary)
        self._part: multipart.Field | multipart.File | None = None
        self._text = bytearray()
        self._hash = hashlib.sha256()
        self._size = 0

    def feed(self, data: bytes | None) -> None:
        """Takes the next bytes, None at the end. From the first that fit no form on, `broken` is true."""
        if self.broken:
            return
        try:
            self._decoder.receive_data(data)
            while not isinstance(event := self._decoder.next_event(), multipart.NeedData | multipart.Epilogue):
                self._take(event)
        except ValueError:
            self.broken = True

    def _take(self, event: multipart.Event) -> None:
        if isinstance(event, multipart.Field | multipart.File):
            self._part, self._text, self._hash, self._size = event, bytearray(), hashlib.sha256(), 0
        elif isinstance(event, multipart.Data) and isinstance(self._part, multipart.File):
            self._hash.update(event.data)
            self._size += len(event.data)
            if not event.more_data:
                self.files.append(FormFile(self._part.name, self._part.filename, self._size, self._hash.hexdigest()))
        elif isinstance(event, multipart.Data) and isinstance(self._part, multipart.Field):
            self._text += event.data
            if not event.more_data:
                self.fields[self._part.name] = self._text.decode("utf-8", "replace")

    def content(self) -> str:
        """What was sent, in one string. The boundary, which clients draw at random, does not enter."""
        return repr((sorted(self.fields.items()), self.files))


class Request:
    """One request as it arrived and how it ended. Header pairs are bytes, in order, repeated and spelled as sent."""

    __slots__ = (
        "body_bytes",
        "complete",
        "connection",
        "content_type",
        "controls",
        "expects_continue",
        "form",
        "headers",
        "json",
        "keep_alive",
        "kept",
        "method",
        "outcome",
        "pieces_sent",
        "sha256",
        "target",
        "trailers",
        "turn",
        "version",
    )

    def __init__(self, *, method: str, target: bytes, version: str, headers: list[tuple[bytes, bytes]]) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.trailers: list[tuple[bytes, bytes]] = []
        self.controls: dict[str, str] = {}
        self.content_type = b""
        self.expects_continue = self.complete = False
        self.keep_alive = True
        self.connection = self.turn = 0
        self.body_bytes = self.pieces_sent = 0
        self.sha256 = hashlib.sha256()
        self.json: Any = None
        self.outcome = "receiving"
        self.form: Form | None = None
        self.kept: bytearray | None = None
        self._read_headers()

    def _read_headers(self) -> None:
        for name, value in self.headers:
            lower = name.lower()
            if lower == b"content-type":
                self.content_type = value
            elif lower == b"expect":
                self.expects_continue = value.lower() == b"100-continue"
            elif lower.startswith(b"x-mock-"):
                # Some controls may be repeated (x-mock-header), so a newline joins them.
                key, text = lower[7:].decode("latin-1"), value.decode("latin-1")
                self.controls[key] = f"{self.controls[key]}\n{text}" if key in self.controls else text
        if self.content_type.startswith(b"application/json"):
            self.kept = bytearray()
        elif self.content_type.startswith(b"multipart/form-data"):
            self.form = Form(_boundary(self.content_type))

    @property
    def path(self) -> str:
        """The raw path, percent-encoding as sent, without the query."""
        return self.target.partition(b"?")[0].decode("latin-1")

    @property
    def bearer(self) -> str | None:
        """The key of the Authorization header, None where there is no such header."""
        for name, value in self.headers:
            if name.lower() == b"authorization" and value[:7].lower() == b"bearer ":
                return value[7:].decode("latin-1")
        return None

    def take_body(self, data: bytes) -> None:
        """Counts, hashes and, where it is needed for the response, keeps a piece of the body."""
        self.body_bytes += len(data)
        self.sha256.update(data)
        if self.kept is not None:
            if self.body_bytes <= KEPT_JSON_BYTES:
                self.kept += data
            else:
                self.kept = None
        elif self.form is not None:
            self.form.feed(data)

    def seed(self) -> str:
        """24 hex digits that two requests of equal content share."""
        if self.form is not None:
            return hashlib.sha256(self.form.content().encode()).hexdigest()[:24]
        return self.sha256.hexdigest()[:24] if self.body_bytes else hashlib.sha256(self.target).hexdigest()[:24]

    def parse_json(self) -> Any:
        """The kept body, read; None where none was kept. Bad JSON raises ValueError."""
        if self.kept:
            self.json = orjson.loads(self.kept)
        return self.json

    def forget_large_body(self) -> None:
        """Drops what the ledger will not show, so that a thousand records stay small."""
        if self.body_bytes > SHOWN_JSON_BYTES:
            self.json = None
        self.kept = None

    def shown(self) -> dict[str, Any]:
        """The record as the ledger shows it."""
        form = self.form
        return {
            "method": self.method,
            "target": self.target.decode("latin-1"),
            "http_version": self.version,
            "headers": _pairs(self.headers),
            "trailers": _pairs(self.trailers),
            "body_length": self.body_bytes,
            "body_sha256": self.sha256.hexdigest(),
            "body_complete": self.complete,
            "json": self.json,
            "fields": form.fields if form else {},
            "files": form.files if form else [],
            "outcome": self.outcome,
            "client_closed_early": self.outcome == "client_gone",
            "pieces_sent": self.pieces_sent,
            "connection": self.connection,
            "turn": self.turn,
        }


def _boundary(content_type: bytes) -> bytes:
    message = Message()
    message["content-type"] = content_type.decode("latin-1")
    return str(message.get_param("boundary", "")).encode("latin-1")


def _pairs(headers: list[tuple[bytes, bytes]]) -> list[list[str]]:
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]


class Ledger:
    """The last thousand requests, and a way to wait for one without polling."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque(maxlen=LEDGER_REQUESTS)
        self._waiters: set[gevent.event.Event] = set()

    def add(self, request: Request) -> None:
        self._requests.append(request)
        self.changed()

    def set_outcome(self, request: Request, outcome: str) -> None:
        """Moves a request on. The first final outcome stays."""
        if request.outcome not in FINAL_OUTCOMES:
            request.outcome = outcome
            self.changed()

    def changed(self) -> None:
        """Wakes whoever waits."""
        for waiter in self._waiters:
            waiter.set()

    def clear(self) -> None:
        self._requests.clear()

    def select(self, outcome: str | None = None, path: str | None = None) -> list[Request]:
        """Oldest first."""
        return [
            request
            for request in self._requests
            if outcome in (None, request.outcome) and path in (None, request.path)
        ]

    def wait(self, is_there: Callable[[], bool], timeout_s: float) -> bool:
        """Whether it became true within the time. Asks again only when something changed."""
        deadline = time.monotonic() + timeout_s
        stirred = gevent.event.Event()
        self._waiters.add(stirred)
        try:
            while not is_there():
                if not stirred.wait(max(0.0, deadline - time.monotonic())):
                    return is_there()
                stirred.clear()
            return True
        finally:
            self._waiters.discard(stirred)
