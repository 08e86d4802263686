"""
Whether a request keeps to the rules: what its head tells, then what its body tells.

Raises what the caller is told (`llmproxy.errors`), so that whoever only notes what would have been refused asks the
same questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from llmproxy.errors import (
    AddressNotAllowed,
    AmbiguousBody,
    BodyTooLarge,
    EndpointNotAllowed,
    ModelNotAllowed,
    ModelNotPriced,
    ModelUndetermined,
    ParameterNotAllowed,
)
from llmproxy.limits.body.reading import WATCHED, Reading, listed, models_in, names_models, objects_in
from llmproxy.limits.routes import DEFAULT_MODELS, Route, id_in
from llmproxy.limits.rules import Rules, has_tool, undated

# What an API calls the most tokens that it may write.
OUTPUT_NAMES: dict[str, tuple[str, ...]] = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
    "run": ("max_completion_tokens",),
    "realtime": ("max_output_tokens", "max_response_output_tokens"),
}
# The last of them is a grader's.
_ALL_OUTPUT_NAMES = frozenset(
    {*(name for names in OUTPUT_NAMES.values() for name in names), "max_completions_tokens"}
)
# What takes no such parameter: a run that goes on has what it was begun with.
_WITHOUT_OUTPUT = ("responses/compact", "threads/*/runs/*/submit_tool_outputs")
# Where a request has its models, whose outermost object has none.
_PLACES = {"evals": "testing_criteria", "fine_tuning/alpha/graders/run": "grader"}
# Where it has a session, which has one of its own.
_WITH_SESSION = (
    "realtime/calls", "realtime/client_secrets",
    "realtime/translations/calls", "realtime/translations/client_secrets",
)  # fmt: skip
# What makes a session that answers, and where its settings stand.
_MAKING_SESSIONS = ("realtime/calls", "realtime/client_secrets", "realtime/sessions", "realtime/calls/*/accept")
# Objects that ask a model of their own, by name and by type, which some upstreams choose where it is left out.
_ASKING = ("input_audio_transcription", "moderation", "transcription")
_ASKING_TYPES = ("image_generation", "label_model", "score_model")
_ASKING_MEMBERS = frozenset({*_ASKING, "output_format", "tool_choice", "tools"})
# By which OpenRouter chooses a model by itself.
_ROUTERS = ("preset", "route")
# OpenAI's, without dates. What settings others have, nobody here knows.
_TOOLS = frozenset(
    {
        "apply_patch", "code_interpreter", "computer", "computer_use", "computer_use_preview", "custom",
        "file_search", "function", "image_generation", "local_shell", "mcp", "namespace", "programmatic_tool_calling",
        "shell", "tool_search", "web_search", "web_search_preview",
    }
)  # fmt: skip
_TIERED = ("chat", "completions", "responses", "run")
_MOST_NAMED = 10

NOTHING = Reading({}, frozenset(), 0)
# In names of models that look something up before they write, asked or not: OpenAI's own, and any by OpenRouter.
_SEARCHING, _ONLINE = "-search-", ":online"
# The sound that a client of Realtime sends, and of a translation.
SOUND = ("input_audio_buffer.append", "session.input_audio_buffer.append")
# Where a WebSocket's query names the model.
_IN_QUERY = ("realtime", "realtime/translations", "models/*")


class Models(NamedTuple):
    """
    The models of a request.

    Attributes:
        main: The one that answers; None where it is not to be found in the request.
        every: All that are named anywhere, the main one among them.
    """

    main: str | None
    every: frozenset[str]


def check_head(rules: Rules, route: Route | None, *, address: str, size: int, chooser: str | None = None) -> None:
    """
    Raises AddressNotAllowed, EndpointNotAllowed, BodyTooLarge, ModelUndetermined.

    Args:
        size: Bytes of the body, as far as they are known.
        chooser: A header by which the upstream may choose the model.
    """
    if not rules.allow_address(address):
        raise AddressNotAllowed
    if not rules.allow_endpoint(route):
        raise EndpointNotAllowed(f"{EndpointNotAllowed.message} It may use {_named(sorted(rules.endpoints or ()))}.")
    if rules.max_body_bytes is not None and size > rules.max_body_bytes:
        raise BodyTooLarge(limit=rules.max_body_bytes)
    if rules.models:
        require_no_chooser(chooser)


def require_no_chooser(header: str | None) -> None:
    """Raises ModelUndetermined for a header by which the upstream may choose another model than the request names."""
    if header is not None:
        raise ModelUndetermined(
            f"Leave out the header `{header}`: by it a gateway may choose the model, and this token has limits."
        )


def models_of(route: Route, path: str, query: str, reading: Reading) -> Models:
    """
    The models of a request, wherever they are named. Raises AmbiguousBody.

    Args:
        path, query: As they are sent up; the query without its question mark.
    """
    main = reading.model if route.model != "stored" else _main_model(route, reading)
    asked = _in_query(query)
    named = [*asked, *([id_in(path)] if route.path == "models/*" else [])]
    if main is None and named and route.path in _IN_QUERY:
        main = named[-1]  # elsewhere no upstream looks for it in the query
    if main is None and route.model == "default":
        main = DEFAULT_MODELS[route.group]
    if not query and not named and main in reading.models:  # nearly always
        return Models(main, reading.models)
    named += _others_in_query(query)
    return Models(main, reading.models.union(named, () if main is None else (main,)))


def check_models(rules: Rules, route: Route, models: Models) -> None:
    """Raises ModelNotAllowed, ModelUndetermined."""
    if not rules.models:
        return
    if not all(map(rules.allow_model, models.every)):
        # Named once, though both the token's rules and its project's may list it.
        named = dict.fromkeys(name for names in rules.models for name in names.names)
        allowed = [name for name in named if rules.allow_model(name)]
        raise ModelNotAllowed(f"{ModelNotAllowed.message} It may use {_named(allowed)}.", param="model")
    require_model(route, models)


def require_named(rules: Rules, reading: Reading) -> None:
    """Raises ModelUndetermined where the upstream would choose one more model than those that a request names."""
    if rules.models and (place := next(_unnamed(rules, reading.members), None)):
        raise ModelUndetermined(f"{place}, and this token may not use every model.")


def require_model(route: Route, models: Models) -> None:
    """Raises ModelUndetermined where a model will answer that the request does not name."""
    if route.model == "hidden":
        raise ModelUndetermined(
            "The model and the parameters of such a request stand in what was stored, where nobody can look them up."
        )
    if route.model != "none" and models.main is None:
        raise ModelUndetermined


def hides_parameters(route: Route) -> bool:
    """
    Whether tools and limits stand where the model does, which nobody can look up: in a batch's file, a workflow, a
    call that is joined. A run that goes on was begun with some, and a video has none.
    """
    return route.model == "hidden" and route.kind not in ("run", "video")


def check_parameters(rules: Rules, route: Route, reading: Reading, *, default_tier: str | None) -> None:
    """
    Raises ParameterNotAllowed.

    Args:
        default_tier: What the upstream serves where a request asks for no tier; None for `default`.
    """
    members = reading.members
    if rules.limits_parameters:
        _require_no_more(members)
    if rules.max_output_tokens is not None or rules.require_max_output:
        _check_output(rules, route, members)
    if rules.n is not None:
        _check_choices(rules.n, route, reading)
    for tiers in rules.service_tier:
        _check_tier(tiers, route, members, default_tier or "default")
    if rules.tools is not None:
        _check_tools(rules.tools, route, reading)
    if not rules.background and _runs_in_background(route, members):
        raise ParameterNotAllowed("This token may not run in the background.", param="background")
    if not rules.store:
        _check_store(route, members)
    if rules.reasoning_effort is not None:
        _check_effort(rules.reasoning_effort, route, reading)


def require_metered(route: Route, reading: Reading) -> None:
    """
    Raises what refuses a request whose cost nobody will be told, under a budget of dollars or tokens.

    Raises ModelNotPriced, ParameterNotAllowed.
    """
    if route.kind == "later":
        raise ModelNotPriced("Nobody here can tell what this costs, and the token has a budget.")
    if route.kind == "away":
        raise ModelNotPriced("This leads past the proxy, which would not see the cost, and the token has a budget.")
    if _runs_in_background(route, reading.members):
        raise ParameterNotAllowed(
            "What runs in the background does not tell what it costs, and this token has a budget.",
            param="background",
        )
    if route.kind == "run" and reading.members.get("stream") is not True:
        raise ParameterNotAllowed(
            "This token has a budget: send `stream: true`, for the run's end tells what it costs.", param="stream"
        )
    if route.kind == "free":
        return
    _require_no_more(reading.members)
    if name := _choosing(reading.members):
        raise ParameterNotAllowed(
            f"Leave out `{name}`: which of several models answers is told too late, and this token has a budget.",
            param=name,
        )


def asked_values(query: str, name: str) -> list[str]:
    """What a query has under a name, as any upstream may read it."""
    return [value for asked, value in _pairs(query) if _plain(asked) == name]


def hearing_places(session: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where a Realtime session names the model that transcribes: today's form, and the one before."""
    heard: Any = session
    for name in ("audio", "input", "transcription"):
        heard = heard.get(name) if isinstance(heard, dict) else None
    return [place for place in (heard, session.get("input_audio_transcription")) if isinstance(place, dict)]


