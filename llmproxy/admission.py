"""
Who may pass: a bearer becomes a grant, or a refusal that says why.

The claim comes first and decides alone: one conditional UPDATE checks everything and counts the request.
Only a refused claim costs a second look, to explain it. No verdict is remembered between two requests, so a
revocation holds for the next one in every process that shares the database.

Fails closed: when the store cannot answer, nobody passes, and nobody is told that their token is bad.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

from llmproxy.destinations import NotAllowed, require_allowed
from llmproxy.errors import (
    AuthUnavailable,
    KeyUnreadable,
    MissingBearer,
    ProjectInactive,
    ProxyError,
    RateLimited,
    TokenExpired,
    TokenRevoked,
    UnknownToken,
    UpstreamNotAllowed,
)
from llmproxy.fairness import Fairness
from llmproxy.keyring import KeyRing, SealBroken
from llmproxy.limits.reservations import ReservationStore, Ruled, RuledClaim, Verdict
from llmproxy.telemetry import metrics
from llmproxy.urls import seal_origin

WINDOW = timedelta(hours=1)
_CLAIMS = 3
_LOOK_LASTS_S = 60.0
_MOST_LOOKS = 4096
SECRET_LENGTH = 36  # a UUID in its usual form
KEY_PREFIX = "sk-"  # of OpenAI's own keys; some clients take nothing else for one


class StoreUnavailable(Exception):
    """The database did not answer."""


class Grant(NamedTuple):
    """
    Permission to make one call upstream: what the claim found in the token's row and its project's.

    Attributes:
        sealed_key: The project's upstream key as it is stored; `Admission.api_key` opens it.
        base_url: Another upstream than the settings name, or None.
        stream_usage: `ask` or `as-sent`.
        project_name: Prices of its own go by it.
        is_retired: The secret was replaced, and works for a while yet.
    """

    token_id: str
    project_id: str
    sealed_key: str
    base_url: str | None
    stream_usage: str
    project_name: str
    is_retired: bool = False

    def __repr__(self) -> str:
        return f"Grant(token_id={self.token_id!r}, project_id={self.project_id!r})"


@dataclass(frozen=True, slots=True)
class TokenState:
    """
    A token as it stands, to explain a refusal. Times are aware UTC; `rate_limit` is what holds for it.

    `ruled` is None for a token without rules or meters of its own or of its project: all others' claims are refused
    and looked at, and then made by what was found.
    """

    token_id: str
    project_id: str
    is_active: bool
    project_is_active: bool
    expires_at: datetime
    request_count: int
    window_started_at: datetime | None
    rate_limit: int
    ruled: Ruled | None = None


class RuledToken(NamedTuple):
    """
    A token with rules or meters, as the look found it, that may make requests: what it may ask for its call tells.

    Attributes:
        token_hash: Of the token's own secret.
        ruled: The state's, which is there.
        is_retired: As the grant has it.
        is_remembered: The look was an earlier call's. It may be another one by now, and its counts are.
    """

    token_hash: str
    state: TokenState
    ruled: Ruled
    is_retired: bool
    is_remembered: bool = False

    @property
    def token_id(self) -> str:
        """The token's public id."""
        return self.state.token_id

    @property
    def project_id(self) -> str:
        """Its project's."""
        return self.state.project_id


class Looks:
    """
    Tokens with rules or meters as the last looks at them found them, so that not every call pays for a look, which
    costs half as much as its claim. What is out of date does no harm, for claims name all that they were judged by.
    """

    def __init__(self) -> None:
        self._tokens: dict[str, RuledToken] = {}

    def find(self, token_hash: str) -> RuledToken | None:
        """The token, if it was looked at in the last minute: the database's clock is reckoned from that."""
        token = self._tokens.get(token_hash)
        return token if token and time.monotonic() - token.ruled.seen_s < _LOOK_LASTS_S else None

    def keep(self, token: RuledToken) -> None:
        """From here on `find` finds it."""
        if token.is_retired:  # another secret, which works for a while
            return
        if len(self._tokens) >= _MOST_LOOKS:
            self._tokens.clear()
        self._tokens[token.token_hash] = token._replace(is_remembered=True)

    def drop(self, token: RuledToken) -> None:
        """`find` finds it no longer."""
        self._tokens.pop(token.token_hash, None)


class Connections(NamedTuple):
    """How many of a pool's connections are in use and how many wait for it; `limit` is how many it may open."""

    busy: int
    idle: int
    limit: int


class TokenStore(ReservationStore, Protocol):
    """The statements that admission needs; all raise StoreUnavailable when the database is down."""

    def claim(self, token_hash: str, now: datetime) -> Grant | None:
        """Count one request if the token may make it now; None when it may not, and when it has rules or meters."""

    def claim_ruled(self, token_hash: str, asked: RuledClaim, now: datetime) -> tuple[Grant | None, Verdict]:
        """Count and hold a call of a token with rules or meters, or nothing of it. Sent again, it counts once."""

    def state(self, token_hash: str) -> TokenState | None:
        """The token as it stands; None when there is no such token."""

    def successor(self, token_hash: str, now: datetime) -> str | None:
        """The hash of the token whose secret this one was, while that still works; else None."""

    def connections(self) -> Connections:
        """What the claims hold open at this moment."""


