"""
Who may pass of those whose tokens have rules or meters: judged by what they ask for, and held for what it may cost.

head → body → judge → claim. Nothing has gone up before the claim, which names the versions of rules and meters that
the call was judged by: where one has changed meanwhile, it is judged again. So a token need not be looked at for each
of its calls: what the last look found admits nobody whom it should not, and whom it does not admit is judged anew.

Fails closed: what cannot be read, priced or counted is refused, with the reason.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from io import BytesIO
from typing import BinaryIO, Literal, NamedTuple, Protocol

import gevent
import orjson
from gevent.lock import BoundedSemaphore

from llmproxy.admission import (
    Grant,
    Looks,
    RuledToken,
    StoreUnavailable,
    TokenState,
    TokenStore,
    explain,
    unavailable,
    utc_now,
)
from llmproxy.client.held_bodies import HeldBodies
from llmproxy.client.request_body import HELD_BYTES, RequestBody, spooling
from llmproxy.endpoints import RESPONSES
from llmproxy.errors import (
    AmbiguousBody,
    AuthUnavailable,
    BodyTooLarge,
    BudgetExhausted,
    BudgetReserved,
    BudgetTooSmall,
    ConcurrencyLimited,
    EncodedBody,
    EndpointNotAllowed,
    ModelNotPriced,
    ModelUndetermined,
    ParameterNotAllowed,
    ProxyError,
    RateLimited,
    TokensLimited,
    Unavailable,
    UnknownToken,
)
from llmproxy.holding import Holding, Judged
from llmproxy.limits.amounts import usd
from llmproxy.limits.body.form import boundary_of, scan_form
from llmproxy.limits.body.held import MOST_HELD_BYTES, can_be_held, read_held
from llmproxy.limits.body.reading import Reading
from llmproxy.limits.body.scanner import scan
from llmproxy.limits.bounds import Bounds, bounds
from llmproxy.limits.cost import NotPriced
from llmproxy.limits.judge import (
    NOTHING,
    OUTPUT_NAMES,
    SOUND,
    Models,
    asked_values,
    check_head,
    check_models,
    check_parameters,
    hides_parameters,
    models_of,
    require_metered,
    require_model,
    require_named,
    require_no_chooser,
    unnamed_hearing,
)
from llmproxy.limits.meters import Claimed, Meter, shortage, turned
from llmproxy.limits.model_names import ModelNames
from llmproxy.limits.periods import RATES, US_PER_S, period_ends
from llmproxy.limits.price_row import Row
from llmproxy.limits.prices import Prices
from llmproxy.limits.reservations import Ruled, Settlement, claim_of
from llmproxy.limits.reservations import judged as judged_by_meters
from llmproxy.limits.routes import UNKNOWN, Route, find_route
from llmproxy.limits.rules import InForce, Rules, in_force
from llmproxy.limits.rules_json import BadRules, read_rules
from llmproxy.telemetry import metrics
from llmproxy.times import at_microsecond, iso_utc
from llmproxy.turns import take_turn

# Paths below /v1/ of uploads, whose model stands nowhere.
_FILES = frozenset({"files", "uploads/*/parts"})

# A call is judged so often at most: whoever edits its limits again and again keeps it out.
_TRIES = 5

# Callers have the end of an answer before the database knows of it. Before a call is refused for others that run,
# what has ended in this worker is waited for, and then what may have ended in another one.
_TOLD_WITHIN_S = 0.5
_TOLD_ELSEWHERE_WITHIN_S = 0.05
# So many calls at a time wait for others: more are a flood, whose looks would keep the database from claims.
_MOST_WAITING = 4


class Asked(NamedTuple):
    """
    A call as its head has it.

    Attributes:
        target: Path and query as they go up.
        chooser: A header by which the upstream may choose the model (`llmproxy.limits.choosing_headers`).
    """

    request_id: str
    method: str
    target: str
    address: str | None
    content_type: str
    content_encoding: str
    chooser: str | None = None


class Settler(Protocol):
    """The running calls of this worker, on this node; see `database.claims.settling`."""

    node: str
    worker: str

    def begin(self, request_id: str) -> None:
        """A call's claim is about to be sent."""

    def refused(self, request_id: str) -> None:
        """Its claim was not admitted."""

    def unknown(self, request_id: str) -> None:
        """Nobody can tell whether its claim was admitted, and the call was not made."""

    def end(self, settlement: Settlement) -> None:
        """The call has ended. Never waits."""

    def wait(self, within_s: float) -> None:
        """Wait until the database knows of all that has ended, so long at most."""

    @property
    def running(self) -> int:
        """Calls that hold something, or are about to."""

    @property
    def pending(self) -> int:
        """Ended calls that the database has not been told of."""


