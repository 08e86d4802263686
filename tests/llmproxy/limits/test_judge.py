"""Requests that keep to the rules, and those that do not."""

import json
import re

import pytest

from llmproxy import errors
from llmproxy.limits.body.held import read_held
from llmproxy.limits.judge import (
    NOTHING,
    check_head,
    check_models,
    check_parameters,
    models_of,
    require_metered,
    require_model,
    require_named,
    tool_types,
)
from llmproxy.limits.routes import ROUTES, find_route
from llmproxy.limits.rules import NO_RULES, narrower
from llmproxy.limits.rules_json import read_rules

CHAT = find_route("POST", "/v1/chat/completions")
COMPLETIONS = find_route("POST", "/v1/completions")
RESPONSES = find_route("POST", "/v1/responses")
EMBEDDINGS = find_route("POST", "/v1/embeddings")
IMAGES = find_route("POST", "/v1/images/generations")
COMPACT = find_route("POST", "/v1/responses/compact")
OUTPUTS = find_route("POST", "/v1/threads/t/runs/r/submit_tool_outputs")
SECRETS = find_route("POST", "/v1/realtime/client_secrets")
TRANSLATIONS = find_route("POST", "/v1/realtime/translations/client_secrets")
SESSIONS = find_route("POST", "/v1/realtime/sessions")
GRADER = find_route("POST", "/v1/fine_tuning/alpha/graders/run")
REALTIME = find_route("GET", "/v1/realtime")
MODEL = find_route("GET", "/v1/models/x")
RUN = find_route("POST", "/v1/threads/t/runs")
GRADER = find_route("POST", "/v1/fine_tuning/alpha/graders/run")
CLIENT_SECRET = find_route("POST", "/v1/realtime/client_secrets")
CHANGE = {"type": "configuration_update", "reasoning": {"effort": "high"}}
MINI = read_rules({"models": ["gpt-4o-mini"]})
# What of a session hears.
HEARD = {"audio": {"input": {"transcription": {"model": "m"}}}}


def reading(**members):
    return read_held(json.dumps(members).encode())


def models(route, *, path="/v1/", query="", **members):
    return models_of(route, path, query, reading(**members))


def limits(**rules):
    return read_rules({"limits": rules})


# Heads.


def test_an_address_that_is_not_named_is_refused_first():
    rules = read_rules({"addresses": ["10.0.0.0/8"], "endpoints": ["chat"]})

    check_head(rules, CHAT, address="10.0.0.1", size=0)
    with pytest.raises(errors.AddressNotAllowed):
        check_head(rules, None, address="192.0.2.1", size=0)


@pytest.mark.parametrize("route", [EMBEDDINGS, None])
def test_an_endpoint_that_is_not_named_is_refused_with_those_that_are(route):
    with pytest.raises(errors.EndpointNotAllowed, match="It may use audio, chat"):
        check_head(read_rules({"endpoints": ["chat", "audio"]}), route, address="", size=0)


def test_a_body_that_is_too_long_is_refused():
    check_head(limits(max_body_bytes=10), CHAT, address="", size=10)
    with pytest.raises(errors.BodyTooLarge, match="10 bytes"):
        check_head(limits(max_body_bytes=10), CHAT, address="", size=11)


# Models.


def test_the_main_model_is_the_bodys_own():
    found = models(CHAT, model="a", tools=[{"type": "x", "model": "b"}])

    assert found == ("a", {"a", "b"})


def test_a_model_inside_is_not_the_main_one():
    assert models(CHAT, tools=[{"model": "b"}]) == (None, {"b"})


def test_a_model_may_stand_in_the_query_and_in_the_path():
    assert models(REALTIME, query="model=a%2Db&x=1") == ("a-b", {"a-b"})
    assert models(MODEL, path="/v1/models/ft%3Aa") == ("ft:a", {"ft:a"})
    assert models(CHAT, query="model=b", model="a") == ("a", {"a", "b"})


