"""Rules of a token or a project: a form, a call to try them on, and what they would have refused lately."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Response, current_app, request

from accounting.report import Filters, would_refuse_by_reason
from blueprints.admin import display
from blueprints.admin.access import actor
from blueprints.admin.answers import done, page, shows
from blueprints.admin.rules_form import WEBSOCKET, RulesForm, fields_of
from blueprints.admin.site import bp
from blueprints.admin.spans import SPANS
from control import limits, projects, tokens
from control.audit import version_of
from control.errors import Conflict
from llmproxy.admission import utc_now
from llmproxy.errors import CallerError, ProxyError
from llmproxy.gate import Asked, Trial
from llmproxy.headers import permitted_target
from llmproxy.limits import amounts
from llmproxy.limits.meters import Claimed, Meter
from llmproxy.limits.reservations import Ruled
from llmproxy.limits.routes import DEFAULT_GROUPS, warning_of
from models import Project, Token, db
from services import Services

_WEEK = SPANS["7d"]
_PREFIX = "/v1/"
# Names of rules -> what a page calls them, in its order.
_NAMES = {
    "models": "Models",
    "endpoints": "Endpoints",
    "preset": "Endpoints",
    "addresses": "Addresses",
    "concurrency": "Calls at a time",
    "unpriced": "Models without a price",
    "max_output_tokens": "Output tokens at most",
    "require_max_output": "A limit of output tokens",
    "n": "Choices of one call at most",
    "service_tier": "Service tiers",
    "tools": "Tools",
    "background": "Running in the background",
    "store": "Having responses stored",
    "reasoning_effort": "Reasoning efforts",
    "max_body_bytes": "Bytes of a request at most",
}
_OF_A_SESSION = " Each response that is asked for on it is judged by itself."
_FLAGS = {"require_max_output": "must be asked for", "background": "refused", "store": "refused"}


@dataclass(frozen=True, slots=True)
class RulesView:
    """
    Rules in words.

    Attributes:
        reports: They refuse nobody, and note what they would.
        facts: What each says, by what it is called.
        warnings: Of endpoints that lead past the proxy or touch what others made, and why.
    """

    reports: bool
    facts: list[tuple[str, str]]
    warnings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrialView:
    """What would become of a call, in words; `tone` is the notice's, `holds` has a line for each limit."""

    tone: str
    words: str
    error: ProxyError | None
    holds: list[str]


def view(rules: Mapping[str, Any] | None) -> RulesView | None:
    """Rules in words; None where there are none."""
    if rules is None:
        return None
    warnings = {name: words for name in rules.get("endpoints", ()) if (words := warning_of(name))}
    return RulesView(rules.get("mode") == "report", list(_facts(rules)), warnings)


@bp.get("/rules", endpoint="rules")
def show_rules() -> Response:
    """The form for the rules of the token or project that the query names."""
    owner = _find(request.args.get("token_id"), request.args.get("project_id"))
    limits.require_life(owner, "token_id")
    form = RulesForm(formdata=None, data=fields_of(owner.rules) | {"address": _own_address()})
    return _page(owner, form)


@bp.post("/rules")
def set_rules() -> Response:
    """Set rules in place of those that are there."""
    form = RulesForm()
    _set(form, form.document())
    return _to_owner(form, "Saved the rules. They hold for the next request.")


@bp.get("/rules/remove")
def confirm_remove_rules() -> Response:
    """Ask before the rules of the token or project that the query names are taken away."""
    owner = _find(request.args.get("token_id"), request.args.get("project_id"))
    token = owner if isinstance(owner, Token) else None
    rules = view(owner.rules or {})
    return page("rules_remove.html", token=token, project=token.project if token else owner, rules=rules)


@bp.post("/rules/remove")
def remove_rules() -> Response:
    """Take the rules away."""
    form = RulesForm()
    _set(form, None)
    return _to_owner(form, "Took the rules away. They hold nobody back from the next request on.")


@bp.post("/rules/try")
def try_rules() -> Response:
    """What the entered rules would do to the entered call. Nothing is saved, counted or sent up."""
    form = RulesForm()
    owner, rules = _owner_of(form), form.document()
    opens_session = form.method.data == WEBSOCKET
    asked = Asked(
        request_id="",
        method="GET" if opens_session else form.method.data or "POST",
        target=_target(form.path.data or ""),
        address=(form.address.data or "").strip() or None,
        content_type=(form.content_type.data or "").strip(),
        content_encoding="",
    )
    content = (form.body.data or "").encode("utf-8", "surrogatepass")
    trial = _try_out(asked, content, limits.look(db.session, owner, rules), opens_session)
    return _page(owner, form, trial=_trial_view(trial, opens_session), entered=rules)


