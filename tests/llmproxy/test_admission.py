import logging
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.admission import (
    WINDOW,
    Admission,
    Grant,
    Looks,
    RuledToken,
    StoreUnavailable,
    TokenState,
    bearer_of,
    explain,
    hash_token,
    utc_now,
)
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
from llmproxy.keyring import KeyRing
from llmproxy.limits.reservations import Ruled

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
SECRET = "00000000-0000-4000-8000-00000000beef"
KEY = "sk-planted-upstream-key"
RING = KeyRing([b"k" * 32])
GOOD = TokenState(
    token_id="token-id",
    project_id="project-id",
    is_active=True,
    project_is_active=True,
    expires_at=NOW + SECOND,
    request_count=0,
    window_started_at=None,
    rate_limit=10,
)


class Store:
    """Gives the answers it was made with, one per call, the last one for ever."""

    def __init__(self, claims: list[Grant | Exception | None], states: list[TokenState | Exception | None]) -> None:
        self._claims, self._states = claims, states
        self.calls: list[tuple[str, str]] = []
        self.successors: dict[str, str] = {}

    def claim(self, token_hash: str, now: datetime) -> Grant | None:
        self.calls.append(("claim", token_hash))
        return _next(self._claims)

    def state(self, token_hash: str) -> TokenState | None:
        self.calls.append(("state", token_hash))
        return _next(self._states)

    def successor(self, token_hash: str, now: datetime) -> str | None:
        self.calls.append(("successor", token_hash))
        return self.successors.get(token_hash)


def _next(answers: list):  # type: ignore[type-arg, no-untyped-def]
    answer = answers.pop(0) if len(answers) > 1 else answers[0]
    if isinstance(answer, Exception):
        raise answer
    return answer


def claim(sealed: str | None = None) -> Grant:
    return Grant("token-id", "project-id", sealed or RING.seal(KEY, row_id="project-id"), None, "as-sent", "demo")


def refused(store: Store, authorization: str | None = f"Bearer {SECRET}") -> ProxyError:
    with pytest.raises(ProxyError) as refusal:
        Admission(store, RING).admit(authorization, NOW)
    return refusal.value


def not_opened(sealed: str) -> ProxyError:
    admission = Admission(Store([claim(sealed)], []), RING)
    with pytest.raises(AuthUnavailable) as refusal:
        admission.api_key(admission.admit(f"Bearer {SECRET}", NOW))
    return refusal.value


# The bearer


@pytest.mark.parametrize(
    "authorization",
    [f"Bearer {SECRET}", f"bearer {SECRET}", f"BEARER  {SECRET}", f"Bearer {SECRET} "],
)
def test_a_bearer_is_found_whatever_its_case_and_spaces(authorization: str) -> None:
    assert bearer_of(authorization) == SECRET


@pytest.mark.parametrize(
    "authorization",
    [None, "", " ", "Bearer", "Bearer ", "Bearer   ", SECRET, f"Basic {SECRET}", f"Bearer{SECRET}",
     f" Bearer {SECRET}", f"Bearer {SECRET} {SECRET}", f"Bearer {SECRET}, Bearer {SECRET}",
     f"Bearer\t{SECRET}", f"Token {SECRET}"],
)  # fmt: skip
def test_anything_else_is_no_bearer_and_costs_the_database_nothing(authorization: str | None) -> None:
    store = Store([claim()], [None])

    assert isinstance(refused(store, authorization), MissingBearer)
    assert store.calls == []


@pytest.mark.parametrize(
    "token", ["x", SECRET[:-1], SECRET + "0", "sk-" + "x" * 48, "sk-", "\xe9" * 36,
             f"sk-{SECRET[:-1]}", f"sk-sk-{SECRET}", f"SK-{SECRET}", f"{SECRET}sk-", "sk-" + "\xe9" * 36],
)  # fmt: skip
def test_what_has_not_the_form_of_a_token_is_unknown_and_costs_the_database_nothing(token: str) -> None:
    store = Store([claim()], [None])

    assert isinstance(refused(store, f"Bearer {token}"), UnknownToken)
    assert store.calls == []


# The claim


@pytest.mark.parametrize("secret", [SECRET, "sk-" + SECRET[3:]])
def test_a_token_behind_sk_is_the_same_token(secret: str) -> None:
    bare, prefixed = Store([claim()], []), Store([claim()], [])
    Admission(bare, RING).admit(f"Bearer {secret}", NOW)
    Admission(prefixed, RING).admit(f"Bearer sk-{secret}", NOW)

    assert bare.calls == prefixed.calls