def test_a_query_names_no_model_where_no_upstream_looks_for_it():
    assert models(CHAT, query="model=a") == (None, {"a"})


@pytest.mark.parametrize(
    "query",
    [
        "model=a&model=b", "model=a&Model=b", "MODEL=a", "model[]=a", "model[0]=a", "%6dodel=a&model=b", "model=a;b",
        "x=1;model=a", "model%00=a", "+model=a", "model=a&model",
    ],
)  # fmt: skip
def test_a_query_that_may_name_two_models_is_refused(query):
    with pytest.raises(errors.AmbiguousBody):
        models(REALTIME, query=query)


@pytest.mark.parametrize("query", ["", "x=1", "x=1;2", "models=gpt", "deployment=gpt", "x=model", "mode%6c=gpt"])
def test_any_other_query_names_one_at_most(query):
    assert models(CHAT, query=query).every <= {"gpt"}


@pytest.mark.parametrize(
    ("route", "members", "refused"),
    [
        (CHAT, {"model": "gpt-4o-mini"}, None),
        (CHAT, {"model": "gpt-4o-mini-2024-07-18"}, None),
        (CHAT, {"model": "gpt-4o"}, errors.ModelNotAllowed),
        (CHAT, {"model": "gpt-4o-mini", "session": {"model": "gpt-4o"}}, errors.ModelNotAllowed),
        (CHAT, {}, errors.ModelUndetermined),
        (CHAT, {"tools": [{"model": "gpt-4o-mini"}]}, errors.ModelUndetermined),
        (RESPONSES, {"prompt": {"id": "pmpt_1"}}, errors.ModelUndetermined),
        (RESPONSES, {"prompt": {"id": "pmpt_1"}, "model": "gpt-4o-mini"}, None),
    ],
)
def test_only_allowed_models_pass(route, members, refused):
    if refused is None:
        check_models(MINI, route, models(route, **members))
        return
    with pytest.raises(refused):
        check_models(MINI, route, models(route, **members))


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"tools": [{"type": "image_generation"}]}, "image_generation"),
        ({"response": {"tools": [{"type": "image_generation"}]}}, "image_generation"),
        ({"testing_criteria": [{"type": "score_model"}]}, "score_model"),
        ({"grader": {"graders": {"metadata": {"type": "label_model"}}}}, "label_model"),
        ({"moderation": {}}, "moderation"),
        ({"session": {"audio": {"input": {"transcription": {"language": "en"}}}}}, "transcription"),
        ({"session": {"input_audio_transcription": {}}}, "input_audio_transcription"),
        ({"output_format": "svg", "svg": {"reasoning": {}}}, "svg.model"),
        ({"route": "fallback"}, "route"),
        ({"preset": "p", "models": ["gpt-4o-mini"]}, "preset"),
        ({"tools": [{"type": "x:subagent"}]}, "limits.tools"),
        ({"tools": [{"type": "image_generation_2027_01_01"}]}, "limits.tools"),
        ({"tools": [{"type": "image_generation_2027_01_01", "model": "a"}]}, None),
        (
            {"tools": [{"type": "function"}, {"type": "web_search_2025_08_26"}, {"type": "computer_use_preview"}]},
            None,
        ),
        ({"tools": [{"type": "image_generation", "model": "a"}], "tool_choice": {"type": "image_generation"}}, None),
        ({"tool_choice": {"tools": [{"type": "image_generation"}]}}, None),
        ({"moderation": "low", "output_format": "png", "svg": {}}, None),
        ({"output_format": "svg", "svg": {"model": "a"}}, None),
        ({"route": "fallback", "models": ["a"]}, None),
    ],
)
def test_no_model_is_left_to_the_upstreams_choice_under_a_model_rule(members, told):
    require_named(NO_RULES, reading(**members))
    if told is None:
        require_named(MINI, reading(**members))
        return
    with pytest.raises(errors.ModelUndetermined, match=re.escape(told)):
        require_named(MINI, reading(**members))


