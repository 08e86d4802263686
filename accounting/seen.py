"""
Which record of an object's usage counts, where several tell it: one, over all workers, nodes and restarts.

The first record that is added up has the object; the table remembers it, so that a recount comes to the same. Only
calls that made something count beside it if that was made by a call as well: an upstream that gives all its objects
one id loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from accounting.fold import Sight

_COLUMNS = ("project_id", "object_id", "request_id", "is_stored", "at")
_INTO = f"INSERT INTO seen_objects ({', '.join(_COLUMNS)}) "
# As long as an object is read, it stays in mind.
_ON_SEEN = (
    "ON CONFLICT (project_id, object_id) DO UPDATE SET "
    "at = CASE WHEN excluded.at > seen_objects.at THEN excluded.at ELSE seen_objects.at END "
    "RETURNING project_id, object_id, request_id, is_stored"
)
_SEE = f"{_INTO} VALUES (?, ?, ?, ?, ?) {_ON_SEEN}"
_SEE_ALL = (
    f"{_INTO} SELECT * "  # noqa: S608
    f"FROM unnest(%s::text[], %s::text[], %s::text[], %s::boolean[], %s::bigint[]) {_ON_SEEN}"
)


def counting(connection: Connection, sights: Iterable[Sight]) -> list[Sight]:
    """Those of the sights that count, in order. Within the transaction that adds them up."""
    sights = list(sights)
    firsts: dict[tuple[str, str], Sight] = {}
    for sight in sights:
        firsts.setdefault((sight.project_id, sight.object_id), sight)
    holders = _holders(connection, sorted(firsts.values())) if firsts else {}
    return [sight for sight in sights if _counts(sight, *holders[sight.project_id, sight.object_id])]


def _counts(sight: Sight, holder: str, holder_is_stored: bool) -> bool:
    return sight.request_id == holder or not (sight.is_stored or holder_is_stored)


def _holders(connection: Connection, firsts: list[Sight]) -> dict[tuple[str, str], tuple[str, bool]]:
    """Object -> the record that has it, and whether that found the object stored."""
    # In one order everywhere: two nodes that see the same objects would wait for each other for ever.
    rows = [first[: len(_COLUMNS)] for first in firsts]
    if connection.dialect.name == "sqlite":
        found = [connection.exec_driver_sql(_SEE, row).one() for row in rows]
    else:
        columns = tuple(map(list, zip(*rows, strict=True)))
        found = list(connection.exec_driver_sql(_SEE_ALL, columns))
    return {(project, name): (request_id, bool(is_stored)) for project, name, request_id, is_stored in found}
