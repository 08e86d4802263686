"""
A stand-in for OpenAI's API on a real socket: the upstream of tests and benchmarks.

    python -m mock_openai --port 0

prints `mock_openai listening on http://127.0.0.1:PORT` and serves until SIGTERM; `--host` lets other containers in.
Tests use `MockOpenAI`, which starts that command as a process of its own, so that neither side is touched by the
other's event loop. How many requests it answers in a second on this machine is told by
`python -m mock_openai --self-test`.

Every surface answers in OpenAI's documented shape (`shapes`), the same bytes for the same request. A request
bends its response with these headers, which a transparent proxy passes on:

what is answered
    x-mock-status: 429          this status; an error of OpenAI's from 400 up; 204 and 304 have no body
    x-mock-retry-after-ms: 50   with any error; a 429 has 2000 without being asked
    x-mock-redirect: URL        302 (or x-mock-status) with this Location
    x-mock-events: N            N content events, or words (5)
    x-mock-ending: incomplete   or failed: how a model's response ends
    x-mock-size: BYTES          JSON padded to (where it is smaller), or a binary body of, exactly this size
    x-mock-header: name: value  one more response header; may be repeated
    x-mock-once: NAME           the controls hold for the first request with this name only
how it travels
    x-mock-framing: chunked     or length, or close; streams are chunked and the rest has a length otherwise
    x-mock-encoding: gzip       or deflate, br, zstd
    x-mock-event-split: BYTES   every event is sent in pieces of this size
    x-mock-informational: 103   a 1xx response first; several with commas
    x-mock-trailer: 1           a trailer after the last chunk
    x-mock-stamp: 1             events begin with a comment `: sent_ns=<20 digits> event=<number> of=<count>` (of
                                time.monotonic_ns, one clock for the whole machine); every response has x-mock-sent-ns
    x-mock-ping: 1              a comment `: ping` of its own before every event and the pause before it
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
    x-mock-drop: 1              ends the connection instead of a response
    x-mock-close-idle: 1        answers as if it kept the connection, then closes it

Under `/__mock__/`: GET requests, connections, wait; POST gate/NAME, reset. The methods of `MockOpenAI` call them.
"""

import argparse
import resource
import signal
import socket
import ssl

import gevent
import gevent.ssl

from mock_openai.server import MockServer
from mock_openai.speed import tell

BACKLOG = 2048


def main(arguments: list[str] | None = None) -> None:
    """Serves until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m mock_openai", description="A stand-in for OpenAI's API.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for other containers")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (the default)")
    parser.add_argument("--api-key", help="the only key that is accepted; any that starts with sk- otherwise")
    parser.add_argument("--cert", help="certificate chain in PEM: serves https")
    parser.add_argument("--key", help="private key of --cert in PEM")
    parser.add_argument("--self-test", action="store_true", help="print how fast it is on this machine, and end")
    options = parser.parse_args(arguments)
    if options.self_test:
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
