"""
A stand-in for OpenAI's API on a real socket: the upstream of tests and benchmarks.

    python -m benchmark.mock_openai --port 0

prints `mock_openai listening on http://127.0.0.1:PORT` and serves until SIGTERM; `--host` lets other containers in.
Tests use `MockOpenAI`, which starts that command as a process of its own, so that neither side is touched by the
other's event loop. How many requests it answers in a second on this machine is told by
`python -m benchmark.mock_openai --self-test`.

Every surface answers in OpenAI's documented shape (`openai_shapes`), the same bytes for the same request. A request
bends its answer with these headers, which a transparent proxy passes on:

what is answered
    x-mock-status: 429          this status; an error of OpenAI's from 400 up; 204 and 304 have no body
    x-mock-retry-after-ms: 50   with any error; a 429 has 2000 without being asked
    x-mock-redirect: URL        302 (or x-mock-status) with this Location
    x-mock-events: N            N content events, or words (5)
    x-mock-ending: incomplete   or failed: how a model's answer ends
    x-mock-size: BYTES          JSON padded to (where it is smaller), or a binary body of, exactly this size
    x-mock-header: name: value  one more answer header; may be repeated
    x-mock-once: NAME           the controls hold for the first request with this name only
how it travels
    x-mock-framing: chunked     or length, or close; streams are chunked and the rest has a length otherwise
    x-mock-encoding: gzip       or deflate, br, zstd
    x-mock-event-split: BYTES   every event is sent in pieces of this size
    x-mock-informational: 103   a 1xx answer first; several with commas
    x-mock-trailer: 1           a trailer after the last chunk
    x-mock-stamp: 1             events begin with a comment `: sent_ns=<20 digits> event=<number> of=<count>` (of
                                time.monotonic_ns, one clock for the whole machine); every answer has x-mock-sent-ns
when
    x-mock-delay-ms, x-mock-gap-ms   before the first byte; between two events
    x-mock-gate: NAME           every event after the first waits for `release(NAME)`
    x-mock-read-gate: NAME      the body is not read further than its first piece before `release(NAME)`
    x-mock-early: 1             answers without waiting for the body, then closes
what goes wrong
    x-mock-hold: 1              never answers
    x-mock-hang-after: K        falls silent after K events (0: after the head)
    x-mock-cut-after: K         ends the connection after K events, or (1) in the middle of a JSON body
    x-mock-cut-with: reset      by RST instead of FIN (always so where FIN would be a clean end)
    x-mock-drop: 1              ends the connection instead of an answer
    x-mock-close-idle: 1        answers as if it kept the connection, then closes it

Under `/__mock__/`: GET requests, connections, wait; POST gate/NAME, reset. The methods of `MockOpenAI` call them.
"""

import argparse
import http.client
import json
import resource
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

import gevent
import gevent.ssl

from benchmark.mock_server import MockServer

BACKLOG = 2048
STOP_S = 5
ROOT = Path(__file__).resolve().parent.parent


