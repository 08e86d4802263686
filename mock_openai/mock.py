"""The mock upstream as a process of its own, so that neither side is touched by the other's event loop."""

import http.client
import json
import ssl
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

STOP_S = 5
WAIT_S = 60.0
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
        command = [sys.executable, "-m", "mock_openai", "--port", "0", *self._arguments]
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
        self, outcome: str = "answered", *, path: str | None = None, count: int = 1, timeout: float = WAIT_S
    ) -> dict[str, Any]:
        """The newest of `count` requests with this outcome, as soon as there are so many. Raises TimeoutError."""
        asked = {"outcome": outcome, "count": str(count)} | ({"path": path} if path else {})
        found: list[dict[str, Any]] = self._wait(asked, timeout)
        return found[-1]

    def wait_for_open_connections(self, count: int, *, timeout: float = WAIT_S) -> None:
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

    def _call(self, method: str, command: str, *, timeout_s: float = WAIT_S) -> Any:
        place = urlsplit(self.url)
        connection: http.client.HTTPConnection
        if place.scheme == "https":
            # The control channel is our own process; whose certificate it shows is not the point here.
            trust_all = ssl._create_unverified_context()  # noqa: SLF001
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