class Trial(NamedTuple):
    """
    What would become of a call.

    Attributes:
        refusal: What its caller would be told; None where it would pass.
        noted: What rules in mode `report` would refuse it with, were they in force; None of a call that is refused.
        figures: What it may cost, where it would pass.
        holds: Of each meter that it would count on, as it stands, what it would hold and count there.
    """

    refusal: ProxyError | None
    noted: ProxyError | None = None
    figures: Bounds = Bounds()
    holds: tuple[tuple[Meter, Claimed], ...] = ()


# Of WebSockets whose messages change a session.
_REALTIME = ("realtime", "realtime/translations")
# Of paths that open no WebSocket which rules know.
_NO_SESSION = UNKNOWN._replace(kind="realtime")
# What has been made needs no leave.
_ANYTHING = Rules(unpriced="allow")
# The least that makes a reservation, by which a response that is over can be charged.
_OVER = Bounds(1, 1, 1, 1, "it is over")


class Gate:
    """
    Args:
        looks: Get what tokens were claimed by.
        prices: None where no prices are kept: then nobody with a budget in dollars passes.
        open_spool: Opens an empty file that goes with its closing.
        max_spooled_bytes: Of a body that must be read before it goes up.
        rooms: For bodies that are held in memory for it.
        contact: Whom callers may ask about refusals that an operator can lift; "" for nobody.

    Attributes:
        settler: None until this worker has a name that its claims can stand under.
        open_spool: As it was given.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        looks: Looks,
        prices: Prices | None,
        open_spool: Callable[[], BinaryIO],
        max_spooled_bytes: int,
        rooms: HeldBodies,
        contact: str = "",
    ) -> None:
        self.settler: Settler | None = None
        self._store = store
        self._looks = looks
        self._prices = prices
        self.open_spool = open_spool
        self._max_spooled_bytes = max_spooled_bytes
        self._rooms = rooms
        self._contact = contact
        self._waiting = BoundedSemaphore(_MOST_WAITING)

    def admit(self, token: RuledToken, asked: Asked, body: RequestBody) -> tuple[Grant, Holding] | None:
        """
        Count and hold a call, and grant it; its body has been read where that had to be. None where the token's last
        limit has gone meanwhile: nothing has been counted then, and the call is any other token's.

        Raises:
            CallerError: the reason for the caller.
            AuthUnavailable: nobody can tell at the moment.
        """
        reading: Reading | None = None

        def judge(token: RuledToken) -> Judged:
            nonlocal reading
            judged, reading = self._judge_call(token, asked, body, reading)
            return judged

        return self._until_claimed(token, asked.request_id, judge)

    def admit_again(self, token: RuledToken, asked: Asked, body: RequestBody) -> tuple[Grant, Holding] | None:
        """
        As `admit` does, by what is remembered of the token, which refuses nobody: None where the token is to be
        looked at anew. Nothing has been counted then.
        """
        try:
            admitted = self._claim(token, asked.request_id, self._judge_call(token, asked, body, None)[0])
        except Unavailable as exc:
            self._complete(exc, token)
            raise
        except ProxyError:
            admitted = None
        if admitted is None:
            self._looks.drop(token)
        return admitted

    def admit_session(self, token: RuledToken, asked: Asked) -> tuple[Grant, Holding] | None:
        """Count and grant the opening of a WebSocket, which holds nothing. None, and raises, as `admit` does."""

        return self._until_claimed(token, asked.request_id, lambda token: self._judge_opening(token.ruled, asked)[0])

    def admit_response(
        self, token: RuledToken, asked: Asked, said: Reading | None, *, is_over: bool
    ) -> tuple[Grant, Holding] | None:
        """
        Count and hold one response of a WebSocket. None, and raises, as `admit` does.

        Args:
            asked: The opening's, under the response's own id.
            said: What it is asked for by; None where nobody has read that.
            is_over: It has been made already, and needs no leave and no room but to be charged.
        """

        def judge(token: RuledToken) -> Judged:
            route = _session_route(asked)
            if is_over:
                route = route._replace(model="none")
                judged = self._judge(token.ruled, _ANYTHING, route, asked._replace(chooser=None), said or NOTHING)
                return judged._replace(figures=_OVER, concurrency=None)
            if said is None:
                _require_unread(_rules_of(token.ruled))
            return self._judge_said(token.ruled, asked, route, said or NOTHING)[0]

        return self._until_claimed(token, asked.request_id, judge)

    def try_out(self, ruled: Ruled, asked: Asked, content: bytes, *, opens_session: bool = False) -> Trial:
        """
        What would become of a call at this moment. Nothing is counted, held or sent up.

        Args:
            opens_session: It asks for a WebSocket.
        """
        body = RequestBody(BytesIO(content), length=len(content), max_bytes=sys.maxsize)
        try:
            if opens_session:
                judged, noted = self._judge_opening(ruled, asked)
            else:
                judged, noted = self._judge_tried(ruled, asked, body)
            return Trial(None, noted, judged.figures, _holds(ruled, judged, asked.request_id))
        except ProxyError as exc:
            exc.add_contact(self._contact)
            return Trial(exc)
        finally:
            body.let_go()

    def _judge_tried(self, ruled: Ruled, asked: Asked, body: RequestBody) -> tuple[Judged, ProxyError | None]:
        route = find_route(asked.method, asked.target.partition("?")[0])
        judged, reading = self._judged(ruled, route, asked, body, None, "")
        reported = _reported_by(ruled)
        noted = self._would_refuse(ruled, reported, route, asked, body, reading, "") if reported else None
        return judged, noted

    def check_message(
        self, token: RuledToken, asked: Asked, said: Reading | AmbiguousBody | None, size: int
    ) -> str | None:
        """
        Judge what is said on a WebSocket and asks for no response, by its token's rules at this moment.

        Args:
            said: What it says, or why it cannot be read; None where nobody has read it.
            size: Bytes of the message.

        Returns the code that rules in mode `report` would have refused it with. Raises as `admit` does.
        """
        try:
            # It is no request of the hourly limit, which refuses none of these.
            ruled = self._state_of(token.token_hash, is_counted=False).ruled
            if ruled is None:
                return None
            _check_said(rules := _rules_of(ruled), asked, said, size, ruled)
            if isinstance(said, Reading):
                _require_told(ruled, asked, said)
                _require_held(ruled, asked, said)
                if rules.unpriced != "allow":
                    self._require_priced(ruled, asked, said)
            if isinstance(said, Reading) and said.models:
                heard_by = Models(None, said.models)
                meters = [meter for meter in ruled.meters if _counts(meter, heard_by)]
                _require_no_bound(meters, "what is heard is counted when it has been heard")
            reported = _reported_by(ruled)
            noted = _refusal_by(partial(_check_said, reported, asked, said, size, ruled)) if reported else None
            return noted.code if noted else None
        except ProxyError as exc:
            self._complete(exc, token)
            raise

    def check_unread(self, token_hash: str, asked: Asked) -> None:
        """
        Judge a WebSocket whose messages nobody reads and whose responses nobody counts, by what its token's rules and
        meters have become. Raises as `admit` does.
        """
        ruled = self._state_of(token_hash, is_counted=False).ruled
        if ruled is None:
            return
        _check_said(_rules_of(ruled), asked, None, 0, ruled)
        _require_told(ruled, asked, NOTHING)

    def _require_priced(self, ruled: Ruled, asked: Asked, said: Reading) -> None:
        """Raises where a budget in dollars would not see what a model costs that hears what is said."""
        if all(meter.unit != "usd" for meter in ruled.meters):
            return
        _require_hearing(asked, said)
        if any(self._prices is None or self._prices.find(name, ruled.project_name) is None for name in said.models):
            raise ModelNotPriced(param="model")

    def _complete(self, refusal: ProxyError, token: RuledToken) -> None:
        refusal.token_id, refusal.project_id = token.token_id, token.project_id
        refusal.add_contact(self._contact)

    def _until_claimed(
        self, token: RuledToken, request_id: str, judge: Callable[[RuledToken], Judged]
    ) -> tuple[Grant, Holding] | None:
        """Judge a call and claim it; anew where its token has become another one meanwhile, or others have ended."""
        others_end, has_waited = self._others_end(), False
        try:
            for _ in range(_TRIES):
                try:
                    judged = judge(token)
                    if has_waited:
                        _holds(token.ruled, judged, request_id)
                    if (admitted := self._claim(token, request_id, judged)) is not None:
                        self._looks.keep(token)
                        return admitted
                except (BudgetReserved, ConcurrencyLimited):
                    if not next(others_end, False):
                        raise
                    has_waited = True
                state = self._state_of(token.token_hash)
                if state.ruled is None:
                    return None
                token = token._replace(state=state, ruled=state.ruled)
            raise unavailable(StoreUnavailable("the token's limits changed again and again"))
        except ProxyError as exc:
            self._complete(exc, token)
            raise

    def _judge_opening(self, ruled: Ruled, asked: Asked) -> tuple[Judged, ProxyError | None]:
        """The opening of a WebSocket as its claim is to be made, and what rules in mode `report` refuse it with."""
        route = _session_route(asked)
        if route.path == "responses" or _is_transcription(asked):  # whose model messages name
            route = _as_no_call(route)
        # What a response must say, its opening cannot.
        adapt = partial(replace, require_max_output=False)
        judged, noted = self._judge_said(ruled, asked, route, NOTHING, adapt)
        # Between responses nothing is held.
        return judged._replace(figures=Bounds(), concurrency=None), noted

    def _judge_said(
        self,
        ruled: Ruled,
        asked: Asked,
        route: Route,
        said: Reading,
        adapt: Callable[[Rules], Rules] = lambda rules: rules,
    ) -> tuple[Judged, ProxyError | None]:
        def check(rules: Rules) -> None:
            _check_session(rules, asked, said.size)
            _check_rules(adapt(rules), route, asked, said, ruled)

        rules, reported = _rules_of(ruled), _reported_by(ruled)
        _check_session(rules, asked, said.size)
        _check_what_is_certain(ruled, rules.concurrency)
        judged = self._judge(ruled, adapt(rules), route, asked, said)
        noted = _refusal_by(partial(check, reported)) if reported else None
        return judged._replace(would_refuse=noted.code if noted else None), noted

    def _others_end(self) -> Iterator[Literal[True]]:
        """Goes on when what has just ended is told to the database: first in this worker, then in others."""
        if self.settler is not None and self.settler.pending:
            self.settler.wait(_TOLD_WITHIN_S)
            yield True
        if self._waiting.acquire(blocking=False):
            try:
                gevent.sleep(_TOLD_ELSEWHERE_WITHIN_S)
            finally:
                self._waiting.release()
            yield True

    def _judge_call(
        self, token: RuledToken, asked: Asked, body: RequestBody, reading: Reading | None
    ) -> tuple[Judged, Reading | None]:
        """
        Args:
            reading: Of its body, if that has been read.
        """
        route = find_route(asked.method, asked.target.partition("?")[0])
        judged, reading = self._judged(
            token.ruled, route, asked, body, reading, token.token_id, is_remembered=token.is_remembered
        )
        if reported := _reported_by(token.ruled):
            refusal = self._would_refuse(token.ruled, reported, route, asked, body, reading, token.token_id)
            judged = judged._replace(would_refuse=refusal.code if refusal else None)
        return judged, reading

    def _judged(
        self,
        ruled: Ruled,
        route: Route | None,
        asked: Asked,
        body: RequestBody,
        reading: Reading | None,
        token_id: str,
        *,
        is_remembered: bool = False,
    ) -> tuple[Judged, Reading | None]:
        """A call as its claim is to be made, and what was read of its body, which nobody reads twice."""
        rules = _rules_of(ruled)
        _check_head(rules, route, asked, body.length or 0)
        if not is_remembered:
            _check_what_is_certain(ruled, rules.concurrency)
        if reading is None and _must_be_read(route or UNKNOWN, rules, ruled.meters, body):
            reading = self._read(asked, body, token_id)
        return self._judge(ruled, rules, route or UNKNOWN, asked, reading or NOTHING), reading

    def _state_of(self, token_hash: str, *, is_counted: bool = True) -> TokenState:
        """
        Args:
            is_counted: It is asked for a request, which the hourly limit may refuse.
        """
        now = utc_now()
        try:
            state = self._store.state(token_hash)
            if state is None and (successor := self._store.successor(token_hash, now)):
                state = self._store.state(successor)
        except StoreUnavailable as exc:
            raise unavailable(exc) from exc
        if state is None:
            raise UnknownToken
        reason = explain(state, now)
        if reason is not None and (is_counted or not isinstance(reason, RateLimited)):
            raise reason
        return state

    def _would_refuse(
        self,
        ruled: Ruled,
        rules: Rules,
        route: Route | None,
        asked: Asked,
        body: RequestBody,
        reading: Reading | None,
        token_id: str,
    ) -> ProxyError | None:
        """What rules would refuse the call with, were they in force. The body goes up as it came."""
        must_be_read = reading is None and _must_be_read(route or UNKNOWN, rules, (), body)
        if must_be_read and (body.length or 0) <= self._max_spooled_bytes:
            self._arrive(body, token_id)
        try:
            _check_head(rules, route, asked, body.length or 0)
            if must_be_read:
                self._require_readable(asked, body)
                reading = _reading_of_arrived(body, boundary_of(asked.content_type))
                if reading.size > self._max_spooled_bytes:
                    raise BodyTooLarge(limit=self._max_spooled_bytes)
            _check_rules(rules, route or UNKNOWN, asked, reading or NOTHING, ruled)
        except ProxyError as exc:
            return exc
        return None

    # The body.

    def _read(self, asked: Asked, body: RequestBody, token_id: str) -> Reading:
        self._require_readable(asked, body)
        boundary = boundary_of(asked.content_type)
        self._hold(body, token_id)
        if body.held is not None:
            return _reading_of_arrived(body, boundary)
        with spooling():
            file = self.open_spool()
        return _scanned(body.spool(file, self._max_spooled_bytes), boundary)

    def _require_readable(self, asked: Asked, body: RequestBody) -> None:
        if asked.content_encoding.strip().lower() not in ("", "identity"):
            raise EncodedBody
        if body.length is not None and body.length > self._max_spooled_bytes:
            raise BodyTooLarge(limit=self._max_spooled_bytes)

    def _arrive(self, body: RequestBody, token_id: str) -> None:
        """Have all of a body here, whatever it holds, as long as it would be allowed to be without rules."""
        self._hold(body, token_id)
        if body.held is None:
            with spooling():
                file = self.open_spool()
            for _ in body.spool(file, sys.maxsize):
                pass

    def _hold(self, body: RequestBody, token_id: str) -> None:
        """Read a small body into memory."""
        if body.length is None:
            body.gather(HELD_BYTES)
        elif body.length <= HELD_BYTES:
            body.hold_if_small()
        elif body.length <= MOST_HELD_BYTES and (room := self._rooms.lend(token_id, body.length)):
            body.hold_in(room, MOST_HELD_BYTES)

    # The judge.

    def _judge(self, ruled: Ruled, rules: Rules, route: Route, asked: Asked, reading: Reading) -> Judged:
        models = _check_rules(rules, route, asked, reading, ruled)
        if route.kind != "free" and any(meter.models for meter in ruled.meters):
            require_model(route, models)
            require_no_chooser(asked.chooser)
        meters = tuple(meter for meter in ruled.meters if _counts(meter, models))
        if any(meter.unit != "requests" for meter in meters):
            require_metered(route, reading)
            if route.kind != "free":
                require_no_chooser(asked.chooser)
        row, figures = self._figures(ruled, rules, route, reading, models, meters)
        if figures.unbounded is not None:
            _require_no_bound(meters, figures.unbounded)
        tier = reading.members.get("service_tier")
        tier = tier if isinstance(tier, str) and tier != "auto" else ruled.default_tier
        may_stream = reading is NOTHING or reading.members.get("stream") is True
        return Judged(figures, meters, row, tier, rules.concurrency, may_stream, _output_name(route), rules.models)

    def _figures(
        self, ruled: Ruled, rules: Rules, route: Route, reading: Reading, models: Models, meters: Sequence[Meter]
    ) -> tuple[Row | None, Bounds]:
        """The main model's row, if it has one, and the call's figures."""
        if route.kind == "free" or all(meter.unit == "requests" for meter in meters):
            return None, Bounds()
        row = self._prices.find(models.main, ruled.project_name) if self._prices and models.main else None
        must_be_priced = any(meter.unit == "usd" for meter in meters)
        if must_be_priced:
            require_model(route, models)
            if row is None and rules.unpriced != "allow":
                raise ModelNotPriced(param="model")
        try:
            return row, bounds(route, reading, row, default_tier=ruled.default_tier)
        except NotPriced as exc:
            if must_be_priced and rules.unpriced != "allow":
                raise ModelNotPriced(f"{exc}, and this token has a budget in dollars.") from exc
            return None, bounds(route, reading, None, default_tier=ruled.default_tier)

    # The claim.

    def _claim(self, token: RuledToken, request_id: str, judged: Judged) -> tuple[Grant, Holding] | None:
        """None where the token is not what the call was judged by. Raises why it is not admitted."""
        settler = self.settler
        if settler is None:
            raise unavailable(StoreUnavailable("this worker cannot hold calls yet; is DATA_DIR writable?"))
        asked = claim_of(
            token.ruled,
            judged.meters,
            judged.figures,
            now_us=token.ruled.database_us(time.monotonic()),
            request_id=request_id,
            node=settler.node,
            worker=settler.worker,
            concurrency=judged.concurrency,
        )
        settler.begin(request_id)
        began = time.perf_counter()
        try:
            grant, verdict = self._store.claim_ruled(token.token_hash, asked, utc_now())
        except StoreUnavailable as exc:
            settler.unknown(request_id)
            raise unavailable(exc) from exc
        except BaseException:
            settler.unknown(request_id)
            raise
        finally:
            metrics.claimed(time.perf_counter() - began)
        if grant is None or not asked.reserves:
            settler.refused(request_id)
        if grant is not None:
            grant = grant._replace(is_retired=True) if token.is_retired else grant
            end = settler.end if asked.reserves else None
            return grant, Holding(request_id, judged, verdict.meters, verdict.claims, end)
        if verdict.is_stale:
            return None
        raise _refusal(verdict.meters, verdict.claims, judged, verdict.now_us)


def _scanned(pieces: Iterable[bytes], boundary: bytes | None) -> Reading:
    return scan(pieces, take_turn) if boundary is None else scan_form(pieces, boundary, take_turn)


def _reading_of_arrived(body: RequestBody, boundary: bytes | None) -> Reading:
    if body.held is None:
        return _scanned(body, boundary)
    if not body.held:
        return NOTHING
    if boundary is None and can_be_held(body.held):
        return read_held(body.held, pause=take_turn)
    return _scanned((body.held,), boundary)


def _must_be_read(route: Route, rules: Rules, meters: Sequence[Meter], body: RequestBody) -> bool:
    """Whether anything depends on the body: files go up as they come."""
    if route.path in _FILES:
        return rules.max_body_bytes is not None and body.length is None
    if rules.looks_at_bodies or (rules.max_body_bytes is not None and body.length is None):
        return True
    return any(meter.models or (route.kind != "free" and meter.unit != "requests") for meter in meters)


def _check_head(rules: Rules, route: Route | None, asked: Asked, size: int) -> None:
    check_head(rules, route, address=asked.address or "", size=size, chooser=asked.chooser)


def _check_rules(rules: Rules, route: Route, asked: Asked, reading: Reading, ruled: Ruled) -> Models:
    """The models that a request names. Raises what its rules refuse it with."""
    if rules.max_body_bytes is not None and reading.size > rules.max_body_bytes:
        raise BodyTooLarge(limit=rules.max_body_bytes)
    if not rules.looks_at_bodies and not ruled.meters:
        return Models(None, frozenset())
    models = models_of(route, *_path_and_query(asked), reading)
    check_models(rules, route, models)
    require_named(rules, reading)
    if rules.looks_at_bodies and hides_parameters(route):
        require_model(route, models)
    check_parameters(rules, route, reading, default_tier=ruled.default_tier)
    return models


def _path_and_query(asked: Asked) -> tuple[str, str]:
    path, _, query = asked.target.partition("?")
    return path, query


def _check_session(rules: Rules, asked: Asked, size: int) -> None:
    """Raises what a message is refused with, whatever it says."""
    route = _session_route(asked)
    _check_head(rules, None if route is _NO_SESSION else route, asked, size)


def _check_said(rules: Rules, asked: Asked, said: Reading | AmbiguousBody | None, size: int, ruled: Ruled) -> None:
    """Raises what a message that asks for no response is refused with."""
    _check_session(rules, asked, size)
    if said is None:
        _require_unread(rules)
    elif not isinstance(said, AmbiguousBody):
        _check_rules(rules, _as_no_call(_session_route(asked)), asked, said, ruled)
        if rules.models:
            _require_hearing(asked, said)
    elif rules.looks_at_bodies or any(meter.models or meter.unit != "requests" for meter in ruled.meters):
        raise said


def _session_route(asked: Asked) -> Route:
    """The route of what is asked for on a WebSocket: on Responses it is what a POST would ask for."""
    path = asked.target.partition("?")[0]
    route = find_route("POST" if path == RESPONSES else asked.method, path)
    if route is None or route.path not in (*_REALTIME, "responses"):
        return _NO_SESSION
    # A call that is joined has the settings that it was made with.
    is_joined = route.path in _REALTIME and asked_values(asked.target.partition("?")[2], "call_id")
    return route._replace(model="hidden") if is_joined else route


def _require_unread(rules: Rules) -> None:
    """Raises where rules ask for what nobody has read."""
    if rules.looks_at_bodies:
        raise EndpointNotAllowed("This WebSocket was opened before its token had rules that look at requests.")


def _is_transcription(asked: Asked) -> bool:
    """Whether a WebSocket is opened for a transcription, whose model the session's settings name."""
    return asked_values(asked.target.partition("?")[2], "intent") == ["transcription"]