def unnamed_hearing(said: Reading) -> list[dict[str, Any]]:
    """Where a message's session asks for transcription and does not say by which model."""
    return [place for place in hearing_places(_session_of(said.members)) if place.get("model") is None]


def tool_types(members: Mapping[str, Any]) -> Iterator[str]:
    """Types of all tools that a request names, wherever; "" for what has none."""
    if members.get("functions") is not None:
        yield "function"
    if members.get("web_search_options") is not None:
        yield "web_search"
    if (plugins := members.get("plugins")) is not None:  # OpenRouter's, such as its `web`
        yield from map(_id_of, listed(plugins))
    # Agents that the upstream hosts, as many and as deep as the model likes.
    agents = members.get("multi_agent")
    if agents is not None and not (isinstance(agents, dict) and agents.get("enabled") is False):
        yield "multi_agent"
    for place in objects_in(members):
        if (tools := place.get("tools")) is not None:
            yield from map(_type_of, listed(tools))


def searches_unasked(model: str | None) -> bool:
    """Whether a model looks something up before it writes, though no tool is named."""
    return model is not None and (_SEARCHING in model or model.endswith(_ONLINE))


def _runs_in_background(route: Route, members: Mapping[str, Any]) -> bool:
    # Of an image it is what is painted behind.
    return route.kind != "images" and bool(members.get("background"))


