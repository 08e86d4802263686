"""What all connections of a mock share: its ledger, gates, and what has been used up."""

import secrets
from collections import defaultdict

import gevent
import gevent.event

from mock_openai.request import Ledger


class Gate:
    """Lets one event of a stream pass for each release."""

    def __init__(self) -> None:
        self._permits = 0
        self._released = gevent.event.Event()

    def release(self, count: int) -> None:
        self._permits += count
        self._released.set()

    def pass_one(self, gone: gevent.event.Event) -> bool:
        """Waits for a permit and uses it up; False when the client hung up first."""
        while not self._permits:
            self._released.clear()
            gevent.wait([self._released, gone], count=1)
            if gone.is_set():
                return False
        self._permits -= 1
        return True


class State:
    """
    Shared by a mock's connections.

    Args:
        api_key: The only key that is accepted; None accepts any that starts with `sk-`.
    """

    def __init__(self, api_key: str | None) -> None:
        self.api_key = api_key
        self.ledger = Ledger()
        self.gates: defaultdict[str, Gate] = defaultdict(Gate)
        self.used_once: set[str] = set()
        self.responses = 0
        self.run_id = secrets.token_hex(8)
