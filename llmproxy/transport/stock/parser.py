"""http.client's response without its leniencies: what is cut or malformed must not look whole to a client."""

from __future__ import annotations

import contextlib
import re
from http.client import HTTPException, HTTPResponse, IncompleteRead, RemoteDisconnected
from typing import Any

from llmproxy.headers import Headers
from llmproxy.transport.answer import MAX_HEAD_BYTES
from llmproxy.transport.connection import unacknowledged
from llmproxy.transport.parser import Pairs
from llmproxy.transport.stock.exchange import Exchange

SWITCHING_PROTOCOLS = 101
MAX_LINE_BYTES = 64 * 1024
_is_field = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r?\n").fullmatch
_chunk_size = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;[^\r\n]*)?\r\n").fullmatch


class StockParser(HTTPResponse):
    """
    http.client's response.

    Attributes:
        fields: Its headers as sent, in order and with repetitions.
    """

    def __init__(self, exchange: Exchange, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.exchange = exchange
        self.fields = Pairs()
        self._socket = sock

    def begin(self) -> None:
        """Read the head. Raises HTTPException for one that is malformed or ends early."""
        reader: Any = self.fp
        self.fp = lines = _Lines(reader)  # type: ignore[assignment]
        try:
            super().begin()
        finally:
            self.fp = reader if self.fp else None  # type: ignore[assignment]
        self.fields.extend(_fields(lines.taken))
        lengths = {value for name, value in self.fields if name.lower() == "content-length"}
        if any(not (value.isascii() and value.isdigit()) for value in lengths) or len(lengths) + self.chunked > 1:
            raise HTTPException("a length that cannot be relied on")

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = self._read_status_line()
            if status >= 200 or (status == SWITCHING_PROTOCOLS and self.exchange.request.may_upgrade):
                self.exchange.is_repeatable = False
                return version, status, reason
            if status == SWITCHING_PROTOCOLS:
                raise HTTPException("the upstream switched protocols unasked")
            while self.fp.readline(MAX_LINE_BYTES) not in (b"\r\n", b"\n", b""):
                pass
            fields = _fields(self.fp.taken)  # type: ignore[attr-defined]
            if self.exchange.request.on_interim is not None:
                self.exchange.request.on_interim(status, fields)

    def _read_status_line(self) -> tuple[str, int, str]:
        lines: Any = self.fp
        lines.taken.clear()
        try:
            version, status, reason = super()._read_status()  # type: ignore[misc]
        except RemoteDisconnected:
            self.exchange.ended_cleanly = True
            self.exchange.unacknowledged = unacknowledged(self._socket)
            raise
        finally:
            self.exchange.is_repeatable &= not any(lines.taken)
        lines.taken.clear()
        return version, status, reason

    def _read_next_chunk_size(self) -> int:
        found = _chunk_size(self.fp.readline(MAX_LINE_BYTES))
        if found is None:
            raise ValueError("no chunk size")
        return int(found[1], 16)

    def _safe_read(self, amount: int) -> bytes:
        # As it is read here, nothing but the end of a chunk comes this way.
        data: bytes = super()._safe_read(amount)  # type: ignore[misc]
        if data != b"\r\n":
            raise IncompleteRead(data)
        return data

    def _read_and_discard_trailer(self) -> None:
        lines = _Lines(self.fp)
        while lines.readline(MAX_LINE_BYTES) not in (b"\r\n", b"\n", b""):
            pass
        self.exchange.trailers = _fields(lines.taken)

    def take_over(self) -> bytes:
        """What came behind the head. From here on nothing is read here, not even at the end of this object's life."""
        said = self.take_buffered()
        self.fp.close()
        self.fp = None  # type: ignore[assignment]
        return said

    def take_buffered(self) -> bytes:
        """What has been received beyond what was read. Never waits."""
        reader: Any = self.fp
        with contextlib.suppress(OSError, ValueError):
            self._socket.settimeout(0)
            return bytes(reader.read1(len(reader.peek(1))))
        return b""

    def _close_conn(self) -> None:
        if isinstance(self.fp, _Lines):
            self.fp = self.fp.reader
        # It would be lost without anybody knowing.
        self.exchange.is_excess |= bool(self.take_buffered())
        super()._close_conn()  # type: ignore[misc]


class _Lines:
    """Reads lines, and keeps them as they came."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self.taken: list[bytes] = []
        self._size = 0

    def readline(self, limit: int) -> bytes:
        line: bytes = self.reader.readline(limit)
        self.taken.append(line)
        self._size += len(line)
        if self._size > MAX_HEAD_BYTES:
            raise HTTPException("the upstream's headers are too long")
        return line


def _fields(lines: list[bytes]) -> Headers:
    """The fields of a block of lines. Raises HTTPException unless each is one, and the last is empty."""
    *fields, last = lines
    if last not in (b"\r\n", b"\n") or not all(map(_is_field, fields)):
        raise HTTPException("the upstream's headers are malformed or cut off")
    pairs = [line.decode("latin-1").split(":", 1) for line in fields]
    return [(name, value.strip(" \t\r\n")) for name, value in pairs]
