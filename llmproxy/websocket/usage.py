"""
The usage of a WebSocket: what each response on it reports, out of a copy of what the upstream sends.

wsproto reads the frames, fragments and compression included. Memory is bounded as for an event stream: a message of
up to 64 KiB is kept whole, single values of a larger one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

from llmproxy.limits.judge import hearing_places
from llmproxy.observe.facts import ENVELOPE, Facts, read_model
from llmproxy.observe.usage import MAX_EVENT_BYTES, DocumentScanner, UsageObserver, take_message, tells_or_has_model
from llmproxy.turns import in_slices

# With each of these a response is over: of Realtime, and of Responses.
_FINAL_EVENTS = frozenset({"response.done", "response.completed", "response.incomplete", "response.failed"})
# What a model of its own understood of the caller's speech: billed apart, at its own price.
_TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
# As an event stream's patterns; a session's own settings may change at any time.
_tells = re.compile(
    rb'"(?:usage|error|session|response\.(?:created|done|completed|incomplete|failed))"(?!\s*+:\s*+null)'
).search
# Compression shrinks JSON by a factor of ten, base64 by less. What grows by more than 256 is a bomb.
# The same suits frames without a payload, each of which costs wsproto 10 µs.
_STEP_BYTES = 1024
_MAX_INFLATED_BYTES = 1024 * 1024


_BEGINS = "response.created"
_UPDATED = frozenset({"session.updated", "transcription_session.updated"})


class SessionSettings(Protocol):
    """Who is told what becomes of a session's settings."""

    def updated(self, session: Mapping[str, Any]) -> None:
        """They have been updated, and are these; empty where the message is too long to be read."""

    def failed(self, event_id: str | None) -> None:
        """A message of the client failed: the one of this id, if it is known."""


class Responses(Protocol):
    """Who is told of a WebSocket's responses."""

    def begun(self) -> None:
        """One has begun."""

    def over(self, told: Facts) -> None:
        """One is over."""

    def heard(self, told: Facts) -> None:
        """What the caller said has been understood, which is billed apart."""

    def failed(self, event_id: str | None) -> None:
        """A message of the client failed: the one of this id, if it is known."""

    def close(self) -> None:
        """No more will come."""