def _try_out(asked: Asked, content: bytes, ruled: Ruled, opens_session: bool) -> Trial:
    parts = Services.of(current_app)
    try:
        permitted_target(asked.target, None, allows_organization=parts.settings.allow_organization_routes)
    except CallerError as exc:
        return Trial(exc)
    return parts.gate.try_out(ruled, asked, content, opens_session=opens_session)


@shows(RulesForm, of="set_rules")
def _set_again(form: RulesForm, status: int) -> Response:
    owner = _owner_of(form)
    # Whoever saves again has seen what this page shows.
    form.seen.data = version_of(owner)
    return _page(owner, form, status)


@shows(RulesForm, of="try_rules")
def _try_again(form: RulesForm, status: int) -> Response:
    return _page(_owner_of(form), form, status)


def _page(
    owner: Project | Token,
    form: RulesForm,
    status: int = 200,
    *,
    trial: TrialView | None = None,
    entered: Mapping[str, Any] | None = None,
) -> Response:
    token = owner if isinstance(owner, Token) else None
    project = token.project if token else owner
    form.token_id.data, form.project_id.data = token.id if token else "", project.id
    form.seen.data = form.seen.data or version_of(owner)
    whose = Filters(token_id=token.id) if token else Filters(project_id=project.id)
    return page(
        "rules.html",
        status,
        token=token,
        project=project,
        form=form,
        rules=view(owner.rules if entered is None else entered),
        has_rules=owner.rules is not None,
        of_project=view(project.rules) if token else None,
        trial=trial,
        usual=", ".join(sorted(DEFAULT_GROUPS)),
        would_refuse=would_refuse_by_reason(db.session, whose, *_WEEK.around(utc_now())),
        wanted={"token": token.id} if token else {"project_id": project.id},
    )


def _set(form: RulesForm, rules: dict[str, Any] | None) -> None:
    seen = form.seen.data or None
    if form.token_id.data:
        token = tokens.find(db.session, form.token_id.data)
        if limits.is_over(token):
            raise Conflict("seen", "Nothing was saved: the token was revoked or has expired.")
        tokens.change(db.session, actor(), token.id, seen=seen, rules=rules)
    else:
        keyring = Services.of(current_app).keyring
        projects.change(db.session, keyring, actor(), form.project_id.data or "", seen=seen, rules=rules)


def _to_owner(form: RulesForm, message: str) -> Response:
    if form.token_id.data:
        return done(message, "token", token_id=form.token_id.data)
    return done(message, "project", project_id=form.project_id.data)


def _owner_of(form: RulesForm) -> Project | Token:
    return _find(form.token_id.data, form.project_id.data)


def _find(token_id: str | None, project_id: str | None) -> Project | Token:
    return tokens.find(db.session, token_id) if token_id else projects.find(db.session, project_id or "")


def _own_address() -> str:
    return Services.of(current_app).client_address(request.environ) or ""


def _target(path: str) -> str:
    """Path and query as they go up, of whatever was copied: a whole address, a path, or what follows /v1/."""
    path = path.strip()
    _, scheme, rest = path.partition("://")
    if scheme and not path.startswith("/"):
        return "/" + rest.partition("/")[2]
    return path if path.startswith("/") else _PREFIX + path


def _trial_view(trial: Trial, is_opening: bool) -> TrialView:
    if trial.refusal:
        return TrialView("bad", "It would be refused.", trial.refusal, [])
    holds = [_hold_words(meter, call) for meter, call in trial.holds]
    more = _OF_A_SESSION if is_opening else ""
    if trial.noted:
        words = "It would pass, and be noted: in force, the rules would refuse it."
        return TrialView("warn", words + more, trial.noted, holds)
    return TrialView("good", "It would pass." + more, None, holds)


def _hold_words(meter: Meter, call: Claimed) -> str:
    if meter.unit == "requests":
        return f"{meter.name}: counts one request"
    if not meter.holds:
        return f"{meter.name}: counts {call.counted:,} LLM tokens at once, and what it took at its end"
    if meter.unit == "usd":
        held, most = (f"${amounts.usd(amount, decimals=6)}" for amount in (call.hold, call.bound))
    else:
        held, most = f"{call.hold:,} LLM tokens", f"{call.bound:,}"
    return f"{meter.name}: holds {held} while it runs, and may take up to {most}"


def _facts(rules: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    flat = {**rules, **(rules.get("limits") or {})}
    if "endpoints" not in flat and "preset" not in flat:
        yield _NAMES["endpoints"], "the usual ones"
    for name, called in _NAMES.items():
        if name not in flat or (name in _FLAGS and (flat[name] is True) is not (name == "require_max_output")):
            continue
        value = flat[name]
        if name in _FLAGS:
            yield called, _FLAGS[name]
        elif isinstance(value, list):
            yield called, ", ".join(value) or "none"
        else:
            yield called, display.number(value) if isinstance(value, int) else value
