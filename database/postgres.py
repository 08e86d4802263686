"""Connections to PostgreSQL, and one that need not wait for ever. Read in psycopg 3.3.9."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, ClassVar

import psycopg
import sqlalchemy.dialects.postgresql.psycopg  # noqa: F401  so that it is loaded with this module, before any fork
from psycopg.abc import RV, PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import _WaitTimeout

PREPARE_AFTER = 5  # uses of a statement on a connection; psycopg's own default
# How long a process that serves waits for what a statement answers, claims aside, which have their own time.
ANSWER_TIMEOUT_S = 10.0
# What the URL does not say. A host that vanished without a word is noticed after 30 seconds by who only waits.
DEFAULTS: dict[str, Any] = {
    "application_name": "llm-proxy",
    "connect_timeout": 5,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
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


def connector(
    database_url: str, *, prepare: bool, kind: type[psycopg.Connection[Any]] | None = None
) -> Callable[[], psycopg.Connection[Any]]:
    """
    What opens connections to a `postgresql://` URL: whatever libpq understands, several hosts included.

    Nothing that this product does with them needs a session: PgBouncer may hand each transaction another one.

    Args:
        prepare: Let the driver prepare on the server what it runs often. False behind a PgBouncer in transaction
            mode that does not follow prepared statements.
        kind: The class of connection; psycopg's own when None.
    """
    parameters = DEFAULTS | conninfo_to_dict(f"postgresql://{database_url.partition('://')[2]}")
    connect = (kind or psycopg.Connection).connect
    return partial(connect, prepare_threshold=PREPARE_AFTER if prepare else None, **parameters)


def lost() -> str | None:
    """What an upgrade of psycopg took away from ImpatientConnection; see `server.overrides`."""
    waits = (psycopg.Cursor.execute, psycopg.Connection.commit, psycopg.Connection.rollback)
    if not all("wait" in method.__code__.co_names for method in waits):
        return "waits for the server elsewhere than in `Connection.wait`"
    takes_a_limit = "timeout" in signature(psycopg.Connection.wait).parameters
    return None if takes_a_limit else "takes no limit in `Connection.wait`"


def give_up_on_silence() -> None:
    """
    From here on, a server that is silent for ANSWER_TIMEOUT_S within a statement of this process counts as down.

    For processes that serve: a server that stands still, or whose machine has vanished, would otherwise hold a
    request and its connection for as long as the kernel hopes. Migrations and commands may take their time.
    """
    ImpatientConnection.answer_timeout_s = ANSWER_TIMEOUT_S
