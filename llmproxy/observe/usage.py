"""
The usage observer: reads what an upstream tells about a call out of a copy of its response.

`observe` picks the way by the response's headers; the relay feeds the bytes as they came, after the client has them,
and asks for `metadata`, `usage_source` and `error` when the call is over. An observer holds a bounded amount (64 KiB
of a JSON body or of one event, single values of anything larger) and never raises: whatever goes wrong in here
ends the observing, not the call. What was seen until then stays.

An event stream that breaks off inside an event tells nothing through that event, as in a browser; a JSON body that
breaks off tells what was complete in it.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, Literal, Protocol

import orjson

from llmproxy.observe.decoding import BodyDecoder, body_decoder, is_identity
from llmproxy.observe.facts import ENVELOPE, NAMES, Facts
from llmproxy.observe.json_scan import JsonScanner
from llmproxy.observe.sse import Block, DataLines, EventSplitter, parse_event
from llmproxy.observe.units import OutputTally
from llmproxy.turns import give_way, in_slices

MAX_BUFFERED_BODY_BYTES = 64 * 1024
MAX_EVENT_BYTES = 64 * 1024

_SCANNED_NAMES = frozenset(name.encode() for name in NAMES)

# Of hundreds of events one or two tell something. These patterns pass over the others unparsed: a name that is
# needed must be there, and with something else than null. Whatever is unclear (a value on another `data:` line)
# counts as telling, and the parser decides.
tells = re.compile(rb'"(?:usage|error)"(?!\s*+:\s*+null)').search
tells_or_has_model = re.compile(rb'"(?:usage|error|model)"(?!\s*+:\s*+null)').search

# Their objects have a model or a time of creation of their own, which is not the call's.
_SILENT_ENDPOINTS = re.compile(r"/v1/(?:files|models|uploads|vector_stores|containers)(?:/|$)").match
_JSON_TYPE = re.compile(r"application/(?:[\w.-]+\+)?json").fullmatch


class _Body(Protocol):
    def feed(self, piece: bytes) -> None: ...
    def finish(self) -> None: ...


class UsageObserver:
    """
    Watches one response. With nothing to look into (sound, files, an unknown coding) a chunk costs a comparison.

    Args:
        facts: Filled by `body`.
        body: Gets what `decoder` makes of the bytes; None where there is nothing to look into.
        is_stream: The response is one of events, or of a WebSocket's messages.
    """

    def __init__(
        self,
        facts: Facts,
        body: _Body | None,
        *,
        decoder: BodyDecoder | None = None,
        is_stream: bool = False,
    ) -> None:
        self._facts = facts
        self._body = body
        self._decoder = decoder
        self.is_stream: Final = is_stream

    def feed(self, chunk: bytes) -> None:
        """Takes body bytes as they came from the upstream: maybe compressed, cut anywhere."""
        if self._body is None:
            return
        try:
            if self._decoder is None:
                self._body.feed(chunk)
                return
            for piece in self._decoder.decode(chunk):
                self._body.feed(piece)
                give_way()
        except Exception:
            # Everything in here works on someone else's bytes. Caught broadly on purpose, and silently: the relay has
            # a client to serve, and a message could quote the body.
            self.finish()

    def finish(self) -> None:
        """No more bytes: the response ended or was cut. A second call does nothing."""
        body, self._body, self._decoder = self._body, None, None
        if body is not None:
            with suppress(Exception):
                body.finish()

    @property
    def metadata(self) -> dict[str, Any] | None:
        """Usage, model and created as the record wants them; None when the upstream told nothing."""
        return self._facts.metadata()

    @property
    def model(self) -> str | None:
        """The model that the upstream named."""
        return self._facts.model

    @property
    def service_tier(self) -> str | None:
        """The tier that served the call, as the upstream calls it."""
        return self._facts.service_tier

    @property
    def usage_source(self) -> Literal["reported", "absent"]:
        return "absent" if self._facts.usage is None else "reported"

    @property
    def error(self) -> dict[str, str | None] | None:
        """Scrubbed code and type of an error the upstream reported, in a body or amid a stream."""
        return self._facts.error


def observe(endpoint: str, *, status: int, content_type: str | None, content_encoding: str | None) -> UsageObserver:
    """
    An observer for one response.

    Args:
        endpoint: The parsed path, such as "/v1/chat/completions".
        content_type: As the upstream sent it; JSON and event streams are looked into, anything else is not.
        content_encoding: As the upstream sent it; a coding we cannot undo is not looked into.
    """
    facts = Facts()
    is_stream, is_json = _kind(content_type)
    if not is_stream and (not is_json or (status < 400 and _SILENT_ENDPOINTS(endpoint))):
        return UsageObserver(facts, None)
    body: _Body = EventStream(facts) if is_stream else JsonBody(facts)
    if content_encoding is None or is_identity(content_encoding):
        return UsageObserver(facts, body, is_stream=is_stream)
    decoder = body_decoder(content_encoding)
    return UsageObserver(facts, body if decoder else None, decoder=decoder, is_stream=is_stream)


@lru_cache(maxsize=256)
def _kind(content_type: str | None) -> tuple[bool, bool]:
    """Whether a content type is an event stream, and whether it is JSON."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    return media_type == "text/event-stream", bool(_JSON_TYPE(media_type))