def test_a_tool_of_a_routers_own_passes_where_the_rules_name_it():
    rules = read_rules({"models": ["a"], "limits": {"tools": ["x_search"]}})

    require_named(rules, reading(tools=[{"type": "x_search"}]))


def test_a_refusal_names_the_models_that_are_allowed():
    rules = read_rules({"models": [f"m{number}" for number in range(12)]})

    with pytest.raises(errors.ModelNotAllowed, match=r"It may use m0, m1, .*m9 and 2 more\.") as caught:
        check_models(rules, CHAT, models(CHAT, model="x"))

    assert caught.value.param == "model"
    assert "x" not in str(caught.value)


def test_a_model_that_token_and_project_list_is_named_once():
    both = narrower(read_rules({"models": ["gpt-4o-mini"]}), read_rules({"models": ["gpt-4o-mini"]}))

    with pytest.raises(errors.ModelNotAllowed, match=r"It may use gpt-4o-mini\.$"):
        check_models(both, CHAT, models(CHAT, model="x"))


def test_an_endpoints_own_model_must_be_allowed_where_none_is_named():
    moderations = find_route("POST", "/v1/moderations")

    check_models(read_rules({"models": ["omni-moderation-latest"]}), moderations, models(moderations))
    with pytest.raises(errors.ModelNotAllowed):
        check_models(MINI, moderations, models(moderations))


# What passes with a model rule alone: endpoints that rules must name are not among them, and these say no model.
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_without_a_model_only_what_asks_no_model_passes_a_model_rule(route):
    found = models_of(route, "/v1/models/gpt-4o", "", NOTHING)

    if route.model == "none":
        check_models(MINI, route, found)
        return
    with pytest.raises((errors.ModelUndetermined, errors.ModelNotAllowed)):
        check_models(MINI, route, found)


@pytest.mark.parametrize(
    ("method", "path", "members", "is_told"),
    [
        ("POST", "/v1/threads/runs", {"model": "m"}, True),
        ("POST", "/v1/threads/runs", {}, False),
        ("POST", "/v1/threads/runs", {"x": {"model": "m"}}, False),
        ("POST", "/v1/threads/t/runs", {"assistant_id": "a", "x": {"model": "m"}}, False),
        ("POST", "/v1/realtime/client_secrets", {"session": {"model": "m"}}, True),
        ("POST", "/v1/realtime/client_secrets", {"session": {"type": "realtime"}, "x": {"model": "m"}}, False),
        ("POST", "/v1/realtime/client_secrets", {"session": {"type": "realtime", **HEARD}}, False),
        ("POST", "/v1/realtime/client_secrets", {"session": {"type": "transcription", **HEARD}}, True),
        ("POST", "/v1/realtime/client_secrets", {"session": {"type": "transcription", "model": "m"}}, False),
        ("POST", "/v1/realtime/translations/client_secrets", {"session": {"model": "m"}}, True),
        ("POST", "/v1/realtime/translations/client_secrets", {"session": HEARD}, False),
        ("POST", "/v1/realtime/translations/calls", {"session": {"model": "m"}}, True),
        ("POST", "/v1/realtime/client_secrets", {"model": "m", "session": {"type": "realtime"}}, False),
        ("POST", "/v1/realtime/transcription_sessions", {"model": "m"}, False),
        ("POST", "/v1/fine_tuning/alpha/graders/run", {"model": "m"}, False),
        ("POST", "/v1/realtime/transcription_sessions", {"input_audio_transcription": {"model": "m"}}, True),
        ("POST", "/v1/realtime/sessions", {"input_audio_transcription": {"model": "m"}}, False),
        ("POST", "/v1/fine_tuning/alpha/graders/run", {"grader": {"model": "m"}}, True),
        ("POST", "/v1/evals", {"x": {"model": "m"}}, False),
        ("POST", "/v1/threads/t/runs/r/submit_tool_outputs", {"model": "m"}, False),
        ("POST", "/v1/batches", {"model": "m"}, False),
        ("POST", "/v1/fine_tuning/jobs/j/resume", {}, False),
        ("POST", "/v1/evals", {"testing_criteria": [{"model": "m"}]}, True),
        ("POST", "/v1/evals/e/runs", {"data_source": {"model": "m"}}, False),
        ("POST", "/v1/videos/v/remix", {}, False),
        ("POST", "/v1/videos", {}, True),
        ("POST", "/v1/conversations", {}, True),
    ],
)
def test_a_model_that_stands_in_what_was_stored_is_not_told(method, path, members, is_told):
    route = find_route(method, path)

    if is_told:
        require_model(route, models(route, **members))
        return
    with pytest.raises(errors.ModelUndetermined):
        require_model(route, models(route, **members))


