"""
Who may pass: a bearer becomes a grant, or a refusal that says why.

The claim comes first and decides alone: one conditional UPDATE checks everything and counts the request.
Only a refused claim costs a second look, to explain it. Nothing is remembered between two requests, so a
revocation holds for the next one in every process that shares the database.

Fails closed: when the store cannot answer, nobody passes, and nobody is told that their token is bad.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple, Protocol

from llmproxy.errors import (
    AuthUnavailable,
    MissingBearer,
    ProjectInactive,
    ProxyError,
    RateLimited,
    TokenExpired,
    TokenRevoked,
    UnknownToken,
)
from llmproxy.keyring import KeyRing, SealBroken
from llmproxy.telemetry import metrics

WINDOW = timedelta(hours=1)
TOKEN_LENGTH = 36  # a UUID in its usual form

log = logging.getLogger(__name__)


class StoreUnavailable(Exception):
    """The database did not answer."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the store returns for an admitted request: the token's and its project's row, sealed key included."""

    token_id: str
    project_id: str
    sealed_key: str
    base_url: str | None
    stream_usage: str


@dataclass(frozen=True, slots=True)
class TokenState:
    """A token as it stands, to explain a refusal. Times are aware UTC; `rate_limit` is what holds for it."""

    token_id: str
    project_id: str
    is_active: bool
    project_is_active: bool
    expires_at: datetime
    request_count: int
    window_started_at: datetime | None
    rate_limit: int


class Connections(NamedTuple):
    """How many of a pool's connections are in use and how many wait for it; `limit` is how many it may open."""

    busy: int
    idle: int
    limit: int


class TokenStore(Protocol):
    """The two statements that admission needs; both raise StoreUnavailable when the database is down."""

    def claim(self, token_hash: str, now: datetime) -> Claim | None:
        """Count one request if the token may make it now; None when it may not."""

    def state(self, token_hash: str) -> TokenState | None:
        """The token as it stands; None when there is no such token."""

    def connections(self) -> Connections:
        """What the claims hold open at this moment."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to make one call upstream. ``api_key`` never leaves the process but to the upstream."""

    token_id: str
    project_id: str
    api_key: str
    base_url: str | None
    stream_usage: str

    def __repr__(self) -> str:
        return f"Grant(token_id={self.token_id!r}, project_id={self.project_id!r})"


class Refused(Exception):
    """
    A refusal together with whose token it was, for the record.

    ``reason`` is what the caller is told; both ids are None where no token was recognised.
    """

    def __init__(self, reason: ProxyError, whose: TokenState | Claim | None = None) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.token_id = whose.token_id if whose else None
        self.project_id = whose.project_id if whose else None


def hash_token(token: str) -> str:
    """The only form in which a token is stored: SHA-256 in hex. 122 random bits need no slower hash."""
    return hashlib.sha256(token.encode()).hexdigest()


def bearer_of(authorization: str | None) -> str:
    """The token in an Authorization header. Raises MissingBearer."""
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or " " in token:
        raise MissingBearer
    return token


class Admission:
    """Admits requests against a token store, opening upstream keys with a key ring."""

    def __init__(self, store: TokenStore, keyring: KeyRing) -> None:
        self._store = store
        # The row is read anew for every call; the sealed text in it opens to the same key each time.
        self._open = lru_cache(maxsize=1024)(keyring.open)

    def connections(self) -> Connections:
        """What the claims hold open at this moment."""
        return self._store.connections()

    def admit(self, authorization: str | None, now: datetime) -> Grant:
        """
        Count this request and grant it.

        Args:
            authorization: The header as the client sent it.
            now: Aware UTC.

        Raises:
            Refused: with the reason for the caller.
        """
        try:
            return self._grant(self._claim(bearer_of(authorization), now))
        except ProxyError as reason:
            raise Refused(reason) from None
        except StoreUnavailable as exc:
            log.error("cannot check tokens: %s", exc)
            raise Refused(AuthUnavailable()) from exc

    def _claim(self, token: str, now: datetime) -> Claim:
        # What has not the form of a token is not one: spare the database the write lock.
        if len(token) != TOKEN_LENGTH or not token.isascii():
            raise UnknownToken
        token_hash = hash_token(token)
        # Twice, because a window may end between the refused claim and the look that explains it.
        for _ in range(2):
            if claim := self._timed_claim(token_hash, now):
                return claim
            state = self._store.state(token_hash)
            if reason := explain(state, now):
                raise Refused(reason, state)
        raise StoreUnavailable("a claim was refused twice without a reason")

    def _timed_claim(self, token_hash: str, now: datetime) -> Claim | None:
        began = time.perf_counter()
        try:
            return self._store.claim(token_hash, now)
        finally:
            metrics.claimed(time.perf_counter() - began)

    def _grant(self, claim: Claim) -> Grant:
        try:
            api_key = self._open(claim.sealed_key, row_id=claim.project_id)
        except SealBroken as exc:
            log.error("cannot open the upstream key of project %s: %s", claim.project_id, exc)
            reason = AuthUnavailable("The proxy cannot open this project's API key. Tell your operator.")
            raise Refused(reason, claim) from exc
        return Grant(claim.token_id, claim.project_id, api_key, claim.base_url, claim.stream_usage)


def explain(state: TokenState | None, now: datetime) -> ProxyError | None:
    """Why a token may not make a request at `now`; None when it may. Revoked comes before expired."""
    if state is None:
        return UnknownToken()
    if not state.is_active:
        return TokenRevoked()
    if state.expires_at <= now:
        return TokenExpired()
    if not state.project_is_active:
        return ProjectInactive()
    if state.window_started_at is None or state.request_count < state.rate_limit:
        return None
    reset_in_s = (state.window_started_at + WINDOW - now).total_seconds()
    return RateLimited(limit=state.rate_limit, reset_in_s=reset_in_s) if reset_in_s > 0 else None


def utc_now() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)
