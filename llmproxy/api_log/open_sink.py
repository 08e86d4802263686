"""Where records go that leave this machine: the sink that LOGGING_URL asks for."""

from __future__ import annotations

import re

from llmproxy.api_log.http_sink import HttpSink
from llmproxy.api_log.logging_url import CloudWatchTarget, HttpTarget
from llmproxy.api_log.sink import Sink
from llmproxy.egress import Egress

_BEARER = re.compile(r"[\x21-\x7e]+")


def open_sink(
    target: HttpTarget | CloudWatchTarget, *, token: str | None = None, egress: Egress | None = None
) -> Sink:
    """
    The sink for a target.

    Args:
        token: LOGGING_TOKEN, sent as a bearer token by HTTP. ValueError when it cannot stand in a header.
        egress: The way there; direct without one.

    ImportError names the command to run when CloudWatch's library is not installed.
    """
    if isinstance(target, HttpTarget):
        if token and not _BEARER.fullmatch(token):
            raise ValueError("LOGGING_TOKEN holds a character that cannot stand in a header")
        return HttpSink(target, token=token, egress=egress)
    # Its library is an extra.
    from llmproxy.api_log.cloudwatch import CloudWatchSink

    return CloudWatchSink(target, egress or Egress())