def _choosing(members: Mapping[str, Any]) -> str | None:
    """A member by which a router may answer with another model than `model`."""
    for name in members:
        is_one = name in _ROUTERS if name in WATCHED else names_models(name)
        if is_one and members[name]:
            return name
    return None


def _unnamed(rules: Rules, members: Mapping[str, Any]) -> Iterator[str]:
    """What to do about each place that leaves its model to the upstream."""
    for name in _ROUTERS:
        if members.get(name) is not None and not ("models" in members and name == "route"):
            yield f"Leave out `{name}`: by it the upstream chooses the model"
    choices = set[int]()
    for place in objects_in(members):
        is_asking = place.get("type") in _ASKING_TYPES and not isinstance(place.get("model"), str)
        if not is_asking and _ASKING_MEMBERS.isdisjoint(place):  # nearly always
            continue
        if isinstance(choice := place.get("tool_choice"), dict):  # names tools, and brings none
            choices |= {id(choice), *map(id, listed(choice.get("tools")))}
        if id(place) in choices:
            continue
        if is_asking:
            yield f"Name the model of the `{place['type']}`: its member `model`"
        for name in _ASKING:
            if isinstance(inner := place.get(name), dict) and not isinstance(inner.get("model"), str):
                yield f"Name the model of the `{name}`: its member `model`"
        if place.get("output_format") == "svg" and not _names_author(place):
            yield "Name the model that draws the SVG: `svg.model`"
        tools = place.get("tools")
        if tools is not None and not all(_asks_nobody_else(rules, tool) for tool in listed(tools)):
            yield "A tool that is none of OpenAI's may ask a model of its own, unless `limits.tools` has its type"


def _names_author(place: Mapping[str, Any]) -> bool:
    svg = place.get("svg")
    return isinstance(svg, dict) and isinstance(svg.get("model"), str)


