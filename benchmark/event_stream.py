"""
Server-sent events as they arrive: when the first came, the gaps between them, how late each is, how many were lost.

Late and lost are known only where the upstream says so. The stand-in (`mock_openai`) begins events with a comment,
`: sent_ns=<time> event=<number> of=<count>`, when asked to by `x-mock-stamp: 1`; the Responses API numbers its events
by `sequence_number`.
"""

from __future__ import annotations

import re
from array import array

import orjson

_STAMP = re.compile(rb"^: sent_ns=(\d+)(?: event=(\d+) of=(\d+))?")
_NUMBER = re.compile(rb'"sequence_number":\s*(\d+)')


class StreamTimes:
    """Takes a stream piece by piece. Gaps and delays are milliseconds, in order."""

    def __init__(self) -> None:
        self.events = 0
        self.first_ns: int | None = None
        self.last_ns = 0
        self.gaps_ms = array("d")
        self.delays_ms = array("d")
        self.error: str | None = None
        self._rest = b""
        self._highest = -1
        self._promised = 0
        self._numbered = 0

    def feed(self, piece: bytes, now_ns: int) -> None:
        """`piece` arrived at `now_ns`; it may end anywhere."""
        *events, self._rest = (self._rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            if event:
                self._take(event, now_ns)

    def _take(self, event: bytes, now_ns: int) -> None:
        if self.first_ns is None:
            self.first_ns = now_ns
        else:
            self.gaps_ms.append((now_ns - self.last_ns) / 1e6)
        self.last_ns = now_ns
        self.events += 1
        if stamp := _STAMP.match(event):
            self.delays_ms.append((now_ns - int(stamp[1])) / 1e6)
            if stamp[2]:
                self._count(int(stamp[2]), int(stamp[3]))
        elif number := _NUMBER.search(event):
            self._count(int(number[1]), 0)
        if b'"error"' in event:
            self._note_error(event)

    def _count(self, number: int, promised: int) -> None:
        self._numbered += 1
        self._highest = max(self._highest, number)
        self._promised = promised

    def _note_error(self, event: bytes) -> None:
        data = b"\n".join(line[5:] for line in event.split(b"\n") if line.startswith(b"data:"))
        try:
            found = orjson.loads(data).get("error")
        except (ValueError, AttributeError):
            return
        if found:
            code = found.get("code") or found.get("type") if isinstance(found, dict) else None
            self.error = str(code or "no code")

    @property
    def lost(self) -> int | None:
        """Numbered events that never came, at the end too where the count was told; None where none has a number."""
        if not self._numbered:
            return None
        return max(self._promised, self._highest + 1) - self._numbered

    def kept_pace(self, events_per_s: float) -> bool:
        """Whether all came, and in no more than 5 % over the time that the pace asks for."""
        if self.first_ns is None or self.lost:
            return False
        return (self.last_ns - self.first_ns) / 1e9 <= 1.05 * (self.events - 1) / events_per_s