# Parameters.

PARAMETERS = [
    (limits(max_output_tokens=10), CHAT, {"max_tokens": 10}, None),
    (limits(max_output_tokens=10), CHAT, {"max_tokens": 11}, "max_tokens"),
    (limits(max_output_tokens=10), CHAT, {"max_tokens": 5, "max_completion_tokens": 11}, "max_completion_tokens"),
    (limits(max_output_tokens=10), RESPONSES, {"max_output_tokens": 11}, "max_output_tokens"),
    (limits(max_output_tokens=10), RESPONSES, {"max_tokens": 11}, "max_tokens"),
    (limits(max_output_tokens=10), CHAT, {"max_tokens": "5"}, "max_tokens"),
    (limits(max_output_tokens=10), CHAT, {"max_tokens": True}, "max_tokens"),
    (limits(max_output_tokens=10), CHAT, {"max_tokens": None}, None),
    (limits(max_output_tokens=10), CHAT, {"max_tokens": 10.5}, "max_tokens"),
    (limits(max_output_tokens=10), CHAT, {"max_tokens": [5]}, "max_tokens"),
    (limits(max_output_tokens=10), REALTIME, {"max_response_output_tokens": "inf"}, "max_response_output_tokens"),
    (limits(max_output_tokens=10), CHAT, {}, None),
    (limits(require_max_output=True), CHAT, {}, "max_completion_tokens"),
    (limits(require_max_output=True), CHAT, {"max_tokens": None}, "max_completion_tokens"),
    (limits(require_max_output=True), CHAT, {"max_tokens": 5}, None),
    (limits(require_max_output=True), COMPLETIONS, {}, "max_tokens"),
    (limits(require_max_output=True), RESPONSES, {"max_tokens": 5}, "max_output_tokens"),
    (limits(require_max_output=True), EMBEDDINGS, {}, None),
    (limits(require_max_output=True), COMPACT, {"model": "m"}, None),
    (limits(require_max_output=True), OUTPUTS, {"tool_outputs": []}, None),
    (limits(max_output_tokens=10), OUTPUTS, {"tool_outputs": []}, None),
    (limits(max_output_tokens=10), SECRETS, {"session": {"max_output_tokens": 10}}, None),
    (limits(max_output_tokens=10), SECRETS, {"session": {"max_output_tokens": 11}}, "max_output_tokens"),
    (limits(max_output_tokens=10), SECRETS, {"session": {"max_output_tokens": "inf"}}, "max_output_tokens"),
    (limits(max_output_tokens=10), SESSIONS, {"max_response_output_tokens": 11}, "max_response_output_tokens"),
    (limits(max_output_tokens=10), CHAT, {"fallbacks": [{"model": "m", "max_tokens": 11}]}, "max_tokens"),
    (limits(max_output_tokens=10), GRADER, {"grader": {"sampling_params": {"max_completions_tokens": 11}}},
     "max_completions_tokens"),
    (limits(require_max_output=True), SECRETS, {"session": {"max_output_tokens": 10}}, None),
    (limits(require_max_output=True), SECRETS, {"max_output_tokens": 10}, "max_output_tokens"),
    (limits(require_max_output=True), SECRETS, {"session": {"max_output_tokens": "inf"}}, "max_output_tokens"),
    (limits(require_max_output=True), SECRETS, {"session": {"type": "transcription"}}, None),
    (limits(require_max_output=True), TRANSLATIONS, {"session": {}}, None),
    (limits(require_max_output=True), SESSIONS, {}, "max_output_tokens"),
    (limits(require_max_output=True), SESSIONS, {"max_response_output_tokens": 10}, None),
    (limits(n=2), CHAT, {"n": 2}, None),
    (limits(n=2), CHAT, {"n": 3}, "n"),
    (limits(n=2), COMPLETIONS, {"best_of": 3}, "best_of"),
    (limits(n=2), COMPLETIONS, {"prompt": ["a", "b"]}, None),
    (limits(n=2), COMPLETIONS, {"prompt": [1, 2, 3], "n": 2}, None),
    (limits(n=2), COMPLETIONS, {"prompt": ["a", "b", "c"]}, "prompt"),
    (limits(n=3), COMPLETIONS, {"prompt": [[1], [2]], "n": 2}, "prompt"),
    (limits(n=3), COMPLETIONS, {"prompt": ["a", "b"], "best_of": 2}, "prompt"),
    (limits(service_tier=["flex"]), CHAT, {"service_tier": "flex"}, None),
    (limits(service_tier=["flex"]), CHAT, {"service_tier": "priority"}, "service_tier"),
    (limits(service_tier=["flex"]), CHAT, {}, "service_tier"),
    (limits(service_tier=["flex"]), CHAT, {"service_tier": "auto"}, "service_tier"),
    (limits(service_tier=["flex"]), CHAT, {"service_tier": ["flex"]}, "service_tier"),
    (limits(service_tier=["flex"]), EMBEDDINGS, {}, None),
    (limits(service_tier=["default"]), CHAT, {}, None),
    (limits(service_tier=["default"]), CHAT, {"service_tier": "auto"}, None),
    (limits(service_tier=["auto"]), CHAT, {}, None),
    (limits(tools=["function"]), CHAT, {"tools": [{"type": "function"}]}, None),
    (limits(tools=["function"]), CHAT, {"functions": [{"name": "f"}]}, None),
    (limits(tools=["function"]), CHAT, {"tools": [{"type": "function"}, {"type": "mcp"}]}, "tools"),
    (limits(tools=["function"]), CHAT, {"tools": [{}]}, "tools"),
    (limits(tools=["function"]), CHAT, {"tools": "all"}, "tools"),
    (limits(tools=["function"]), CHAT, {"tools": None}, None),
    (limits(tools=["function"]), CHAT, {"web_search_options": {}}, "tools"),
    (limits(tools=["function"]), CHAT, {"session": {"tools": [{"type": "mcp"}]}}, "tools"),
    (limits(tools=["function"]), CHAT, {"tools": [{"type": "function", "tools": [{"type": "mcp"}]}]}, "tools"),
    (limits(tools=["function"]), RESPONSES, {"prompt": {"id": "p"}}, "prompt"),
    (limits(tools=["function"]), CLIENT_SECRET, {"session": {"prompt": {"id": "p"}}}, "prompt"),
    (limits(tools=["function"]), CLIENT_SECRET, {"session": {"tools": [{"type": "function"}]}}, None),
    (limits(tools=["function"]), RUN, {"assistant_id": "a"}, "tools"),
    (limits(tools=["function"]), RUN, {"assistant_id": "a", "tools": []}, "tools"),
    (limits(tools=["function"]), RUN, {"assistant_id": "a", "tools": [{"type": "function"}]}, None),
    (limits(n=1), CHAT, {"extra_body": {"n": 5}}, "extra_body"),
    (MINI, CHAT, {"model": "gpt-4o-mini", "extra_body": {"n": 5}}, None),
    (limits(reasoning_effort=["low"]), CHAT, {"output_config": {"effort": "high"}}, "reasoning.effort"),
    (limits(tools=["function"]), CHAT, {"plugins": [{"id": "web"}]}, "tools"),
    (limits(tools=["web"]), CHAT, {"plugins": [{"id": "web"}]}, None),
    (limits(tools=["function"]), CHAT, {"model": "gpt-4o:online"}, "tools"),
    (limits(tools=["function"]), RESPONSES, {"model": "gpt-4o:online"}, "tools"),
    (limits(tools=["function"]), RESPONSES, {"multi_agent": {"enabled": True}}, "tools"),
    (limits(tools=["function"]), RESPONSES, {"multi_agent": {"enabled": False}}, None),
    (limits(tools=["multi_agent"]), RESPONSES, {"multi_agent": {"max_concurrent_subagents": 9}}, None),
    (limits(tools=["function"]), CHAT, {"model": "gpt-4o-search-preview"}, "tools"),
    (limits(tools=["web_search"]), CHAT, {"model": "gpt-5-search-api"}, None),
    (limits(tools=[]), EMBEDDINGS, {"model": "text-search-ada-doc-001"}, None),
    (limits(tools=[]), CHAT, {"tools": [{"type": "function"}]}, "tools"),
    (limits(tools=[]), CHAT, {"tools": []}, None),
    (limits(tools=["web_search"]), CHAT, {"tools": [{"type": "web_search_2025_08_26"}]}, None),
    (limits(tools=["web_search"]), CHAT, {"tools": [{"type": "web_search_preview"}]}, "tools"),
    (limits(background=False), RESPONSES, {"background": True}, "background"),
    (limits(background=False), RESPONSES, {"background": "yes"}, "background"),
    (limits(background=False), RESPONSES, {"background": False}, None),
    (limits(background=False), IMAGES, {"background": "transparent"}, None),
    (limits(store=False), CHAT, {"store": True}, "store"),
    (limits(store=False), CHAT, {}, None),
    (limits(store=False), RESPONSES, {}, "store"),
    (limits(store=False), RESPONSES, {"store": None}, "store"),
    (limits(store=False), RESPONSES, {"store": False}, None),
    (limits(store=False), RESPONSES, {"store": False, "conversation": "c"}, "conversation"),
    (limits(reasoning_effort=["low"]), CHAT, {"reasoning_effort": "low"}, None),
    (limits(reasoning_effort=["low"]), CHAT, {"reasoning_effort": "high"}, "reasoning_effort"),
    (limits(reasoning_effort=["low"]), RESPONSES, {"reasoning": {"effort": "high"}}, "reasoning.effort"),
    (limits(reasoning_effort=["low"]), RESPONSES, {"reasoning": {"effort": ["low"]}}, "reasoning.effort"),
    (limits(reasoning_effort=["low"]), RESPONSES, {"reasoning": "high"}, None),
    (limits(reasoning_effort=["low"]), CHAT, {}, None),
    (limits(reasoning_effort=["low"]), RESPONSES, {"input": [CHANGE]}, "reasoning.effort"),
    (limits(reasoning_effort=["high"]), RESPONSES, {"input": [CHANGE]}, None),
    (limits(reasoning_effort=["low"]), RESPONSES, {"tools": [{"svg": CHANGE}]}, "reasoning.effort"),
    (limits(reasoning_effort=["low"]), IMAGES, {"svg": {"model": "m", **CHANGE}}, "reasoning.effort"),
    (limits(reasoning_effort=["low"]), CLIENT_SECRET, {"session": CHANGE}, "reasoning.effort"),
    (limits(reasoning_effort=["low"]), GRADER, {"grader": {"sampling_params": {"reasoning_effort": "high"}}},
     "reasoning_effort"),
    (limits(reasoning_effort=["low"]), RESPONSES, {"prompt": {"id": "p"}}, "reasoning.effort"),
    (limits(reasoning_effort=["low"]), RESPONSES, {"prompt": {"id": "p"}, "reasoning": {"effort": "low"}}, None),
    (limits(reasoning_effort=["low"]), RUN, {"assistant_id": "a"}, "reasoning_effort"),
    (limits(reasoning_effort=["low"]), RUN, {"assistant_id": "a", "reasoning_effort": "low"}, None),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "route", "members", "param"), PARAMETERS)