def _asks_nobody_else(rules: Rules, tool: object) -> bool:
    """Whether a tool is one of which is known where its model stands, or one that the rules name."""
    kind = _type_of(tool)
    if not kind or kind in _TOOLS:  # nearly always
        return True
    if undated(kind) in _ASKING_TYPES:  # another version of it
        return isinstance(tool, dict) and isinstance(tool.get("model"), str)
    return has_tool(_TOOLS, kind) or (rules.tools is not None and has_tool(rules.tools, kind))


def _main_model(route: Route, reading: Reading) -> str | None:
    """The model where a request's upstream looks for it; what else is named so decides nothing."""
    members = reading.members
    if route.path in _WITH_SESSION:
        return _in_session(_session_of(members))
    if route.path == "realtime/transcription_sessions":
        return _hearing_in(members)
    if route.path in _PLACES:
        place = members.get(_PLACES[route.path])
        return next(iter(sorted(models_in({"": place}))), None) if isinstance(place, dict | list) else None
    return reading.model


def _session_of(members: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a session that a request names; empty for none."""
    session = members.get("session")
    return session if isinstance(session, dict) else {}


def _in_session(session: Mapping[str, Any]) -> str | None:
    """The model that answers in a Realtime session: that of a transcription is the one that hears."""
    model = _hearing_in(session) if session.get("type") == "transcription" else session.get("model")
    return model if isinstance(model, str) else None


def _hearing_in(session: Mapping[str, Any]) -> str | None:
    models = (place.get("model") for place in hearing_places(session))
    return next((model for model in models if isinstance(model, str)), None)


def _in_query(query: str) -> list[str]:
    if not query:  # nearly always
        return []
    found = [(name, value) for name, value in _pairs(query) if _plain(name) == "model"]
    # Whether semicolons part pairs, too, each server sees in its own way.
    if len(found) > 1 or any(name != "model" or ";" in query for name, _ in found):
        raise AmbiguousBody("The query must name `model` once at most.", param="model")
    return [value for _, value in found]


def _others_in_query(query: str) -> list[str]:
    """What else a query names like a model, as Azure's `deployment`."""
    named = [(_plain(name), value) for name, value in _pairs(query)]
    return [value for name, value in named if names_models(name) or "deployment" in name]


def _pairs(query: str) -> list[tuple[str, str]]:
    """What a query names, and what it says of each. Semicolons part pairs for some upstreams, so they do here."""
    pairs = [pair.partition("=") for pair in query.replace(";", "&").split("&")]
    return [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]


def _plain(name: str) -> str:
    return name.partition("[")[0].partition("\0")[0].strip().casefold()


def _check_output(rules: Rules, route: Route, members: Mapping[str, Any]) -> None:
    if rules.max_output_tokens is not None:
        for place in objects_in(members):
            for name in _ALL_OUTPUT_NAMES.intersection(place):
                _require_at_most(name, place[name], rules.max_output_tokens)
    if rules.require_max_output and (names := _output_names(route, members)):
        asked = _session_of(members) if route.path in _WITH_SESSION else members
        if not any(_is_limit(asked.get(name)) for name in names):
            most = "" if rules.max_output_tokens is None else f", at most {rules.max_output_tokens}"
            raise ParameterNotAllowed(
                f"Send `{names[0]}`{most}: this token must say how much it wants.", param=names[0]
            )


def _require_no_more(members: Mapping[str, Any]) -> None:
    """Raises ParameterNotAllowed for what LiteLLM lays over the request itself."""
    if members.get("extra_body") is not None:
        raise ParameterNotAllowed(
            "Send what stands in `extra_body` beside the other parameters: this token's limits depend on it.",
            param="extra_body",
        )


def _check_choices(most: int, route: Route, reading: Reading) -> None:
    asked = {name: reading.members.get(name) for name in ("n", "best_of")}
    for name, value in asked.items():
        _require_at_most(name, value, most)
    prompts = reading.parts.prompts if route.kind == "completions" and reading.parts else 1
    if prompts > 1 and prompts * max(value or 1 for value in asked.values()) > most:
        raise ParameterNotAllowed(
            f"With this token a call may ask for {most} choices at most: each `prompt` of a list is one, times `n`.",
            param="prompt",
        )


def _output_names(route: Route, members: Mapping[str, Any]) -> tuple[str, ...]:
    """The names by which a request says how much it wants; none where it cannot."""
    if route.path in _MAKING_SESSIONS:
        is_transcription = _session_of(members).get("type") == "transcription"
        return () if is_transcription else OUTPUT_NAMES["realtime"]
    return () if route.path in _WITHOUT_OUTPUT else OUTPUT_NAMES.get(route.kind, ())


def _is_limit(value: object) -> bool:
    return value is not None and value != "inf"  # as Realtime says that there is none


def _require_at_most(name: str, value: object, most: int) -> None:
    # Some upstreams take -1 for no limit.
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most
    ):
        raise ParameterNotAllowed(f"With this token `{name}` must be a number from 0 to {most}.", param=name)


