"""How long a header may be that Flask reads: no longer than one line, however many lines say it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from llmproxy.call import new_id
from llmproxy.errors import HeadersTooLarge

# The servers refuse a longer line. What repeated lines say is joined: ninety with cookies, from anybody, would be
# taken apart for a fifth of a second in which nobody else is answered.
MAX_CHARS = 8190


def too_long(environ: Mapping[str, Any]) -> bool:
    """Whether a header of a WSGI request is longer than may be read as one."""
    return any(len(value) > MAX_CHARS for name, value in environ.items() if name.startswith("HTTP_"))


def refuse(start_response: Any) -> Iterable[bytes]:
    """Answer as the server does for a longer line."""
    status, headers, body = HeadersTooLarge().response(new_id(time.time()))
    start_response(status, headers)
    return [body]
