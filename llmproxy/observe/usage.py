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
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, Literal, Protocol

from llmproxy.observe.decoding import BodyDecoder, body_decoder, is_identity
from llmproxy.observe.facts import ENVELOPE, NAMES, Facts
from llmproxy.observe.json_scan import JsonScanner, parsed
from llmproxy.observe.seen import SeenEvents
from llmproxy.observe.sse import BOM, Block, DataLines, EventSplitter, parse_event
from llmproxy.observe.units import OutputTally
from llmproxy.statuses import BAD_REQUEST
from llmproxy.turns import give_way, in_slices

MAX_BUFFERED_BODY_BYTES = 64 * 1024
MAX_EVENT_BYTES = 64 * 1024

_SCANNED_NAMES = frozenset(name.encode() for name in NAMES)

# Of hundreds of events one or two tell something. These patterns pass over the others unparsed: a name that is
# needed must be there, and with something else than null. Whatever is unclear (a value on another `data:` line)
# counts as telling, and the parser decides.
tells = re.compile(rb'"(?:usage|error|response\.failed)"(?!\s*+:\s*+null)').search
tells_or_has_model = re.compile(rb'"(?:usage|error|response\.failed|model)"(?!\s*+:\s*+null)').search

# An event may be called an error by its name alone.
_names_error = re.compile(rb"(?:^|[\r\n])event: ?error[\r\n]").search

# Runs name what failed in the event's name alone. Their streams are few: each event is parsed.
_names_failures = re.compile(r"/v1/threads/").match

# Their objects have a model or a time of creation of their own, which is not the call's.
_is_silent = re.compile(r"/v1/(?:files|models|uploads|vector_stores|containers)(?:/|$)").match
# As the official clients know JSON by its name.
_is_json = re.compile(r"json$").search
# What no stream of events is called.
_is_medium = re.compile(r"(?:audio|image|video|font|multipart)/").match


# What a Content-Type says of a body. Official clients read a stream whatever it is called, JSON by its name alone.
Label = Literal["events", "json", "text", "other"]
# The first field of an event stream, or a comment; no other body that is looked into begins so.
_begins_event = re.compile(rb"(?:data|event|id|retry)?:").match
_FIRST_WORD_BYTES = len(b"event:")


class _Body(Protocol):
    @property
    def is_stream(self) -> bool: ...
    def ignores(self, piece: bytes) -> bool:
        """Whether the next bytes tell nothing, so that they need not be fed; never waits."""

    def feed(self, piece: bytes) -> _Body | None:
        """Takes the next bytes; what takes those after them, where that is another."""

    def finish(self) -> None: ...


class UsageObserver:
    """
    Watches one response. With nothing to look into (sound, files, an unknown coding) a chunk costs a comparison.

    Args:
        facts: Filled by `body`.
        body: Gets what `decoder` makes of the bytes; None where there is nothing to look into.
        is_stream: What cannot be looked into is one of events, or of a WebSocket's messages.

    Attributes:
        facts: What was told so far, for whoever asks for more than one of them.
        is_stream: The response is one of those: by its label until its body has begun.
    """

    __slots__ = ("_body", "_decoder", "facts", "is_stream")

    def __init__(
        self,
        facts: Facts,
        body: _Body | None,
        *,
        decoder: BodyDecoder | None = None,
        is_stream: bool = False,
    ) -> None:
        self.facts: Final = facts
        self._body = body
        self._decoder = decoder
        self.is_stream = is_stream if body is None else body.is_stream

    def feed(self, chunk: bytes) -> None:
        """Takes body bytes as they came from the upstream: maybe compressed, cut anywhere."""
        if self._body is None:
            return
        try:
            if self._decoder is None:
                if (body := self._body.feed(chunk)) is not None:
                    self._go_on_with(body)
                return
            for piece in self._decoder.decode(chunk):
                if (body := self._body.feed(piece)) is not None:
                    self._go_on_with(body)
                give_way()
        except Exception:
            # Everything in here works on someone else's bytes. Caught broadly on purpose, and silently: the relay has
            # a client to serve, and a message could quote the body.
            self.finish()

    def ignores(self, chunk: bytes) -> bool:
        """Whether these bytes, which are the next ones, tell nothing, so that `feed` may be spared. Never raises."""
        return self._body is None or (self._decoder is None and self._body.ignores(chunk))

    def _go_on_with(self, body: _Body) -> None:
        self._body, self.is_stream = body, body.is_stream

    def finish(self) -> None:
        """No more bytes: the response ended or was cut. A second call does nothing."""
        body, self._body, self._decoder = self._body, None, None
        if body is None:
            return
        # Not by `suppress`, which would take as long as all the rest: every call comes here.
        try:
            body.finish()
        except Exception:
            return  # as in `feed`


