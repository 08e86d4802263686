"""
Whether large bodies of tokens with rules keep others waiting, change on their way, or take memory.

    python -m measure.ruled_bodies [--rounds 3]

One worker, a hashing upstream in a process of its own, and beside each body somebody who asks for /healthz without a
pause: the longest of those waits is told, and the longest without any body to compare with.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import multiprocessing
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from measure.suite.server import Server, free_port
from measure.suite.stage import proxy

MIB = 1024 * 1024
RULES = {"models": ["gpt-4o-mini"], "endpoints": ["chat", "files"], "limits": {"max_output_tokens": 100, "tools": []}}
CHAT, FILES = "/v1/chat/completions", "/v1/files"


def main() -> None:
    """Send each kind of body, and print what it did to others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    bodies = {
        "200 KB": _saying(b'"%s"' % (b"x" * 200_000)),
        "300 KB": _saying(b'"%s"' % (b"x" * 300_000)),
        "4 MB": _saying(b'"%s"' % (b"x" * 4 * MIB)),
        "40 MB": _saying(b'"%s"' % (b"x" * 40 * MIB)),
        "4 MB of {},": _saying(b"[%s{}]" % (b"{}," * (4 * MIB // 3))),
    }
    with (
        _upstream() as upstream,
        tempfile.TemporaryDirectory() as work,
        proxy(upstream, Path(work), limits={"rules": RULES}) as proxied,
    ):
        print(f"nothing: longest wait {_longest_wait(proxied, lambda: time.sleep(3)):.0f} ms")
        for name, body in bodies.items():
            _tell(proxied, name, CHAT, [body], rounds)
        _tell(proxied, "512 MB to /v1/files", FILES, [os.urandom(MIB)] * 512, rounds)


def _saying(content: bytes) -> bytes:
    return b'{"messages":[{"role":"user","content":%s}],"model":"gpt-4o-mini"}' % content


def _tell(proxied: Server, name: str, path: str, pieces: list[bytes], rounds: int) -> None:
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    outcomes: set[str] = set()

    def send() -> None:
        client = http.client.HTTPConnection("127.0.0.1", proxied.port, timeout=600)
        client.putrequest("POST", path)
        for header, value in (("Authorization", f"Bearer {proxied.bearer}"), ("Content-Length", str(size))):
            client.putheader(header, value)
        client.endheaders()
        for piece in pieces:
            client.send(piece)
        response = client.getresponse()
        told = response.read()
        is_same = response.status == 200 and json.loads(told)["sha256"] == digest.hexdigest()
        outcomes.add("sha256 equal" if is_same else f"{response.status} {told[:200]!r}")
        client.close()

    worker = proxied.pids[-1]
    before, began = _most_kib(worker), time.monotonic()
    waits = [_longest_wait(proxied, send) for _ in range(rounds)]
    took_s = (time.monotonic() - began) / rounds
    grown = (_most_kib(worker, "VmHWM") - before) / 1024
    shown = " ".join(f"{wait:.0f}" for wait in waits)
    print(f"{name}: longest wait {shown} ms, {took_s:.2f} s each, memory +{grown:.1f} MiB, {', '.join(outcomes)}")


def _most_kib(pid: int, name: str = "VmRSS") -> int:
    if name == "VmRSS":
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def _longest_wait(proxied: Server, work: Callable[[], None]) -> float:
    """Milliseconds that somebody waited for /healthz at most while the work was done."""
    doing = threading.Thread(target=work)
    client = http.client.HTTPConnection("127.0.0.1", proxied.port, timeout=600)
    longest = 0.0
    doing.start()
    while doing.is_alive():
        began = time.perf_counter()
        client.request("GET", "/healthz")
        client.getresponse().read()
        longest = max(longest, time.perf_counter() - began)
        time.sleep(0.002)
    client.close()
    return longest * 1000


@contextmanager
def _upstream() -> Iterator[Server]:
    server = Server(free_port())
    with socket.create_server(("127.0.0.1", server.port)) as listener:
        process = multiprocessing.get_context("fork").Process(target=_respond_for_ever, args=(listener,), daemon=True)
        process.start()
        yield server
        process.terminate()


def _respond_for_ever(listener: socket.socket) -> None:
    while True:
        threading.Thread(target=_respond, args=(listener.accept()[0],), daemon=True).start()


def _respond(sock: socket.socket) -> None:
    with sock, sock.makefile("rb") as reader:
        while True:
            length, digest = 0, hashlib.sha256()
            while (line := reader.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line[15:])
            if not line:
                return
            while length and (piece := reader.read(min(length, MIB))):
                digest.update(piece)
                length -= len(piece)
            body = json.dumps({"sha256": digest.hexdigest()}).encode()
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            sock.sendall(head % len(body) + body)


if __name__ == "__main__":
    main()
