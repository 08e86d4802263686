"""A ruled token in a database."""

import pytest
from sqlalchemy.orm import Session

from database.claims import open_token_store
from tests.ruled_token import Bench


@pytest.fixture
def bench(session: Session, database_url: str):
    """A project and a ruled token without meters."""
    store = open_token_store(database_url, default_limit=1000)
    made = Bench(store, session)
    made.add_project()
    made.add_token()
    yield made
    store.close()