class MockOpenAI:
    """
    The mock upstream as a process, for the length of a `with` block.

    Args:
        api_key: The only key that is accepted; None accepts any that starts with `sk-`.
        cert: A certificate chain in PEM, and `key` its private key: serves https with them.
    """

    def __init__(
        self, *, api_key: str | None = None, cert: Path | str | None = None, key: Path | str | None = None
    ) -> None:
        options = {
            "--api-key": api_key,
            "--cert": cert and Path(cert).resolve(),
            "--key": key and Path(key).resolve(),
        }
        self._arguments = [text for name, value in options.items() if value for text in (name, str(value))]
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmark.mock_openai", "--port", "0", *self._arguments]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip().rpartition(" ")[2]
        if not self.url:
            self.close()
            raise RuntimeError("the mock upstream did not start; its complaint is on stderr")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process. Its open connections are cut."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
        self._process = None

    @property
    def pid(self) -> int:
        """The process, for measuring what it costs."""
        assert self._process is not None
        return self._process.pid

    def requests(self, path: str | None = None) -> list[dict[str, Any]]:
        """
        The last thousand requests, oldest first.

        Each has: method, target (as sent), http_version, headers and trailers (pairs, as sent), body_length,
        body_sha256, body_complete, json (of bodies up to 64 KiB), fields and files of a form, outcome,
        client_closed_early, pieces_sent, connection (its number) and turn (which request on that connection).

        `outcome` is receiving, waiting, answering; then answered, client_gone or cut.
        """
        found: list[dict[str, Any]] = self._call("GET", "requests")
        return [request for request in found if path is None or request["target"].partition("?")[0] == path]

    def last_request(self) -> dict[str, Any]:
        """The request that arrived last; IndexError when there was none."""
        return self.requests()[-1]

    def wait_for(
        self, outcome: str = "answered", *, path: str | None = None, count: int = 1, timeout: float = 10.0
    ) -> dict[str, Any]:
        """The newest of `count` requests with this outcome, as soon as there are so many. Raises TimeoutError."""
        asked = {"outcome": outcome, "count": str(count)} | ({"path": path} if path else {})
        found: list[dict[str, Any]] = self._wait(asked, timeout)
        return found[-1]

    def wait_for_open_connections(self, count: int, *, timeout: float = 10.0) -> None:
        """Returns once exactly `count` connections are open. Raises TimeoutError."""
        self._wait({"open": str(count)}, timeout)

    def release(self, gate: str, count: int = 1) -> None:
        """Lets `count` more events through the gate, now or when they come."""
        self._call("POST", f"gate/{quote(gate, safe='')}?count={count}")

    def connections(self) -> dict[str, int]:
        """`open` now, and `accepted` since the start or the last reset; those of these methods are not counted."""
        counts: dict[str, int] = self._call("GET", "connections")
        return counts

    def reset(self) -> None:
        """Forgets requests, gates and the names of x-mock-once. Open connections stay."""
        self._call("POST", "reset")

    def _wait(self, asked: dict[str, str], timeout_s: float) -> Any:
        query = urlencode(asked | {"timeout": str(timeout_s)})
        return self._call("GET", f"wait?{query}", timeout_s=timeout_s + STOP_S)

    def _call(self, method: str, command: str, *, timeout_s: float = 10.0) -> Any:
        place = urlsplit(self.url)
        connection: http.client.HTTPConnection
        if place.scheme == "https":
            # The control channel is our own process; whose certificate it shows is not the point here.
            trust_all = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection(place.netloc, timeout=timeout_s, context=trust_all)
        else:
            connection = http.client.HTTPConnection(place.netloc, timeout=timeout_s)
        try:
            connection.request(method, f"/__mock__/{command}")
            response = connection.getresponse()
            payload = json.loads(response.read())
        finally:
            connection.close()
        if response.status == 408:
            seen = [(request["target"], request["outcome"]) for request in self.requests()]
            raise TimeoutError(f"{command} did not happen; the mock saw {seen}")
        if response.status != 200:
            raise ValueError(f"{method} {command}: {payload}")
        return payload


def main(arguments: list[str] | None = None) -> None:
    """Serves until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.mock_openai", description="A stand-in for OpenAI's API."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for other containers")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (the default)")
    parser.add_argument("--api-key", help="the only key that is accepted; any that starts with sk- otherwise")
    parser.add_argument("--cert", help="certificate chain in PEM: serves https")
    parser.add_argument("--key", help="private key of --cert in PEM")
    parser.add_argument("--self-test", action="store_true", help="print how fast it is on this machine, and end")
    options = parser.parse_args(arguments)
    if options.self_test:
        # Imported here, because it uses this module as everybody else does.
        from benchmark.mock_speed import tell

        tell()
        return
    _allow_many_connections()
    tls = None
    if options.cert:
        tls = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.cert, options.key)
    listener = gevent.socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((options.host, options.port))
    listener.listen(BACKLOG)
    server = MockServer(listener, api_key=options.api_key, ssl_context=tls)
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, server.stop)
    host, port = listener.getsockname()
    print(f"mock_openai listening on {'https' if tls else 'http'}://{host}:{port}", flush=True)
    server.serve_forever()


def _allow_many_connections() -> None:
    """Thousands of open streams need as many descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