def test_parameters_keep_to_their_limits(rules, route, members, param):
    if param is None:
        check_parameters(rules, route, reading(**members), default_tier=None)
        return
    with pytest.raises(errors.ParameterNotAllowed) as caught:
        check_parameters(rules, route, reading(**members), default_tier=None)

    assert caught.value.param == param


def test_no_rules_look_at_no_parameter():
    check_parameters(NO_RULES, CHAT, reading(n=99, background=True, tools="x"), default_tier=None)


def test_a_request_without_a_tier_gets_the_projects():
    rules = limits(service_tier=["priority"])

    check_parameters(rules, CHAT, reading(), default_tier="priority")
    with pytest.raises(errors.ParameterNotAllowed):
        check_parameters(rules, CHAT, reading(), default_tier="flex")


@pytest.mark.parametrize(
    ("tier", "passes"), [(None, True), ("auto", True), ("default", False), ("flex", False), ("priority", False)]
)
def test_a_tier_must_be_allowed_by_both_of_two_rules(tier, passes):
    both = narrower(limits(service_tier=["auto", "flex"]), limits(service_tier=["default"]))

    if passes:
        check_parameters(both, CHAT, reading(service_tier=tier), default_tier=None)
        return
    with pytest.raises(errors.ParameterNotAllowed):
        check_parameters(both, CHAT, reading(service_tier=tier), default_tier=None)


