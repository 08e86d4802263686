"""
Where a request is admitted: the claim, one statement that checks and counts, on whichever database there is.

A claim is not synced to disk before the caller is answered (see `database.engine`), and never spans anything that
yields.
"""

from __future__ import annotations

from database.engine import POOL_SIZE
from llmproxy.admission import TokenStore


def open_token_store(
    database_url: str, *, default_limit: int, pool_size: int = POOL_SIZE, prepare: bool = True
) -> TokenStore:
    """
    The store that admits requests, for whichever database the settings name.

    Args:
        pool_size: Connections to PostgreSQL at most.
        prepare: See `database.postgres.connector`.
    """
    if database_url.startswith("sqlite"):
        from database.claims.sqlite import SqliteTokenStore

        return SqliteTokenStore(database_url, default_limit=default_limit)
    from database.claims.postgres import PostgresTokenStore
    from database.postgres import connector

    connect = connector(database_url, prepare=prepare)
    return PostgresTokenStore(connect, default_limit=default_limit, pool_size=pool_size)
