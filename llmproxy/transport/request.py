"""A request on its way up: what is sent, and its bytes on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from requests import PreparedRequest
from requests.structures import CaseInsensitiveDict

from llmproxy.client.guard import Abortable
from llmproxy.client.request_body import RequestBody
from llmproxy.concealment import NOTHING, Concealment
from llmproxy.egress import EgressProxy
from llmproxy.headers import Headers, Origin

OnInterim = Callable[[int, Headers], None]


class UpstreamRequest(PreparedRequest):
    """
    A request as it goes up: requests' own kind, without what its preparing would change.

    Args:
        origin: Where to connect.
        target: Path and query, below ``/v1/``: sent as they are, with the origin's path in its place.
        headers: In order and with repetitions, without those that frame the body.
        on_connection: Called with each connection before it is used, so that a caller may abort it; with None before
            one is made, which a caller ends by throwing into this greenlet. What it raises ends the call.
        on_interim: Called with status and headers of each response before the one that counts (100, 102, 103), as
            soon as it came and while the call goes on. Must not raise.
        conceals: What of its response nobody may see.
        may_upgrade: It asks for another protocol, and a 101 is a good response to it.
    """

    method: str
    body: RequestBody  # type: ignore[assignment]

    def __init__(
        self,
        method: str,
        origin: Origin,
        target: str,
        headers: Headers,
        body: RequestBody,
        on_connection: Callable[[Abortable | None], None],
        on_interim: OnInterim | None = None,
        *,
        conceals: Concealment = NOTHING,
        may_upgrade: bool = False,
    ) -> None:
        self.method = method
        self.origin = origin
        self.target = origin.base_path + target.removeprefix("/v1")
        self.url = f"{origin.scheme}://{origin.host_header}{self.target}"
        self.pairs = headers
        self.body = body
        self.on_connection = on_connection
        self.on_interim = on_interim
        self.conceals = conceals
        self.may_upgrade = may_upgrade

    @property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]
        """What requests' own adapters look at, with the last of each name; made when one does."""
        return CaseInsensitiveDict(self.pairs)


def head_of(request: UpstreamRequest, length: int | None, forwarder: EgressProxy | None = None) -> bytes:
    """
    The request line and headers, the framing ones for a body of `length` bytes included; None means chunks.

    Args:
        forwarder: The egress proxy that reads them and passes them on; RFC 9112 section 3.2.2.
    """
    lines = [f"{request.method} {request.target if forwarder is None else request.url} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in request.pairs]
    if forwarder is not None and forwarder.authorization:
        lines.append(f"Proxy-Authorization: {forwarder.authorization}")
    if length is None:
        lines.append("Transfer-Encoding: chunked")
    # Where nobody expects a body, one of no length is told of as the client told.
    elif length or request.body.is_announced or request.method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {length}")
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1")


def framed(body: RequestBody) -> Iterable[bytes]:
    """The body's pieces as they go on the wire."""
    if body.length is not None:
        yield from body
        return
    for piece in body:
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"
