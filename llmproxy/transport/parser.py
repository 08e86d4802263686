"""What llhttp tells of one response."""

from __future__ import annotations

import re

import httptools

from llmproxy.concealment import NOTHING, Concealment
from llmproxy.headers import Headers

MAX_NAME_BYTES = 1024
MIN_STATUS = 100
_is_reason = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch


class ParsedResponse:
    """
    One response as far as it has come; its callbacks are named by httptools. What they raise ends it as no HTTP.

    Args:
        conceals: What of its fields nobody may see.
        may_upgrade: A 101 is the response that counts, because it was asked for.

    Attributes:
        interim: Status and headers of each response before it (1xx) that was not taken yet.
        status, reason, headers: Of the response that counts, once `head_done`; headers in order, with repetitions.
        trailers: What followed its body.
        body: What has come of it and was not taken yet.
        is_done: All of it has come.
        is_excess: More came than belongs to it.
        keeps_alive: The upstream means to go on with this connection.
    """

    __slots__ = (
        "_conceals",
        "_is_to_conceal",
        "_may_upgrade",
        "body",
        "head_done",
        "headers",
        "interim",
        "is_done",
        "is_excess",
        "keeps_alive",
        "parser",
        "reason",
        "status",
        "trailers",
    )

    def __init__(self, *, conceals: Concealment = NOTHING, may_upgrade: bool = False) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.reason = ""
        self.headers: Headers = []
        self.interim: list[tuple[int, Headers]] = []
        self.trailers: Headers = []
        self.body: list[bytes] = []
        self._conceals = conceals
        self._is_to_conceal = True
        self._may_upgrade = may_upgrade
        self.head_done = self.is_done = self.is_excess = self.keeps_alive = False

    def on_message_begin(self) -> None:
        if self.is_done:
            raise ValueError("a second response to one request")

    def on_status(self, reason: bytes) -> None:
        self.reason += reason.decode("latin-1")  # in two pieces, where it came so

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) > MAX_NAME_BYTES:
            raise ValueError("a header's name is too long")
        fields = self.trailers if self.head_done else self.headers
        fields.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        # llhttp takes any three digits, and any byte of a reason but CR and LF.
        if self.status < MIN_STATUS or not _is_reason(self.reason):
            raise ValueError("a status or a reason that is none")
        if self._is_to_conceal:
            self.headers, self.reason = self._conceals.fields(self.headers), self._conceals.text(self.reason)
        self.head_done = self.status >= 200 or (self._may_upgrade and self.parser.should_upgrade())
        # llhttp forgets it when the message is over.
        self.keeps_alive = self.parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        if self.head_done:
            self.is_done = True
            if self.trailers:
                self.trailers = self._conceals.fields(self.trailers)
            return
        self.interim.append((self.status, self.headers))
        self.headers = []
        self.reason = ""
