"""
SQLite's questions in threads, where a process serves: a statement of SQLite stops every greenlet, and the sums of a
month take a tenth of a second. psycopg waits as gevent wants it, and needs none of this.

A question is asked, and its rows are fetched, in one go by a thread, which lets go of Python's lock for that. Nothing
else leaves the event loop: not the rows' way into objects, and no statement of a transaction that writes, in which
nobody may switch.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from typing import Any, Self, cast

from gevent import get_hub
from gevent.threadpool import ThreadPool

THREADS = 4
_QUESTIONS = ("SELECT", "WITH")

_pools: list[ThreadPool] = []


def ask_in_threads() -> None:
    """From here on in this process, for questions of its main thread. To be called after the last fork."""
    _pools[:] = [ThreadPool(THREADS)]


class Connection(sqlite3.Connection):
    """The driver's, whose questions leave the event loop."""

    is_writing = False

    def cursor(self, factory: Any = None) -> Any:
        """One of ours."""
        return super().cursor(factory or Cursor)

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        """The driver's, by a cursor of ours: its own goes past what that does."""
        return self.cursor().execute(sql, parameters)

    def commit(self) -> None:
        """The driver's."""
        super().commit()
        self.is_writing = False

    def rollback(self) -> None:
        """The driver's."""
        super().rollback()
        self.is_writing = False


class Cursor(sqlite3.Cursor):
    """The driver's, whose questions leave the event loop."""

    connection: Connection
    _rows: deque[Any] | None = None

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        """The driver's."""
        self._rows = None
        if self._leaves_the_loop(sql):
            self._rows = self._ask(_pools[0], sql, parameters)
            return self
        if sql != "BEGIN" and not sql.startswith(("PRAGMA", *_QUESTIONS)):
            self.connection.is_writing = True
        return super().execute(sql, parameters)

    def _leaves_the_loop(self, sql: str) -> bool:
        if not _pools or self.connection.is_writing or not sql.startswith(_QUESTIONS):
            return False
        return bool(_pools[0].hub is get_hub())

    def _ask(self, pool: ThreadPool, sql: str, parameters: Any) -> deque[Any]:
        question = pool.spawn(self._fetch, sql, parameters)
        try:
            found = question.get()
        except BaseException:
            # Who waits here may be ended. Nobody else gets this connection while a thread is still at it.
            while not question.ready():
                self.connection.interrupt()
                question.wait(0.01)
            raise
        if isinstance(found, sqlite3.Error):
            raise found
        return cast("deque[Any]", found)

    def _fetch(self, sql: str, parameters: Any) -> deque[Any] | sqlite3.Error:
        # gevent prints the traceback of whatever a thread raises: in an outage that is ten lines for every question.
        try:
            return deque(super().execute(sql, parameters).fetchall())
        except sqlite3.Error as exc:
            return exc

    def fetchone(self) -> Any:
        """The driver's."""
        if self._rows is None:
            return super().fetchone()
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """The driver's."""
        size = self.arraysize if size is None else size
        if self._rows is None:
            return super().fetchmany(size)
        return [self._rows.popleft() for _ in range(min(size, len(self._rows)))]

    def fetchall(self) -> list[Any]:
        """The driver's."""
        if self._rows is None:
            return super().fetchall()
        rows, self._rows = list(self._rows), deque()
        return rows

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._rows is None:
            return super().__next__()
        if not self._rows:
            raise StopIteration
        return self._rows.popleft()
