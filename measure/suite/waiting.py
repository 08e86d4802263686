"""How long what one client or upstream sends keeps another client's /healthz waiting on the same worker."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from measure.suite.hostile import Shape, query_of, shapes
from measure.suite.server import Server, call, one_kept_free
from measure.suite.stage import proxy

# Between two questions of the client that waits.
PAUSE_S = 0.005
# How long a client that gets nothing is asked to wait: a worker that stands still longer is given up.
PATIENCE_S = 30.0
NOTHING = "nothing"


class Wait(NamedTuple):
    """
    How long the other client waited, and how much of that time the worker computed, both in milliseconds.

    The rest is the machine's: on one that is busy, the worker waits for a processor itself.
    """

    ms: float
    computed_ms: float


_processes = multiprocessing.get_context("fork")


def longest_waits(work: Path, *, seconds: float, rounds: int) -> dict[str, Wait]:
    """
    By shape, with what this machine shows while `NOTHING` is sent, the longest wait.

    Of several rounds the one with the shorter wait counts: what a shape does it does each time, and the machine's own
    pauses come when they like.
    """
    with (
        one_kept_free() as processor,
        _upstream() as upstream,
        proxy(upstream, work / "waiting", stream_usage="ask") as proxied,
    ):
        proxied.run_on(processor)
        idle = min(_longest(proxied, time.monotonic() + seconds) for _ in range(rounds))
        return {
            NOTHING: idle,
            **{shape.name: min(_wait(proxied, shape, seconds) for _ in range(rounds)) for shape in shapes()},
        }


def _wait(proxied: Server, shape: Shape, seconds: float) -> Wait:
    with _running(_attack, proxied, shape, seconds):
        longest = _longest(proxied, time.monotonic() + seconds)
    # What is still in its sockets belongs to it, and not to the next one.
    return max(longest, _longest(proxied, time.monotonic() + PAUSE_S))


def _longest(proxied: Server, until: float) -> Wait:
    """The longest of all waits that began before then."""
    longest = Wait(0, 0)
    while time.monotonic() < until:
        began, computed = time.monotonic(), proxied.cpu_s()
        # Who is not answered has waited as long.
        with suppress(OSError):
            call(proxied, "GET", "/healthz", patience_s=PATIENCE_S)
        longest = max(longest, Wait((time.monotonic() - began) * 1000, (proxied.cpu_s() - computed) * 1000))
        time.sleep(PAUSE_S)
    return longest


def _attack(proxied: Server, shape: Shape, seconds: float) -> None:
    """One client, again and again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", proxied.port), timeout=seconds) as sock:
            reader = threading.Thread(target=_read_to_the_end, args=(sock,), daemon=True)
            reader.start()
            sock.sendall(shape.opening(proxied.bearer.encode()))
            while shape.piece and time.monotonic() < until:
                sock.sendall(shape.piece)
            reader.join(0 if shape.piece else max(0, until - time.monotonic()))


def _read_to_the_end(sock: socket.socket) -> None:
    with suppress(OSError):
        while sock.recv(1 << 20):
            pass


@contextmanager
def _upstream() -> Iterator[Server]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    with listener, _running(_respond_for_ever, listener):
        yield Server(listener.getsockname()[1])


def _respond_for_ever(listener: socket.socket) -> None:
    responses = {query_of(shape.name): shape.response() for shape in shapes()}
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_respond, args=(sock, responses), daemon=True).start()


def _respond(sock: socket.socket, responses: dict[bytes, bytes]) -> None:
    with suppress(OSError), sock:
        received = b""
        while b"\r\n\r\n" not in received:
            received += sock.recv(65536)
        head, _, body = received.partition(b"\r\n\r\n")
        missing = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0) - len(body)
        while missing > 0 and (piece := sock.recv(65536)):
            missing -= len(piece)
        response = responses[head.partition(b"?shape=")[2].partition(b" ")[0]]
        sock.sendall(response)
        # An upload or a WebSocket, which the client goes on with.
        if not response or response.startswith(b"HTTP/1.1 101"):
            _read_to_the_end(sock)


@contextmanager
def _running(work: Callable[..., None], *arguments: object) -> Iterator[None]:
    """A process beside this one, which is ended with the block."""
    process = _processes.Process(target=work, args=arguments, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()
        process.close()