def _require_hearing(asked: Asked, said: Reading) -> None:
    """Raises ModelUndetermined for what a model will hear that nobody has named."""
    is_unheard = said.members.get("type") in SOUND and not said.models and _is_transcription(asked)
    if is_unheard or unnamed_hearing(said):
        raise ModelUndetermined("Say which model transcribes: `session.audio.input.transcription.model`.")


def _require_told(ruled: Ruled, asked: Asked, said: Reading) -> None:
    """Raises where a budget would not be told what goes on: it may have come after the WebSocket was opened."""
    route = _session_route(asked)
    if route.kind == "later" and any(meter.unit != "requests" for meter in ruled.meters):
        models = models_of(route, *_path_and_query(asked), said)
        if any(meter.unit != "requests" and _counts(meter, models) for meter in ruled.meters):
            require_metered(route, NOTHING)


def _require_held(ruled: Ruled, asked: Asked, said: Reading) -> None:
    """Raises where what is said on Responses, and asks for no response, may cost what nothing was held for."""
    kind = said.members.get("type")
    if _session_route(asked).path != "responses" or kind == "response.cancel":
        return
    if kind == "response.inject":
        _require_no_bound(ruled.meters, "what is added to a response that runs was not held for")
    elif any(meter.unit != "requests" for meter in ruled.meters):
        raise ParameterNotAllowed(
            "By `response.steer` the upstream begins responses by itself, and this token has a budget: send "
            "`response.create`.",
            param="type",
        )