def _check_tier(allowed: frozenset[str], route: Route, members: Mapping[str, Any], default_tier: str) -> None:
    asked = members.get("service_tier")
    if asked is None and route.kind not in _TIERED:
        return
    is_allowed = asked in (None, "auto") and default_tier in allowed
    if not is_allowed and not _is_in(allowed, "auto" if asked is None else asked):
        raise ParameterNotAllowed(
            f"With this token `service_tier` must be one of {_named(sorted(allowed))}.", param="service_tier"
        )


def _check_tools(allowed: frozenset[str], route: Route, reading: Reading) -> None:
    if _has_stored_prompt(reading):
        raise ParameterNotAllowed("A stored prompt may bring tools that this token may not use.", param="prompt")
    if _is_assistants_run(route) and not reading.members.get("tools"):
        raise ParameterNotAllowed(
            "An assistant may bring tools that this token may not use: send the run's own `tools`.", param="tools"
        )
    searches = ["web_search"] if route.kind in ("chat", "responses") and searches_unasked(reading.model) else []
    for kind in (*tool_types(reading.members), *searches):
        if not has_tool(allowed, kind):
            raise ParameterNotAllowed(
                f"With this token tools may be of type {_named(sorted(allowed))}.", param="tools"
            )


def _check_store(route: Route, members: Mapping[str, Any]) -> None:
    # Responses are stored unless one says no; chats only when one says yes.
    stores = members.get("store") is not False if route.path == "responses" else bool(members.get("store"))
    if stores:
        raise ParameterNotAllowed("This token may store nothing: send `store: false`.", param="store")
    if members.get("conversation") is not None:
        raise ParameterNotAllowed("This token may store nothing, and conversations are stored.", param="conversation")


def _check_effort(allowed: frozenset[str], route: Route, reading: Reading) -> None:
    efforts = list(_efforts_in(reading.members))
    if not efforts and (_is_assistants_run(route) or _has_stored_prompt(reading)):
        raise ParameterNotAllowed(
            "What was stored may bring an effort of reasoning that this token may not use: send the request's own.",
            param="reasoning_effort" if _is_assistants_run(route) else "reasoning.effort",
        )
    for name, effort in efforts:
        if not _is_in(allowed, effort):
            raise ParameterNotAllowed(
                f"With this token the reasoning's effort must be one of {_named(sorted(allowed))}.", param=name
            )


def _efforts_in(members: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every effort that a request names, wherever: of a response, a tool, a grader, an item that changes it."""
    for place in objects_in(members):
        asked = {"reasoning_effort": place.get("reasoning_effort"), "reasoning.effort": place.get("effort")}
        yield from ((name, effort) for name, effort in asked.items() if effort is not None)


def _has_stored_prompt(reading: Reading) -> bool:
    """Whether a stored prompt is named, in the request or in the session of one."""
    return reading.has_stored_prompt or any(
        isinstance(place.get("prompt"), dict) for place in objects_in(reading.members)
    )


def _is_assistants_run(route: Route) -> bool:
    return route.kind == "run" and route.model == "stored"


def _is_in(allowed: frozenset[str], value: object) -> bool:
    return isinstance(value, str) and value in allowed


def _type_of(tool: object) -> str:
    return _text_of(tool, "type")


def _id_of(plugin: object) -> str:
    return _text_of(plugin, "id")


def _text_of(entry: object, name: str) -> str:
    text = entry.get(name) if isinstance(entry, dict) else None
    return text if isinstance(text, str) else ""


def _named(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
