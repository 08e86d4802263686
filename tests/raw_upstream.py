"""An upstream that answers with exactly the bytes it is given, for answers that no decent server would send."""

import socket
import threading
from types import TracebackType
from typing import Self


class RawUpstream:
    """
    Answers each request head with the next of its answers, then closes the connection.

    Attributes:
        requests: What came, up to the end of each head.
    """

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self._answers: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def answers(self, *answers: bytes) -> None:
        """What to send, one for each request to come."""
        self._answers += answers

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing a listener does not wake who waits in accept; shutting it down does.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as reader:
                connection.settimeout(10)
                head = b"".join(iter(reader.readline, b"\r\n"))
                self.requests.append(head)
                connection.sendall(self._answers.pop(0))
