"""Counts failed sign-ins and says when the next may be tried. Knows nothing of HTTP."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

MAX_FAILURES = 10
WINDOW_S = 300.0
# Beyond so many callers the one who failed longest ago is forgotten, so memory has an end.
MAX_CALLERS = 4096


class SignInThrottle:
    """
    At most MAX_FAILURES wrong passwords per caller within WINDOW_S.

    Held in the memory of one process: with N workers a caller has N times as many guesses, which is still far
    too few against a password of twelve characters.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, caller: str) -> int:
        """Whole seconds until `caller` may try again; 0 when now."""
        with self._lock:
            failures = self._failures.get(caller)
            if failures is None or len(failures) < MAX_FAILURES:
                return 0
            return max(0, math.ceil(failures[0] + WINDOW_S - self._monotonic()))

    def failed(self, caller: str) -> None:
        """`caller` sent a wrong user or password."""
        with self._lock:
            # The oldest of MAX_FAILURES decides when the next try may be; older ones need not be kept.
            self._failures.setdefault(caller, deque(maxlen=MAX_FAILURES)).append(self._monotonic())
            self._failures.move_to_end(caller)
            if len(self._failures) > MAX_CALLERS:
                self._failures.popitem(last=False)

    def succeeded(self, caller: str) -> None:
        """`caller` knew the password."""
        with self._lock:
            self._failures.pop(caller, None)
