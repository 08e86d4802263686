"""The whole life of tokens against a tiny model: issued, used, limited, revoked, expired, under a moving clock."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule, run_state_machine_as_test
from sqlalchemy import Engine

from control import operations
from control.operations import Actor, Operations
from database.claims import open_token_store
from llmproxy.admission import Admission, Refused
from llmproxy.errors import ProjectInactive, RateLimited, TokenExpired, TokenRevoked
from llmproxy.keyring import KeyRing
from models import new_id

ACTOR = Actor("tester", "127.0.0.1")
KEY = "sk-planted-upstream-key"
DEFAULT_LIMIT = 2
HOUR = timedelta(hours=1)


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

    tokens = Bundle("tokens")
    database_url = ""

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self._set_clock()
        keyring = KeyRing([b"k" * 32])
        self.operations = Operations(keyring)
        self.store = open_token_store(self.database_url, default_limit=DEFAULT_LIMIT)
        self.admission = Admission(self.store, keyring)
        name = f"project {new_id()}"
        self.project_id = self.operations.create_project(ACTOR, name=name, openai_api_key=KEY).id
        self.project_is_active = True
        self.lives: dict[str, Life] = {}

    def _set_clock(self) -> None:
        operations.utc_now = lambda: self.now

    def teardown(self) -> None:
        connection = getattr(self.store, "_connection", None)
        if connection is not None:
            connection.close()

    @rule(target=tokens, hours=st.integers(1, 4), limit=st.none() | st.integers(1, 2))
    def issue(self, hours: int, limit: int | None) -> str:
        secret, token = self.operations.issue_token(
            ACTOR, project_id=self.project_id, lifetime=hours * HOUR, rate_limit=limit
        )
        self.lives[secret] = Life(token.id, self.now + hours * HOUR, limit)
        return secret

    @rule(secret=tokens, times=st.integers(1, 3))
    def use(self, secret: str, times: int) -> None:
        for _ in range(times):
            self._use_once(secret)

    def _use_once(self, secret: str) -> None:
        expected = self.lives[secret].refusal(self.now, project_is_active=self.project_is_active)
        if expected is None:
            assert self.admission.admit(f"Bearer {secret}", self.now).api_key == KEY
            return
        with pytest.raises(Refused) as refused:
            self.admission.admit(f"Bearer {secret}", self.now)
        assert type(refused.value.reason) is expected

    @rule(secret=tokens)
    def revoke(self, secret: str) -> None:
        self.operations.revoke_token(ACTOR, secret=secret)
        self.lives[secret].is_active = False

    @rule(secret=tokens, limit=st.none() | st.integers(1, 2))
    def change_limit(self, secret: str, limit: int | None) -> None:
        self.operations.change_token(ACTOR, self.lives[secret].id, rate_limit=limit)
        self.lives[secret].limit = limit

    @rule(is_active=st.booleans())
    def switch_project(self, is_active: bool) -> None:
        self.operations.change_project(ACTOR, self.project_id, is_active=is_active)
        self.project_is_active = is_active

    @rule(minutes=st.sampled_from([1, 59, 60]))
    def wait(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)


def test_any_life_of_tokens_goes_as_the_model_says(
    database: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "utc_now", operations.utc_now)  # put back at the end
    monkeypatch.setattr(TokenLife, "database_url", database_url)

    run_state_machine_as_test(
        TokenLife,
        settings=settings(
            max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
