"""The closed list of routes."""

import re

import pytest

from llmproxy.limits.routes import DEFAULT_GROUPS, GROUPS, ROUTES, checked_endpoint, find_route, id_in
from tests.transparency.page import routes

ALONE = {
    "POST realtime/client_secrets", "POST realtime/sessions", "POST realtime/transcription_sessions",
    "POST realtime/calls", "DELETE models/*", "POST chatkit/sessions", "GET fine_tuning/checkpoints/*/permissions",
}  # fmt: skip
ID = "abc-123:x"


def test_every_documented_route_is_known_and_no_other():
    documented = {(route.method, re.sub(r"{\w+}", "*", route.path)[4:]) for route in routes()}
    # WebSockets, which the page lists elsewhere.
    documented |= {("GET", "realtime"), ("GET", "realtime/translations"), ("GET", "responses")}

    assert {(route.method, route.path) for route in ROUTES} == documented


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_a_route_is_found_by_its_path(route):
    assert find_route(route.method, "/v1/" + route.path.replace("*", ID)) == route


@pytest.mark.parametrize(
    "path",
    [
        "/v1/", "/v1", "/v1/rerank", "/v2/chat/completions", "/v1/chat/completions/", "/v1//chat/completions",
        "/v1/Chat/Completions", "/v1/chat%2Fcompletions", "/v1/%63hat/completions", "/v1/chat/completions;x",
        "/v1/models/", "/v1/models/a/b", "/v1/models/a%2Fb", "/v1/models/a%2fb", "/v1/models/a%5Cb",
        "/v1/models/%2e%2e", "/v1/models/.", "/v1/models/a%00", "/v1/files/x/../../realtime/client_secrets",
        "/v1/responses/a/b/c/d/e/f", "", "/v1/models/%20", "/v1/models/a%20", "/v1/chat/completions/;x",
        "/v1/models/%252e%252e", "/v1/models/a%252fb", "/v1/models/a%09", "/v1/models/a%c2%a0", "/v1/models/%ff",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_path_that_is_not_in_the_list_is_not_known(method, path):
    assert find_route(method, path) is None


def test_a_method_that_is_not_in_the_list_is_not_known():
    assert find_route("DELETE", "/v1/chat/completions") is None
    assert find_route("PATCH", "/v1/responses/abc") is None


def test_head_is_get():
    assert find_route("HEAD", "/v1/models") == find_route("GET", "/v1/models")


def test_a_static_path_goes_before_an_id():
    assert find_route("POST", "/v1/responses/input_tokens").path == "responses/input_tokens"
    assert find_route("GET", "/v1/responses/input_tokens").path == "responses/*"
    assert find_route("GET", "/v1/models/*").path == "models/*"
    assert find_route("POST", "/v1/videos/edits").path == "videos/edits"


def test_what_leads_past_the_proxy_or_takes_from_others_is_in_no_group():
    by_name = {route.name: route for route in ROUTES}

    assert {by_name[name].group for name in ALONE} == {""}
    assert all(route.group for route in ROUTES if not route.path.startswith(("realtime/", "chatkit/", *_paths())))


def _paths() -> set[str]:
    return {name.split()[1].rstrip("*") for name in ALONE}


def test_the_default_groups_cost_what_can_be_told():
    assert set(GROUPS) > DEFAULT_GROUPS
    assert {route.kind for route in ROUTES if route.group in DEFAULT_GROUPS}.isdisjoint({"later", "away", "run"})


@pytest.mark.parametrize(
    "value", ["chat", "realtime", "POST realtime/client_secrets", "realtime/client_secrets", "DELETE models/*"]
)
def test_an_endpoint_is_named_by_its_group_or_alone(value):
    assert checked_endpoint(value) == value


@pytest.mark.parametrize("value", ["", "chatt", "/v1/chat/completions", "models/*", "POST models/*", 5, None])
def test_what_names_no_endpoint_is_refused(value):
    with pytest.raises(ValueError, match="must be one of chat"):
        checked_endpoint(value)


def test_the_model_in_a_path_is_decoded():
    assert id_in("/v1/models/ft%3Agpt-5:acme") == "ft:gpt-5:acme"
    assert id_in("/v1/models/%ff") == "\udcff"
