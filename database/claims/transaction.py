"""One transaction on SQLite, with the meters as what is done in it leaves them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache

from database.claims.statements import METER_COLUMNS
from llmproxy.limits.meters import Meter

# What stood there when a period is over is kept for whoever alerts.
_UPDATE = """
UPDATE meters SET spent = ?1, reserved = ?2, bounds = ?3, mean = ?4, period_end = ?5,
    last_spent = CASE WHEN period_end = ?5 THEN last_spent ELSE spent END,
    last_end = CASE WHEN period_end = ?5 THEN last_end ELSE period_end END
WHERE id = ?6
"""


class Transaction:
    """
    However many calls are claimed and settled in it, a meter is read once and written once.

    Args:
        connection: In a transaction that has the write lock.
    """

    __slots__ = ("_found", "_unwritten", "connection")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._found: dict[str, Meter] = {}
        self._unwritten: dict[str, Meter] = {}

    def meters(self, ids: Sequence[str]) -> list[Meter]:
        """Those that are there, in the order of the ids."""
        found = self._found
        if unread := [meter_id for meter_id in ids if meter_id not in found]:
            rows = self.connection.execute(_select(len(unread)), unread)
            found.update((meter.id, meter) for meter in map(Meter._make, rows))
        return [found[meter_id] for meter_id in ids if meter_id in found]

    def change(self, meters: Iterable[Meter]) -> None:
        """Let meters that have been found be these, for all that is done from here on."""
        for meter in meters:
            before = self._unwritten.get(meter.id)
            if before is not None and before.period_end != meter.period_end:
                self.write()  # its row keeps what stood there at the end of a period
            self._found[meter.id] = self._unwritten[meter.id] = meter

    def write(self) -> None:
        """Bring the rows to what the meters are."""
        if self._unwritten:
            values = [(m.spent, m.reserved, m.bounds, m.mean, m.period_end, m.id) for m in self._unwritten.values()]
            self.connection.executemany(_UPDATE, values)
            self._unwritten.clear()


@lru_cache(maxsize=64)
def _select(count: int) -> str:
    columns, places = ", ".join(METER_COLUMNS), ", ".join("?" * count)
    return f"SELECT {columns} FROM meters WHERE id IN ({places})"  # noqa: S608
