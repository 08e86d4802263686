"""
Ends running calls whose token may no longer be used: one look at the database for all of them, now and then.

Nothing is cut while the database does not answer: a call that was admitted is not to suffer from an outage.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Engine, select

from llmproxy.errors import ProjectInactive, ProxyError, TokenExpired, TokenRevoked
from llmproxy.live_calls import LiveCall, LiveCalls
from models import Project, Token

# Values in one statement; SQLite and PostgreSQL take tens of thousands.
BATCH = 500


class _TokenState(NamedTuple):
    is_active: bool
    expires_at: datetime


class Cutter:
    """
    Cuts the calls in `live` that are to be cut. A WebSocket always is, for each message on it asks for something new.

    Args:
        engine: The database.
        live: The calls.
        at_revocation: Cut streams whose token was revoked, or whose project was switched off or deleted.
        at_expiry: Cut streams whose token has expired.
    """

    def __init__(self, engine: Engine, live: LiveCalls, *, at_revocation: bool, at_expiry: bool) -> None:
        self._engine = engine
        self._live = live
        self._at_revocation = at_revocation
        self._at_expiry = at_expiry

    def __call__(self) -> None:
        """Look once. Raises SQLAlchemy's errors, and then has cut nothing."""
        cuts_streams = self._at_revocation or self._at_expiry
        # What was not admitted yet is nobody's so far, and its claim will tell.
        calls = [call for call in self._live if call.token_id and (call.is_session or cuts_streams)]
        if not calls:
            return
        tokens, projects = self._states(calls)
        now = datetime.now(UTC)
        for call in calls:
            reason = _reason(tokens.get(call.token_id), projects.get(call.project_id), now)
            if reason is not None and (call.is_session or self._is_wanted(reason)):
                call.cut(reason)

    def _is_wanted(self, reason: ProxyError) -> bool:
        return self._at_expiry if isinstance(reason, TokenExpired) else self._at_revocation

    def _states(self, calls: list[LiveCall]) -> tuple[dict[str | None, _TokenState], dict[str | None, bool]]:
        """Tokens, and whether projects are active, by id; without those that are no more."""
        with self._engine.connect() as connection:
            # In this order: a project that is deleted in between is seen as deleted, its token in neither case.
            of_tokens = select(Token.id, Token.is_active, Token.expires_at)
            tokens = {
                row.id: _TokenState(row.is_active, row.expires_at)
                for ids in _batches({call.token_id for call in calls})
                for row in connection.execute(of_tokens.where(Token.id.in_(ids)))
            }
            of_projects = select(Project.id, Project.is_active)
            projects = {
                row.id: row.is_active
                for ids in _batches({call.project_id for call in calls})
                for row in connection.execute(of_projects.where(Project.id.in_(ids)))
            }
        return tokens, projects


def _batches(ids: set[str | None]) -> Iterator[list[str]]:
    wanted = [one for one in ids if one is not None]
    return (wanted[start : start + BATCH] for start in range(0, len(wanted), BATCH))


def _reason(token: _TokenState | None, project_is_active: bool | None, now: datetime) -> ProxyError | None:
    """Why a call may not go on; None when it may."""
    if project_is_active is None or (token and not token.is_active):
        return TokenRevoked()
    if not project_is_active:
        return ProjectInactive()
    # Of a project that is still there only those are deleted that expired long ago.
    return TokenExpired() if token is None or token.expires_at <= now else None