def test_tools_are_found_wherever_they_are_named():
    members = reading(tools=[{"type": "a"}], session={"tools": [{"type": "b", "tools": [{"type": "c"}]}]}).members

    assert sorted(tool_types(members)) == ["a", "b", "c"]


def test_what_a_schema_calls_tools_is_none():
    tool = {"type": "function", "function": {"parameters": {"properties": {"tools": {"type": "array"}}}}}

    assert list(tool_types(reading(tools=[tool]).members)) == ["function"]


# Budgets.


@pytest.mark.parametrize(
    ("method", "path", "members", "refused"),
    [
        ("POST", "/v1/batches", {}, errors.ModelNotPriced),
        ("POST", "/v1/fine_tuning/jobs", {}, errors.ModelNotPriced),
        ("POST", "/v1/vector_stores", {}, errors.ModelNotPriced),
        ("POST", "/v1/containers", {}, errors.ModelNotPriced),
        ("POST", "/v1/evals/e/runs", {}, errors.ModelNotPriced),
        ("POST", "/v1/realtime/client_secrets", {}, errors.ModelNotPriced),
        ("POST", "/v1/realtime/translations/client_secrets", {}, errors.ModelNotPriced),
        ("POST", "/v1/realtime/translations/calls", {}, errors.ModelNotPriced),
        ("GET", "/v1/realtime/translations", {}, errors.ModelNotPriced),
        ("POST", "/v1/responses", {"background": True}, errors.ParameterNotAllowed),
        ("POST", "/v1/threads/runs", {}, errors.ParameterNotAllowed),
        ("POST", "/v1/threads/runs", {"stream": True}, None),
        ("POST", "/v1/responses", {"background": False}, None),
        ("POST", "/v1/images/generations", {"background": "transparent"}, None),
        ("POST", "/v1/images/edits", {"background": "auto"}, None),
        ("POST", "/v1/chat/completions", {"Models": ["m"]}, errors.ParameterNotAllowed),
        ("POST", "/v1/chat/completions", {"route": "fallback"}, errors.ParameterNotAllowed),
        ("POST", "/v1/chat/completions", {"model": "m", "models": []}, None),
        ("GET", "/v1/batches", {}, None),
        ("POST", "/v1/files", {}, None),
    ],
)
def test_what_never_tells_its_cost_is_refused_under_a_budget(method, path, members, refused):
    route = find_route(method, path)

    if refused is None:
        require_metered(route, reading(**members))
        return
    with pytest.raises(refused, match="budget"):
        require_metered(route, reading(**members))