class _Nobody:
    """Counts and prices nothing."""

    def begun(self) -> None: ...

    def over(self, told: Facts) -> None: ...

    def heard(self, told: Facts) -> None: ...

    def failed(self, event_id: str | None) -> None: ...

    def updated(self, session: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


_NOBODY = _Nobody()


def observe_session(
    extensions: str | None, *, responses: Responses = _NOBODY, settings: SessionSettings | None = None
) -> UsageObserver:
    """
    An observer of what an upstream sends over a WebSocket.

    Args:
        extensions: The Sec-WebSocket-Extensions header of its handshake: with others than permessage-deflate, what
            is sent cannot be read, and the usage stays unknown.
        responses: Told of each, until the observer is finished.
        settings: Told of the session's; None where nobody cares.
    """
    facts = _SessionFacts(responses, settings or _NOBODY)
    deflate = None
    if extensions:
        if extensions.partition(";")[0].strip().lower() != PerMessageDeflate.name or "," in extensions:
            return UsageObserver(facts, None, is_stream=True)
        deflate = _Deflate()
        try:
            deflate.finalize(extensions)
        except ValueError:
            return UsageObserver(facts, None, is_stream=True)
    return UsageObserver(facts, _Messages(facts, deflate), is_stream=True)


class _SessionFacts(Facts):
    """What a WebSocket has told of itself so far: its model, its errors. What its responses tell is theirs."""

    __slots__ = ("_hearing_model", "_settings", "_told")

    def __init__(self, told: Responses, settings: SessionSettings) -> None:
        super().__init__()
        self._told = told
        self._settings = settings
        self._hearing_model: str | None = None

    def let_go(self) -> None:
        """Know nobody who prices any more: that is a call, which knows these facts."""
        told, self._told = self._told, _NOBODY
        told.close()

    def take(self, document: object) -> None:
        """Reads one message."""
        if not isinstance(document, dict) or not isinstance(kind := document.get("type"), str):
            return
        session = document.get("session")
        if kind == _BEGINS:
            self._told.begun()
        elif kind in _FINAL_EVENTS:
            one = _response(document, self.model)
            self.model = one.model
            self.has_failed = False  # whatever went wrong before, the session went on
            self._told.over(one)
        elif kind == _TRANSCRIBED:
            self._told.heard(_response({"usage": document.get("usage")}, self._hearing_model))
        elif kind == "error":
            super().take(document)
            failed = _failed_message(document)
            self._told.failed(failed)
            self._settings.failed(failed)
        elif isinstance(session, dict) or kind in _UPDATED:
            self._take_session(session if isinstance(session, dict) else {})
            if kind in _UPDATED:
                self._settings.updated(session if isinstance(session, dict) else {})

    def _take_session(self, session: dict[str, Any]) -> None:
        super().take({"model": session.get("model")})
        self._hearing_model = _hearing_model_of(session) or self._hearing_model


def _response(document: dict[str, Any], model: str | None) -> Facts:
    """What one response told; `model` is where it names none."""
    one = Facts()
    one.take(document)
    one.model = one.model or model
    return one


def _failed_message(document: dict[str, Any]) -> str | None:
    error = document.get("error")
    event_id = error.get("event_id") if isinstance(error, dict) else None
    return event_id if isinstance(event_id, str) else None


def _hearing_model_of(session: dict[str, Any]) -> str | None:
    """The model that transcribes what the caller says, in today's form of a session or in the one before."""
    told = (read_model(place.get("model")) for place in hearing_places(session))
    return next(filter(None, told), None)


class _Deflate(PerMessageDeflate):
    """wsproto's, which takes a control frame between two fragments for the end of their message (1.3.2)."""

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        if opcode.iscontrol() and not rsv.rsv1:
            self._inbound_is_compressible = False
            return RsvBits(True, False, False)
        return super().frame_inbound_header(proto, opcode, rsv, payload_length)

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        return super().frame_inbound_complete(proto, fin) if self._inbound_is_compressible else None


# "hello", compressed, in two fragments with a ping in between.
_INTERRUPTED = b"A\x03\xcaH\xcd\x89\x00\x80\x04\xc9\xc9\x07\x00"


def lost() -> str | None:
    """What an upgrade of wsproto took away from `_Deflate`; see `server.overrides`."""
    deflate = _Deflate()
    deflate.finalize(PerMessageDeflate.name)
    frames = FrameProtocol(client=True, extensions=[deflate])
    frames.receive_bytes(_INTERRUPTED)
    texts = [frame.payload for frame in frames.received_frames() if frame.opcode is Opcode.TEXT]
    return None if "".join(map(str, texts)) == "hello" else "reads compressed fragments otherwise"


class _Messages:
    """Text messages out of a server's frames."""

    is_stream = True

    def __init__(self, facts: _SessionFacts, deflate: PerMessageDeflate | None) -> None:
        self._facts = facts
        self._frames = FrameProtocol(client=True, extensions=[deflate] if deflate else [])
        self._is_deflated = deflate is not None
        self._text = bytearray()
        self._scanner: DocumentScanner | None = None

    def ignores(self, _: bytes) -> bool:
        return False

    def feed(self, piece: bytes) -> None:
        for part in in_slices(piece, _STEP_BYTES):
            self._frames.receive_bytes(part)
            for frame in self._frames.received_frames():
                if frame.opcode is Opcode.TEXT:
                    assert isinstance(frame.payload, str)  # noqa: S101
                    self._take_text(frame.payload.encode(), ends=frame.message_finished)

    def _take_text(self, text: bytes, *, ends: bool) -> None:
        if self._is_deflated and len(text) > _MAX_INFLATED_BYTES:
            raise ValueError("a decompression bomb")
        if self._scanner is not None:
            self._scanner.feed(text)
        else:
            self._text += text
            if len(self._text) > MAX_EVENT_BYTES:
                self._scanner = DocumentScanner(self._facts.path, inside=ENVELOPE)
                self._scanner.feed(bytes(self._text))
                self._text.clear()
        if ends:
            self._take_message()

    def _take_message(self) -> None:
        scanner, self._scanner = self._scanner, None
        message, self._text = self._text, bytearray()
        if scanner is not None:
            self._facts.take(scanner.document())
            return
        if _tells(message) or (self._facts.model is None and tells_or_has_model(message)):
            take_message(self._facts, message)

    def finish(self) -> None:
        """A message that was not ended was never sent."""
        self._facts.let_go()
