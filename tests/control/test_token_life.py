"""The whole life of tokens against a tiny model: issued, used, limited, revoked, expired, under a moving clock."""

from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule, run_state_machine_as_test
from sqlalchemy.orm import Session

from control import audit, limits, projects, tokens
from control.audit import Actor
from control.errors import Conflict
from database.claims import open_token_store
from llmproxy.admission import Admission
from llmproxy.errors import ProjectInactive, ProxyError, RateLimited, TokenExpired, TokenRevoked
from llmproxy.keyring import KeyRing
from models import new_id

ACTOR = Actor("tester", "127.0.0.1")
KEY = "sk-planted-upstream-key"
DEFAULT_LIMIT = 2
HOUR = timedelta(hours=1)
MODULES = (audit, limits, projects, tokens)


@dataclass
class Life:
    """What the model knows of a token."""

    id: str
    expires_at: datetime
    limit: int | None
    is_active: bool = True
    count: int = 0
    window_ends_at: datetime | None = None

    def refusal(self, now: datetime, *, project_is_active: bool) -> type[Exception] | None:
        """What a use of it meets; None where it passes, and then it is counted."""
        if not self.is_active:
            return TokenRevoked
        if self.expires_at <= now:
            return TokenExpired
        if not project_is_active:
            return ProjectInactive
        if self.window_ends_at is None or self.window_ends_at <= now:
            self.count, self.window_ends_at = 0, now + HOUR
        if self.count >= (self.limit or DEFAULT_LIMIT):
            return RateLimited
        self.count += 1
        return None


class TokenLife(RuleBasedStateMachine):
    """One project and its tokens, through the same rooms that requests and operators take."""

    issued = Bundle("issued")
    database_url = ""
    session: Session  # set by the test

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self._set_clock()
        self.keyring = KeyRing([b"k" * 32])
        self.store = open_token_store(self.database_url, default_limit=DEFAULT_LIMIT)
        self.admission = Admission(self.store, self.keyring)
        name = f"project {new_id()}"
        self.project_id = projects.create(self.session, self.keyring, ACTOR, name=name, openai_api_key=KEY).id
        self.project_is_active = True
        self.lives: dict[str, Life] = {}

    def _set_clock(self) -> None:
        for module in MODULES:
            module.utc_now = lambda: self.now

    def teardown(self) -> None:
        connection = getattr(self.store, "_connection", None)
        if connection is not None:
            connection.close()

    @rule(target=issued, hours=st.integers(1, 4), limit=st.none() | st.integers(1, 2))
    def issue(self, hours: int, limit: int | None) -> str:
        secret, token = tokens.issue(
            self.session, ACTOR, project_id=self.project_id, lifetime=hours * HOUR, rate_limit=limit
        )
        self.lives[secret] = Life(token.id, self.now + hours * HOUR, limit)
        return secret

    @rule(secret=issued, times=st.integers(1, 3))
    def use(self, secret: str, times: int) -> None:
        for _ in range(times):
            self._use_once(secret)

    def _use_once(self, secret: str) -> None:
        expected = self.lives[secret].refusal(self.now, project_is_active=self.project_is_active)
        if expected is None:
            grant = self.admission.admit(f"Bearer {secret}", self.now)
            assert self.admission.api_key(grant) == KEY
            return
        with pytest.raises(ProxyError) as refused:
            self.admission.admit(f"Bearer {secret}", self.now)
        assert type(refused.value) is expected

    @rule(secret=issued)
    def revoke(self, secret: str) -> None:
        tokens.revoke(self.session, ACTOR, secret=secret)
        self.lives[secret].is_active = False

    @rule(secret=issued, limit=st.none() | st.integers(1, 2))
    def change_limit(self, secret: str, limit: int | None) -> None:
        life = self.lives[secret]
        is_over = not life.is_active or life.expires_at <= self.now
        with pytest.raises(Conflict) if is_over and limit != life.limit else nullcontext():
            tokens.change(self.session, ACTOR, life.id, rate_limit=limit)
            life.limit = limit

    @rule(is_active=st.booleans())
    def switch_project(self, is_active: bool) -> None:
        projects.change(self.session, self.keyring, ACTOR, self.project_id, is_active=is_active)
        self.project_is_active = is_active

    @rule(minutes=st.sampled_from([1, 59, 60]))
    def wait(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)


def test_any_life_of_tokens_goes_as_the_model_says(
    session: Session, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in MODULES:
        monkeypatch.setattr(module, "utc_now", module.utc_now)  # put back at the end
    monkeypatch.setattr(TokenLife, "session", session, raising=False)
    monkeypatch.setattr(TokenLife, "database_url", database_url)

    run_state_machine_as_test(
        TokenLife,
        settings=settings(max_examples=30, stateful_step_count=30, suppress_health_check=list(HealthCheck)),
    )