def _as_no_call(route: Route) -> Route:
    return route._replace(path="", kind="free", model="none")


def _refusal_by(check: Callable[[], None]) -> ProxyError | None:
    """The refusal that a check comes to."""
    try:
        check()
    except ProxyError as exc:
        return exc
    return None


def _require_no_bound(meters: Iterable[Meter], unbounded: str) -> None:
    """
    Raises BudgetTooSmall where one of the meters reserves the bound of what has none.

    Args:
        unbounded: Why it has none.
    """
    if any(meter.reserve == "bound" and meter.holds for meter in meters):
        raise BudgetTooSmall(
            f"Nobody can tell what this call may cost at most: {unbounded}. This token's budget admits only calls of "
            "which that is known."
        )


def _counts(meter: Meter, models: Models) -> bool:
    return meter.models is None or any(map(_names_of(meter.models).cover, models.every))


@lru_cache(maxsize=1024)
def _names_of(models: str) -> ModelNames:
    return ModelNames(models.split(","))


def _rules_of(ruled: Ruled) -> Rules:
    """The rules in force. Raises AuthUnavailable for what this version cannot read."""
    return _in_force(ruled.rules, ruled.project_rules, bool(ruled.meters)).enforced


def _reported_by(ruled: Ruled) -> Rules | None:
    """The rules that would hold, were all in force; None where all are."""
    return _in_force(ruled.rules, ruled.project_rules, bool(ruled.meters)).reported


