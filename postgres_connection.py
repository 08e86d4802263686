"""A connection to PostgreSQL that need not wait for ever."""

from __future__ import annotations

from typing import Any, ClassVar

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.errors import _WaitTimeout

LOOK_AGAIN_S = 0.1  # how often a wait lets Ctrl-C through; psycopg's own default


class ImpatientConnection(psycopg.Connection[Any]):
    """
    psycopg's connection, of which a statement ends with OperationalError where the server is silent for too long.

    The connection is closed then: it is in the middle of something.

    Attributes:
        answer_timeout_s: How long to wait, in this process; for ever when None.
    """

    answer_timeout_s: ClassVar[float | None] = None

    def wait(self, gen: PQGen[RV], interval: float = LOOK_AGAIN_S, timeout: float | None = None) -> RV:
        """psycopg's, through which everything passes that waits for the server."""
        try:
            return super().wait(gen, interval, self.answer_timeout_s if timeout is None else timeout)
        except _WaitTimeout:
            self.pgconn.finish()
            raise psycopg.OperationalError("the server does not answer") from None
