"""A database with live tokens in it, for measuring what claims them."""

from __future__ import annotations

import uuid
from datetime import timedelta
from pathlib import Path

from database.engine import background_transaction, open_engine
from database.schema import migrate_to_head
from llmproxy.admission import hash_token, utc_now
from models import Project, Token


def issue_tokens(database_url: str, directory: Path, count: int) -> list[str]:
    """
    Migrate a database, and put a project with so many tokens into it: their hashes.

    Args:
        directory: For the lock of the migration.
    """
    engine = open_engine(database_url)
    migrate_to_head(engine, directory)
    now, project_id = utc_now(), str(uuid.uuid4())
    hashes = [hash_token(str(uuid.uuid4())) for _ in range(count)]
    project = {"id": project_id, "name": project_id, "openai_api_key": "sealed", "key_hint": "", "created_at": now}
    times = {"created_at": now, "expires_at": now + timedelta(days=1)}
    tokens = [{"token": token_hash, "project_id": project_id, **times} for token_hash in hashes]
    with background_transaction(engine) as connection:
        connection.execute(Project.__table__.insert(), project)
        connection.execute(Token.__table__.insert(), tokens)
    engine.dispose()
    return hashes