def test_an_admitted_request_gets_the_opened_key_by_one_statement() -> None:
    store = Store([claim()], [])
    admission = Admission(store, RING)
    grant = admission.admit(f"Bearer {SECRET}", NOW)

    assert (grant.token_id, grant.project_id, admission.api_key(grant)) == ("token-id", "project-id", KEY)
    assert store.calls == [("claim", hash_token(SECRET))]


def test_a_refused_claim_is_explained_by_the_tokens_state() -> None:
    refusal = refused(Store([None], [replace(GOOD, is_active=False)]))

    assert isinstance(refusal, TokenRevoked)
    assert (refusal.token_id, refusal.project_id) == ("token-id", "project-id")


def test_an_unknown_token_names_nobody() -> None:
    refusal = refused(Store([None], [None]))

    assert isinstance(refusal, UnknownToken)
    assert (refusal.token_id, refusal.project_id) == (None, None)


def test_a_secret_that_was_replaced_claims_for_its_token() -> None:
    store = Store([None, claim()], [None])
    store.successors = {hash_token(SECRET): "hash-of-the-new-one"}

    assert Admission(store, RING).admit(f"Bearer {SECRET}", NOW).is_retired
    assert store.calls[-2:] == [("successor", hash_token(SECRET)), ("claim", "hash-of-the-new-one")]


def test_a_known_token_pays_nothing_for_secrets_that_were_replaced() -> None:
    store = Store([None], [replace(GOOD, is_active=False)])

    with pytest.raises(TokenRevoked):
        Admission(store, RING).admit(f"Bearer {SECRET}", NOW)
    assert [kind for kind, _ in store.calls] == ["claim", "state"]


def test_a_window_that_ends_between_claim_and_look_is_claimed_again() -> None:
    store = Store([None, claim()], [GOOD])

    assert Admission(store, RING).admit(f"Bearer {SECRET}", NOW).token_id == "token-id"
    assert [kind for kind, _ in store.calls] == ["claim", "state", "claim"]


def remembered(seen_s: float = 0, *, is_retired: bool = False) -> tuple[Looks, RuledToken]:
    """What a look found so many seconds ago, and where it is kept."""
    ruled = Ruled(1, 1, None, None, "a project", None, 0, (), 0, time.monotonic() - seen_s)
    token = RuledToken(hash_token(SECRET), replace(GOOD, ruled=ruled), ruled, is_retired)
    looks = Looks()
    looks.keep(token)
    return looks, token


def test_what_is_remembered_of_a_token_is_returned_to_those_who_ask_for_it_alone() -> None:
    looks, token = remembered()
    store = Store([claim()], [])
    admission = Admission(store, RING, looks=looks)

    found = admission.admit(f"Bearer {SECRET}", NOW, remembers=True)
    assert (found, store.calls) == (token._replace(is_remembered=True), [])

    assert not isinstance(admission.admit(f"Bearer {SECRET}", NOW), RuledToken)


@pytest.mark.parametrize(("seen_s", "is_retired"), [(61, False), (0, True)], ids=["long ago", "another secret"])
def test_a_token_is_remembered_by_its_own_secret_for_a_minute(seen_s: float, is_retired: bool) -> None:
    looks, token = remembered(seen_s, is_retired=is_retired)

    assert looks.find(token.token_hash) is None


def test_what_is_dropped_is_not_remembered() -> None:
    looks, token = remembered()
    looks.drop(token)

    assert looks.find(token.token_hash) is None


def test_refusals_without_a_reason_are_nobodys_bad_token() -> None:
    store = Store([None], [GOOD])

    assert isinstance(refused(store), AuthUnavailable)
    assert len(store.calls) == 6


@pytest.mark.parametrize(
    "store",
    [Store([StoreUnavailable("x")], [None]), Store([None], [StoreUnavailable("x")])],
    ids=["claim", "state"],
)
def test_a_store_that_does_not_answer_refuses_with_503(store: Store) -> None:
    refusal = refused(store)

    assert isinstance(refusal, AuthUnavailable)
    assert refusal.status == 503


@pytest.mark.parametrize(
    "sealed", ["garbage", RING.seal(KEY, row_id="other"), KeyRing([b"x" * 32]).seal(KEY, row_id="project-id")]
)
def test_a_key_that_cannot_be_opened_is_the_operators_trouble_and_not_a_bad_token(sealed: str) -> None:
    assert "operator" in not_opened(sealed).message


