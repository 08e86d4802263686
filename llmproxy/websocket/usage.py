"""
The usage of a WebSocket: sums what each response on it reports, out of a copy of what the upstream sends.

The one place where usage is a sum: a WebSocket is one call with many responses. wsproto reads the frames, fragments
and compression included. Memory is bounded as for an event stream: a message of up to 1 MiB is kept whole, single
values of a larger one.
"""

from __future__ import annotations

from typing import Any

import orjson
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

from llmproxy.observe.facts import ENVELOPE, Facts
from llmproxy.observe.json_scan import JsonScanner
from llmproxy.observe.usage import MAX_EVENT_BYTES, SCANNED_NAMES, UsageObserver, tells, tells_or_has_model

# With each of these a response is over: of Realtime, and of Responses.
_FINAL_EVENTS = frozenset({"response.done", "response.completed", "response.incomplete", "response.failed"})
# What a model of its own understood of the caller's speech: billed apart, at its own price.
_TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
# Compression shrinks JSON by a factor of ten, base64 by less. What grows by more than 256 is a bomb.
_DEFLATED_BYTES = 4096
_MAX_INFLATED_BYTES = 1024 * 1024


def observe_session(extensions: str | None) -> UsageObserver:
    """
    An observer of what an upstream sends over a WebSocket.

    Args:
        extensions: The Sec-WebSocket-Extensions header of its handshake: with others than permessage-deflate, what
            is sent cannot be read, and the usage stays unknown.
    """
    facts = _SessionFacts()
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
    """What a WebSocket has told so far: the sum of its responses, or of its transcriptions where it has no others."""

    __slots__ = ("_responses", "_transcriptions")

    def __init__(self) -> None:
        super().__init__()
        self._responses: dict[str, Any] | None = None
        self._transcriptions: dict[str, Any] | None = None

    def take(self, document: object) -> None:
        """Reads one message."""
        if not isinstance(document, dict):
            return
        kind, session = document.get("type"), document.get("session")
        self.usage = None
        if kind in _FINAL_EVENTS:
            super().take(document)
            self._responses = _added(self._responses, self.usage)
        elif kind == _TRANSCRIBED:
            super().take({"usage": document.get("usage")})
            self._transcriptions = _added(self._transcriptions, self.usage)
        elif kind == "error":
            super().take(document)
        elif isinstance(session, dict):
            super().take({"model": session.get("model")})
        self.usage = self._responses or self._transcriptions


def _added(sums: dict[str, Any] | None, more: dict[str, Any] | None) -> dict[str, Any] | None:
    """Two usages in the record's form, added up count by count."""
    if sums is None or more is None:
        return sums or more
    total = dict(sums)
    for name, value in more.items():
        known = total.get(name)
        total[name] = _added(known, value) if isinstance(value, dict) else (known or 0) + value
    return total


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

    def __init__(self, facts: Facts, deflate: PerMessageDeflate | None) -> None:
        self._facts = facts
        self._frames = FrameProtocol(client=True, extensions=[deflate] if deflate else [])
        self._is_deflated = deflate is not None
        self._text = bytearray()
        self._scanner: JsonScanner | None = None

    def feed(self, piece: bytes) -> None:
        step = _DEFLATED_BYTES if self._is_deflated else len(piece)
        for start in range(0, len(piece), step):
            self._frames.receive_bytes(piece[start : start + step])
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
                self._scanner = JsonScanner(SCANNED_NAMES, inside=ENVELOPE.encode())
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
        is_telling = tells if self._facts.model is not None else tells_or_has_model
        if is_telling(message):
            self._facts.take(orjson.loads(message))

    def finish(self) -> None:
        """A message that was not ended was never sent."""