def observe(
    endpoint: str,
    *,
    method: str = "POST",
    status: int,
    content_type: str | None,
    content_encoding: str | None,
    seen: SeenEvents | None = None,
) -> UsageObserver:
    """
    An observer for one response.

    Args:
        endpoint: The path, as requested.
        content_type: As the upstream sent it; JSON, event streams and plain text, which may be either, are looked
            into; anything else where it begins as a stream does, and is called neither sound nor picture.
        content_encoding: As the upstream sent it; a coding we cannot undo is not looked into.
        seen: Fed with what is looked into, too.
    """
    facts = Facts(endpoint, may_make=method == "POST")
    label = _label(content_type and content_type[:MAX_TYPE_CHARS])
    is_stream = label == "events"
    if label is None or (not is_stream and status < BAD_REQUEST and _is_silent(facts.path)):
        return UsageObserver(facts, None)
    decoder = None
    if content_encoding is not None and not is_identity(content_encoding):
        decoder = body_decoder(content_encoding)
        if decoder is None:
            return UsageObserver(facts, None, is_stream=is_stream)
    body: _Body = Beginning(facts, label)
    return UsageObserver(facts, body if seen is None else _SeenBody(body, seen), decoder=decoder)


# Longer than any media type; a foreign text is not remembered whole.
MAX_TYPE_CHARS = 128


