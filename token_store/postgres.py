"""Claims on PostgreSQL, over the application's connection pool."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from llmproxy.admission import WINDOW, Claim, StoreUnavailable, TokenState
from token_store.statements import CLAIM, STATE


class PostgresTokenStore:
    """Claims over the application's connection pool, each a transaction of its own in one round trip."""

    def __init__(self, engine: Engine, *, default_limit: int) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._default_limit = default_limit

    def claim(self, token_hash: str, now: datetime) -> Claim | None:
        """Count one request if the token may make it; see CLAIM."""
        rows = self._execute(
            _CLAIM_POSTGRES,
            {
                "token": token_hash,
                "now": now,
                "window_floor": now - WINDOW,
                "default_limit": self._default_limit,
            },
        )
        return Claim(*rows[0]) if rows else None

    def state(self, token_hash: str) -> TokenState | None:
        """The token as it stands; see STATE."""
        rows = self._execute(_STATE_POSTGRES, {"token": token_hash, "default_limit": self._default_limit})
        return TokenState(*rows[0]) if rows else None

    def _execute(self, statement: str, values: dict[str, Any]) -> list[Any]:
        try:
            return self._run(statement, values)
        except DBAPIError as exc:
            if not exc.connection_invalidated:
                raise StoreUnavailable(type(exc.orig).__name__) from exc
        except SQLAlchemyError as exc:
            raise StoreUnavailable(type(exc).__name__) from exc
        # The pool held a connection from before the server's restart; it has thrown all of them away now.
        try:
            return self._run(statement, values)
        except SQLAlchemyError as exc:
            raise StoreUnavailable(type(exc).__name__) from exc

    def _run(self, statement: str, values: dict[str, Any]) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.exec_driver_sql(statement, values).fetchall())


def _named_for_psycopg(statement: str) -> str:
    for name in ("token", "now", "window_floor", "default_limit"):
        cast = {"now": "::timestamptz", "window_floor": "::timestamptz", "default_limit": "::integer"}.get(name, "")
        statement = statement.replace(f":{name}", f"%({name})s{cast}")
    return statement


_CLAIM_POSTGRES = _named_for_psycopg(CLAIM)
_STATE_POSTGRES = _named_for_psycopg(STATE)
