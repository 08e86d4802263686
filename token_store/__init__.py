"""
Where a request is admitted: the claim, one statement that checks and counts, on whichever database there is.

A claim is not synced to disk before the caller is answered (see `storage`), and never spans anything that yields.
"""

from __future__ import annotations

from flask import Flask

from llmproxy.admission import TokenStore
from models import db


def open_token_store(app: Flask, database_url: str, *, default_limit: int) -> TokenStore:
    """The store that admits requests, for whichever database the settings name."""
    if database_url.startswith("sqlite"):
        from token_store.sqlite import SqliteTokenStore

        return SqliteTokenStore(database_url, default_limit=default_limit)
    from token_store.postgres import PostgresTokenStore

    with app.app_context():
        return PostgresTokenStore(db.engine, default_limit=default_limit)
