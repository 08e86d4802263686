"""
Who does what one process alone need do, among all workers and all nodes of a database: a row with a name and an end.

A lease is not given back: it says until when nobody else need look. A holder that dies is followed after that.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from importlib import import_module

from sqlalchemy import Engine, or_

from database.engine import background_transaction
from models import leases


def hold(engine: Engine, name: str, holder: str, now: datetime, length: timedelta) -> bool:
    """
    Take or prolong a lease; False while another holder has it.

    Args:
        length: At most as long as any lease of this name: one that ends later was given by a clock that was wrong.
    """
    # The dialect that the engine has loaded, and not the other one for nothing: PostgreSQL's is 2 MB.
    insert = import_module(f"sqlalchemy.dialects.{engine.dialect.name}").insert(leases)
    wanted = {"holder": holder, "until": now + length}
    is_free = or_(leases.c.holder == holder, leases.c.until <= now, leases.c.until > now + length)
    take = insert.values(name=name, **wanted).on_conflict_do_update(
        index_elements=[leases.c.name], set_=wanted, where=is_free
    )
    with background_transaction(engine) as connection:
        return connection.execute(take.returning(leases.c.name)).first() is not None