def test_nothing_of_a_token_or_a_key_is_shown_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    refusals = [
        refused(Store([None], [None])),
        refused(Store([None], [replace(GOOD, is_active=False)])),
        refused(Store([StoreUnavailable("x")], [])),
        refused(Store([None], [None]), f"Basic {SECRET}"),
        not_opened(KEY),
        not_opened(f"{KEY}.planted.AAAA"),
    ]
    granted = [claim(), Admission(Store([claim()], []), RING).admit(f"Bearer {SECRET}", NOW)]
    shown = [text for it in [*refusals, *granted] for text in (str(it), repr(it), f"{it}")]
    shown += [f"{refusal.body} {refusal.detail}" for refusal in refusals]

    assert next(refusal.detail for refusal in refusals if refusal.remedy) == "x"
    for text in [*shown, caplog.text]:
        assert SECRET not in text
        assert hash_token(SECRET) not in text
        assert "planted" not in text
        assert not any(grant.sealed_key in text for grant in granted)


# Explanations


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_active": False, "expires_at": NOW, "project_is_active": False, "request_count": 99}, TokenRevoked),
        ({"expires_at": NOW, "project_is_active": False, "request_count": 99}, TokenExpired),
        ({"project_is_active": False, "request_count": 99}, ProjectInactive),
        ({"request_count": 99}, RateLimited),
        ({"request_count": 9}, type(None)),
    ],
)
def test_a_refusal_names_what_must_change_first(changes: dict[str, object], reason: type[ProxyError]) -> None:
    state = replace(GOOD, window_started_at=NOW, **changes)  # type: ignore[arg-type]

    assert type(explain(state, NOW)) is reason


@pytest.mark.parametrize(("seconds_left", "reason"), [(1, type(None)), (0, TokenExpired), (-1, TokenExpired)])
def test_a_token_dies_at_the_second_it_expires(seconds_left: int, reason: type[ProxyError]) -> None:
    assert type(explain(replace(GOOD, expires_at=NOW + seconds_left * SECOND), NOW)) is reason


@pytest.mark.parametrize(
    ("age", "reason"), [(WINDOW - SECOND, RateLimited), (WINDOW, type(None)), (WINDOW + SECOND, type(None))]
)
def test_a_window_is_over_at_the_second_it_ends(age: timedelta, reason: type[ProxyError]) -> None:
    assert type(explain(replace(GOOD, request_count=10, window_started_at=NOW - age), NOW)) is reason


@pytest.mark.parametrize(
    ("count", "reason"), [(9, type(None)), (10, RateLimited), (11, RateLimited), (5000, RateLimited)]
)
def test_a_limit_holds_also_for_a_count_that_is_already_over_it(count: int, reason: type[ProxyError]) -> None:
    assert type(explain(replace(GOOD, request_count=count, window_started_at=NOW), NOW)) is reason


@pytest.mark.parametrize(
    ("age", "retry_after", "retry_after_ms"),
    [
        (timedelta(0), "3600", "3600000"),
        (timedelta(minutes=59, seconds=59), "1", "1000"),
        (WINDOW - timedelta(milliseconds=1), "1", "1"),
        (WINDOW - timedelta(microseconds=1), "1", "1"),
        (timedelta(seconds=0.5), "3600", "3599500"),
    ],
)
def test_a_refused_caller_is_told_when_the_window_ends(age: timedelta, retry_after: str, retry_after_ms: str) -> None:
    reason = explain(replace(GOOD, request_count=10, window_started_at=NOW - age), NOW)

    assert isinstance(reason, RateLimited)
    headers = dict(reason.extra_headers)
    assert (headers["retry-after"], headers["retry-after-ms"]) == (retry_after, retry_after_ms)
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("10", "0")
    assert headers["x-ratelimit-reset-requests"] == f"{retry_after}s"


moments = st.integers(-7200, 7200).map(lambda seconds: NOW + seconds * SECOND)


@given(
    st.booleans(), st.booleans(), moments, st.integers(0, 20), st.none() | moments, st.integers(1, 20), moments
)  # fmt: skip
def test_an_explanation_is_given_exactly_when_the_claim_would_refuse(
    active: bool,
    project_active: bool,
    expires_at: datetime,
    count: int,
    window: datetime | None,
    limit: int,
    now: datetime,
) -> None:
    state = TokenState("t", "p", active, project_active, expires_at, count, window, limit)
    # The conditions of the claim's SQL, in words of Python.
    has_room = window is None or window <= now - WINDOW or count < limit
    admits = active and project_active and expires_at > now and has_room

    assert (explain(state, now) is None) == admits


def test_now_is_aware_and_in_utc() -> None:
    assert utc_now().utcoffset() == timedelta(0)


def test_a_token_is_kept_as_its_hash_alone() -> None:
    token = str(uuid.uuid4())

    assert len(hash_token(token)) == 64
    assert token not in hash_token(token)