class DocumentScanner:
    """
    Reads what `Facts` takes out of a document of any size, in pieces.

    Args:
        inside: A member whose own members tell as much as the document's.
    """

    def __init__(self, *, inside: str | None = None) -> None:
        self._inside = inside
        self._members = JsonScanner(_SCANNED_NAMES, inside=inside.encode() if inside else None)
        self._tally = OutputTally()

    def feed(self, piece: bytes) -> None:
        self._members.feed(piece)
        self._tally.feed(piece)

    def document(self) -> dict[str, Any]:
        """The document, as far as it is complete and tells something; of its output a tally."""
        document: dict[str, Any] = self._members.document()
        response = document.get(self._inside) if self._inside else None
        (response if isinstance(response, dict) else document)["output"] = self._tally
        return document


class JsonBody:
    """A JSON body: parsed at the end when it is small, scanned as it comes when it is not."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._buffer = bytearray()
        self._scanner: DocumentScanner | None = None

    def feed(self, piece: bytes) -> None:
        if self._scanner is not None:
            self._scanner.feed(piece)
            return
        self._buffer += piece
        if len(self._buffer) > MAX_BUFFERED_BODY_BYTES:
            self._scanner = self._scan_buffer()

    def finish(self) -> None:
        self._facts.take(self._parse_buffer() if self._scanner is None else self._scanner.document())

    def _parse_buffer(self) -> object:
        try:
            return orjson.loads(self._buffer)
        except orjson.JSONDecodeError:
            # Cut off, or not quite JSON: what is complete in it still counts.
            return self._scan_buffer().document()

    def _scan_buffer(self) -> DocumentScanner:
        scanner = DocumentScanner()
        scanner.feed(bytes(self._buffer))
        self._buffer.clear()
        return scanner


class EventStream:
    """Server-sent events: most are passed over unparsed, large ones are scanned in parts."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._splitter = EventSplitter(max_event_bytes=MAX_EVENT_BYTES)
        self._lines = DataLines()
        self._scanner: DocumentScanner | None = None
        self._tells = tells_or_has_model  # until the model is known

    def feed(self, piece: bytes) -> None:
        # The usual read is whole events with nothing to tell; they need not even be taken apart.
        if self._splitter.is_between_events and piece.endswith(b"\n\n") and not self._tells(piece):
            return
        for part in in_slices(piece):
            self._split(part)

    def _split(self, part: bytes) -> None:
        for block in self._splitter.feed(part):
            if block.starts and block.ends and len(block.raw) <= MAX_EVENT_BYTES:
                self._take_event(block.raw)
            else:
                self._take_part(block)

    def finish(self) -> None:
        """An event without its blank line was never dispatched, so nothing is left to do."""

    def _take_event(self, raw: bytes) -> None:
        if not self._tells(raw):
            return
        event = parse_event(raw)
        if event is None:
            return
        try:
            document = orjson.loads(event.data)
        except orjson.JSONDecodeError:
            return
        self._take(document)

    def _take_part(self, block: Block) -> None:
        if block.starts or self._scanner is None:
            self._lines, self._scanner = DataLines(), DocumentScanner(inside=ENVELOPE)
        for data in self._lines.feed(block.raw):
            self._scanner.feed(data)
        if block.ends:
            self._take(self._scanner.document())
            self._scanner = None

    def _take(self, document: object) -> None:
        self._facts.take(document)
        if self._facts.model is not None:
            self._tells = tells