@lru_cache(maxsize=1024)
def _in_force(rules: str | None, project_rules: str | None, has_meter: bool) -> InForce:
    texts = [text for text in (rules, project_rules) if text is not None]
    try:
        return in_force([read_rules(orjson.loads(text)) for text in texts], has_meter=has_meter)
    except (BadRules, orjson.JSONDecodeError) as exc:
        reason = AuthUnavailable()
        reason.detail = f"rules that this version cannot read: {exc}"
        raise reason from exc


def _output_name(route: Route) -> str | None:
    names = OUTPUT_NAMES.get(route.kind)
    return names[0] if names else None


def _holds(ruled: Ruled, judged: Judged, request_id: str) -> tuple[tuple[Meter, Claimed], ...]:
    """What a claim would do to each meter now. Raises what it would be refused with."""
    now_us = ruled.database_us(time.monotonic())
    asked = claim_of(
        ruled,
        judged.meters,
        judged.figures,
        now_us=now_us,
        request_id=request_id,
        node="",
        worker="",
        concurrency=judged.concurrency,
    )
    meters, claims, is_admitted = judged_by_meters(sorted(judged.meters), asked.demands, now_us)
    if not is_admitted:
        raise _refusal(meters, claims, judged, now_us)
    return tuple(zip(meters, claims, strict=True))


