"""A request on its way up: what is sent, and its bytes on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from requests import PreparedRequest
from requests.structures import CaseInsensitiveDict

from llmproxy.client.guard import Abortable
from llmproxy.client.request_body import RequestBody
from llmproxy.headers import Headers, Origin

OnInterim = Callable[[int, Headers], None]


class UpstreamRequest(PreparedRequest):
    """
    A prepared request that keeps what preparing would change.

    Attributes:
        origin: Where to connect.
        target: Path and query, sent as they are behind the origin's prefix.
        pairs: The headers, in order and with repetitions; `headers` has the last of each name.
        body: A RequestBody.
        on_connection: Called with each connection before it is made and before it is used, so that a caller may
            abort it.
        on_interim: Called with status and headers of each answer before the one that counts (100, 102,
            103), as soon as it came and while the call goes on. Must not raise.
        may_upgrade: It asks for another protocol, and a 101 is a good answer to it.
    """

    def __init__(
        self,
        method: str,
        origin: Origin,
        target: str,
        headers: Headers,
        body: RequestBody,
        on_connection: Callable[[Abortable], None],
        on_interim: OnInterim | None = None,
        *,
        may_upgrade: bool = False,
    ) -> None:
        super().__init__()
        self.method = method
        self.origin = origin
        self.target = origin.prefix + target
        self.url = f"{origin.scheme}://{origin.host_header}{self.target}"
        self.pairs = headers
        self.body = body  # type: ignore[assignment]
        self.on_connection = on_connection
        self.on_interim = on_interim
        self.may_upgrade = may_upgrade

    @property
    def headers(self) -> CaseInsensitiveDict[str]:
        """What requests' own adapters look at; made when one does."""
        return CaseInsensitiveDict(self.pairs)

    @headers.setter
    def headers(self, nothing_yet: CaseInsensitiveDict[str]) -> None:
        """Set to None by the base class, before there are any."""


def head_of(request: UpstreamRequest, length: int | None) -> bytes:
    """The request line and headers, the framing ones for a body of `length` bytes included; None means chunks."""
    lines = [f"{request.method} {request.target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in request.pairs]
    if length is None:
        lines.append("Transfer-Encoding: chunked")
    elif length or request.method in ("POST", "PUT", "PATCH"):  # elsewhere nobody expects a body
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