@lru_cache(maxsize=256)
def _label(content_type: str | None) -> Label | None:
    """What a content type promises; None for what is not looked into."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type == "text/event-stream":
        return "events"
    if _is_json(media_type):
        return "json"
    if media_type in ("", "text/plain"):
        return "text"
    return None if _is_medium(media_type) else "other"


class Beginning:
    """The beginning of a body, which tells what to read it as, whatever its label says: JSON, or events."""

    __slots__ = ("_facts", "_label", "_start", "is_stream")

    def __init__(self, facts: Facts, label: Label) -> None:
        self._facts = facts
        self._label = label
        self._start = b""
        self.is_stream = label == "events"

    def ignores(self, piece: bytes) -> bool:
        return False

    def feed(self, piece: bytes) -> _Body | None:
        # Upstreams that keep a connection alive send blank lines before what they have to say.
        start = (self._start + piece).removeprefix(BOM).lstrip()
        body = self._begun(start)
        if body is None:
            self._start = start
        else:
            body.feed(start)
        return body

    def _begun(self, start: bytes) -> _Body | None:
        """What reads on, as soon as the first word tells."""
        if start.startswith((b"{", b"[")):
            return _Unread() if self._label == "other" else JsonBody(self._facts)
        if _begins_event(start):
            return EventStream(self._facts)
        if len(start) < _FIRST_WORD_BYTES:
            return None
        if self.is_stream:
            return EventStream(self._facts)
        return JsonBody(self._facts) if self._label == "json" else _Unread()

    def finish(self) -> None:
        """Too little to tell anything."""


class _SeenBody:
    """A body whose bytes are shown to somebody else, too."""

    def __init__(self, body: _Body, seen: SeenEvents) -> None:
        self._body, self._seen = body, seen

    @property
    def is_stream(self) -> bool:
        return self._body.is_stream

    def ignores(self, piece: bytes) -> bool:
        return False

    def feed(self, piece: bytes) -> _Body | None:
        self._seen.feed(piece)
        if (body := self._body.feed(piece)) is None:
            return None
        self._body = body
        return self

    def finish(self) -> None:
        self._body.finish()


class _Unread:
    """What is neither."""

    is_stream = False

    def ignores(self, piece: bytes) -> bool:
        return True

    def feed(self, piece: bytes) -> None: ...

    def finish(self) -> None: ...


class DocumentScanner:
    """
    Reads what `Facts` takes out of a document of any size, in pieces.

    Args:
        path: What was asked, in plain form; empty for a WebSocket. Responses alone have an output to look into.
        inside: A member whose own members tell as much as the document's.
    """

    def __init__(self, path: str, *, inside: str | None = None) -> None:
        self._inside = inside
        self._members = JsonScanner(_SCANNED_NAMES, inside=inside.encode() if inside else None)
        self._tally = OutputTally() if not path or path.startswith("/v1/responses") else None

    def feed(self, piece: bytes) -> None:
        self._members.feed(piece)
        if self._tally is not None:
            self._tally.feed(piece)

    def document(self) -> dict[str, Any]:
        """The document, as far as it is complete and tells something; of its output a tally."""
        document: dict[str, Any] = self._members.document()
        response = document.get(self._inside) if self._inside else None
        (response if isinstance(response, dict) else document)["output"] = self._tally
        return document


class JsonBody:
    """A JSON body: parsed at the end when it is small, scanned as it comes when it is not."""

    __slots__ = ("_buffer", "_facts", "_scanner")
    is_stream = False

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._buffer = bytearray()
        self._scanner: DocumentScanner | None = None

    def ignores(self, piece: bytes) -> bool:
        return False

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
            return parsed(self._buffer)
        except (ValueError, RecursionError):
            # Cut off, or not quite JSON: what is complete in it still counts.
            return self._scan_buffer().document()

    def _scan_buffer(self) -> DocumentScanner:
        scanner = DocumentScanner(self._facts.path)
        scanner.feed(bytes(self._buffer))
        self._buffer.clear()
        return scanner


class EventStream:
    """Server-sent events: most are passed over unparsed, large ones are scanned in parts."""

    is_stream = True

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._splitter = EventSplitter(max_event_bytes=MAX_EVENT_BYTES)
        self._lines = DataLines()
        self._scanner: DocumentScanner | None = None
        # Until the model is known.
        self._tells: Callable[[bytes], object] = bool if _names_failures(facts.path) else tells_or_has_model

    def ignores(self, piece: bytes) -> bool:
        # The usual read is whole events with nothing to tell; they need not even be taken apart.
        return (
            self._splitter.is_between_events
            and piece.endswith(b"\n\n")
            and not self._tells(piece)
            # A line of data alone, as in chats, has no name.
            and not (piece.find(b"\n") < len(piece) - 2 and b"error" in piece and _names_error(piece))
        )

    def feed(self, piece: bytes) -> None:
        if self.ignores(piece):
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
        if not self._tells(raw) and not (b"error" in raw and _names_error(raw)):
            return
        if event := parse_event(raw):
            take_message(self._facts, event.data, is_error=event.name == "error")
            self._look_for_what_is_missing()

    def _take_part(self, block: Block) -> None:
        if block.starts or self._scanner is None:
            self._lines, self._scanner = DataLines(), DocumentScanner(self._facts.path, inside=ENVELOPE)
        self._scanner.feed(b"".join(self._lines.feed(block.raw)))
        if block.ends:
            scanner, self._scanner = self._scanner, None
            self._facts.take(scanner.document())
            self._look_for_what_is_missing()

    def _look_for_what_is_missing(self) -> None:
        if self._facts.model is not None and self._tells is not bool:
            self._tells = tells


def take_message(facts: Facts, data: bytes | bytearray, *, is_error: bool = False) -> None:
    """
    Reads one event's or message's data: whatever is odd about it, those that follow are read too.

    Args:
        is_error: Its name says so.
    """
    # Caught broadly for the same reason as in `UsageObserver.feed`.
    with suppress(Exception):
        document = _read(facts, data)
        if is_error and not (isinstance(document, dict) and "error" in document):
            document = {"error": document or True}
        facts.take(document)


def _read(facts: Facts, data: bytes | bytearray) -> object:
    """The document in a message's data; None for what is none to anybody."""
    try:
        return parsed(data)
    except RecursionError:
        scanner = DocumentScanner(facts.path, inside=ENVELOPE)
        scanner.feed(bytes(data))
        return scanner.document()
    except ValueError:
        return None