# Refusals.


def _check_what_is_certain(ruled: Ruled, concurrency: int | None) -> None:
    """Before anything is read: raise what the call will be refused with, whatever it asks for."""
    now_us = ruled.database_us(time.monotonic())
    if concurrency is not None and ruled.in_flight >= concurrency:
        raise _too_many(concurrency)
    for meter in ruled.meters:
        if meter.models is None:
            present = turned(meter, now_us, period_ends(meter.period, meter.zone, now_us))
            if present.spent >= present.amount:
                raise _exhausted(present, now_us)


def _too_many(most: int | None) -> ConcurrencyLimited:
    return ConcurrencyLimited(f"This token may make {most} calls at a time.")


def _refusal(meters: Sequence[Meter], claims: Sequence[Claimed], judged: Judged, now_us: int) -> ProxyError:
    """Why a claim was not admitted, by the rows that it locked; what lasts longest comes first."""
    short = [(meter, why) for meter, call in zip(meters, claims, strict=True) if (why := shortage(meter, call))]
    for meter, why in short:
        if why == "exhausted":
            return _exhausted(meter, now_us)
    for meter, why in short:
        if why == "too_small":
            return _too_small(meter, judged)
    if short:
        return BudgetReserved()
    return _too_many(judged.concurrency)


def _exhausted(meter: Meter, now_us: int) -> ProxyError:
    reset_in_s = (meter.period_end - now_us) / US_PER_S
    if meter.period in RATES:
        kind = TokensLimited if meter.unit == "tokens" else RateLimited
        return kind(limit=meter.amount, reset_in_s=reset_in_s, per=meter.period)
    if meter.period == "total":
        return BudgetExhausted()
    reset = iso_utc(at_microsecond(meter.period_end))
    return BudgetExhausted(f"This token's budget is used up until {reset}. Wait, or ask your operator for more.")


def _too_small(meter: Meter, judged: Judged) -> BudgetTooSmall:
    left, figures = meter.amount - meter.spent, judged.figures
    if meter.unit != "usd":
        return BudgetTooSmall(f"This call may take {figures.tokens} tokens, {left} are left of this token's budget.")
    fits = figures.output_that_fits(left)
    hint = f"; `{judged.output_name}` of at most {fits} would fit" if fits and judged.output_name else ""
    at_most, rest = usd(figures.cost, decimals=0), usd(left, decimals=0)
    return BudgetTooSmall(f"This call may cost up to ${at_most}, ${rest} is left of this token's budget{hint}.")