def hash_token(secret: str) -> str:
    """The only form in which a token is stored: SHA-256 in hex. 122 random bits need no slower hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def bearer_of(authorization: str | None) -> str:
    """The secret in an Authorization header. Raises MissingBearer."""
    scheme, _, secret = (authorization or "").partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret or " " in secret:
        raise MissingBearer
    return secret


def without_prefix(secret: str) -> str:
    """A token's secret, whether or not it stands behind `sk-`."""
    return secret.removeprefix(KEY_PREFIX)


def _secret_in(longer: str) -> str:
    """The secret behind the prefix. Raises UnknownToken for what is none."""
    bare = without_prefix(longer)
    # What has not the form of a secret is none: spare the database the write lock.
    if len(bare) != SECRET_LENGTH or not bare.isascii():
        raise UnknownToken
    return bare


class Admission:
    """
    Admits requests against a token store, and opens upstream keys with a key ring.

    Args:
        allowed_hosts: See `destinations.require_allowed`.
        fairness: Refuses tokens that hold too much of this process; None lets each hold what it likes.
        looks: Has what is remembered of tokens with rules or meters.
    """

    def __init__(
        self,
        store: TokenStore,
        keyring: KeyRing,
        allowed_hosts: tuple[str, ...] = (),
        fairness: Fairness | None = None,
        looks: Looks | None = None,
    ) -> None:
        self._store = store
        self._looks = looks or Looks()
        self._fairness = fairness
        # The row is read anew for every call; the sealed text in it opens to the same key each time.
        self._open = lru_cache(maxsize=1024)(partial(_open_key, keyring, allowed_hosts))

    def connections(self) -> Connections:
        """What the claims hold open at this moment."""
        return self._store.connections()

    def admit(
        self, authorization: str | None, now: datetime, *, is_session: bool = False, remembers: bool = False
    ) -> Grant | RuledToken:
        """
        Count this request and grant it. What a token with rules or meters asks for is for the gate to judge: of it
        nothing has been counted.

        Args:
            authorization: The header as the client sent it, or what stands for it; None where there is none.
            now: Aware UTC.
            is_session: It asks for a WebSocket.
            remembers: A token with rules or meters may be returned as it is remembered.

        Raises:
            CallerError: the reason for the caller, which names whose token it was where one was recognised.
            AuthUnavailable: nobody can tell at the moment.
        """
        secret = bearer_of(authorization)
        if len(secret) != SECRET_LENGTH or not secret.isascii():
            secret = _secret_in(secret)
        token_hash = hash_token(secret)
        if self._fairness:
            self._fairness.check(token_hash, is_session=is_session)
        try:
            grant = (remembers and self._looks.find(token_hash)) or self._claim(token_hash, now)
        except StoreUnavailable as exc:
            raise unavailable(exc) from exc
        if self._fairness:
            self._fairness.check_claimed(token_hash, grant.token_id, grant.project_id, is_session=is_session)
        return grant

    def _claim(self, token_hash: str, now: datetime) -> Grant | RuledToken:
        is_retired = False
        # Again, because a window may end between the refused claim and the look that explains it, and because a
        # secret that was replaced leads to the token's own.
        for _ in range(_CLAIMS):
            began = time.perf_counter()
            try:
                grant = self._store.claim(token_hash, now)
            finally:
                metrics.claimed(time.perf_counter() - began)
            if grant is not None:
                return grant._replace(is_retired=True) if is_retired else grant
            state = self._store.state(token_hash)
            if state is None and (successor := self._store.successor(token_hash, now)):
                token_hash, is_retired = successor, True
                continue
            if reason := explain(state, now):
                raise reason
            if state is not None and state.ruled is not None:
                return RuledToken(token_hash, state, state.ruled, is_retired)
        raise StoreUnavailable("a claim was refused again and again without a reason")

    def api_key(self, grant: Grant) -> str:
        """
        The upstream's key for a granted call. It never leaves the process but to the upstream.

        Raises:
            AuthUnavailable: nothing on the key ring opens it, or it may not go to the project's upstream.
        """
        try:
            return self._open(grant.sealed_key, grant.project_id, grant.base_url)
        except SealBroken as exc:
            unreadable = KeyUnreadable()
            unreadable.detail = str(exc)
            raise unreadable from exc
        except NotAllowed as exc:
            not_allowed = UpstreamNotAllowed()
            not_allowed.detail = str(exc)
            raise not_allowed from exc


def _open_key(
    keyring: KeyRing, allowed_hosts: tuple[str, ...], sealed: str, row_id: str, base_url: str | None
) -> str:
    require_allowed(base_url, allowed_hosts)
    return keyring.open(sealed, row_id=row_id, origin=seal_origin(base_url))


def unavailable(exc: StoreUnavailable) -> AuthUnavailable:
    """What a caller is told of it."""
    reason = AuthUnavailable()
    reason.detail = str(exc)
    return reason


def explain(state: TokenState | None, now: datetime) -> ProxyError | None:
    """
    Why a token may not make a request at `now`, and whose it is; None when it may. Revoked comes before expired.

    Args:
        state: None when there is no such token.
        now: Aware UTC.
    """
    if state is None:
        return UnknownToken()
    reason = _reason(state, now)
    if reason is not None:
        reason.token_id, reason.project_id = state.token_id, state.project_id
    return reason


def _reason(state: TokenState, now: datetime) -> ProxyError | None:
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
