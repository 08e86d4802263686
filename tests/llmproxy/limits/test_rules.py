"""Which rules are in force, and what they allow."""

import pytest

from llmproxy.limits.routes import DEFAULT_GROUPS, find_route
from llmproxy.limits.rules import NO_RULES, in_force, narrower
from llmproxy.limits.rules_json import read_rules

CHAT, FILES = find_route("POST", "/v1/chat/completions"), find_route("POST", "/v1/files")


def rules(**document):
    return read_rules(document)


@pytest.mark.parametrize(
    ("field", "one", "other", "both"),
    [
        ("concurrency", 8, 4, 4),
        ("endpoints", ["chat", "files"], ["files", "audio"], {"files"}),
        ("endpoints", ["chat"], ["files"], set()),
        ("endpoints", ["chat", "files"], ["POST chat/completions"], {"POST chat/completions"}),
        ("endpoints", ["realtime/calls"], ["POST realtime/calls"], {"POST realtime/calls"}),
        ("endpoints", ["models"], ["DELETE models/*"], set()),
        ("unpriced", "allow", "refuse", "refuse"),
    ],
)
def test_the_narrower_of_two_rules_holds(field, one, other, both):
    assert getattr(narrower(rules(**{field: one}), rules(**{field: other})), field) == both
    assert getattr(narrower(rules(**{field: other}), rules(**{field: one})), field) == both


@pytest.mark.parametrize(
    ("field", "one", "other", "both"),
    [
        ("max_output_tokens", 100, 50, 50),
        ("require_max_output", True, False, True),
        ("n", 3, 2, 2),
        ("tools", ["function"], [], set()),
        ("tools", ["web_search"], ["web_search_2025_08_26"], {"web_search_2025_08_26"}),
        ("background", False, True, False),
        ("store", True, False, False),
        ("reasoning_effort", ["low", "high"], ["low", "medium"], {"low"}),
        ("max_body_bytes", 100, 200, 100),
    ],
)
def test_the_narrower_of_two_limits_holds(field, one, other, both):
    assert getattr(narrower(rules(limits={field: one}), rules(limits={field: other})), field) == both
    assert getattr(narrower(rules(limits={field: other}), rules(limits={field: one})), field) == both


FULL = rules(
    models=["gpt-5"],
    endpoints=["chat"],
    addresses=["10.0.0.0/8"],
    concurrency=2,
    unpriced="allow",
    limits={
        "max_output_tokens": 5, "require_max_output": True, "n": 1, "service_tier": ["flex"], "tools": ["function"],
        "background": False, "store": False, "reasoning_effort": ["low"], "max_body_bytes": 9,
    },
)  # fmt: skip


def test_a_rule_that_only_one_has_holds():
    assert narrower(FULL, NO_RULES) == narrower(NO_RULES, FULL) == FULL


def test_models_and_addresses_must_be_allowed_by_both():
    both = narrower(
        rules(models=["gpt-*"], addresses=["10.0.0.0/8"]), rules(models=["*-5"], addresses=["10.1.0.0/16"])
    )

    assert [both.allow_model(name) for name in ("gpt-5", "gpt-4", "o-5")] == [True, False, False]
    assert [both.allow_address(name) for name in ("10.1.0.1", "10.2.0.1")] == [True, False]


def test_no_rules_allow_everything():
    assert NO_RULES.allow_model("x")
    assert NO_RULES.allow_address("x")
    assert NO_RULES.allow_endpoint(None)


def test_whoever_has_rules_or_a_meter_may_use_the_default_endpoints_alone():
    assert in_force([rules(models=["x"])], has_meter=False).enforced.endpoints == DEFAULT_GROUPS
    assert in_force([], has_meter=True).enforced.endpoints == DEFAULT_GROUPS
    assert in_force([], has_meter=False).enforced == NO_RULES


def test_named_endpoints_take_the_place_of_the_default_ones():
    enforced = in_force([rules(endpoints=["files"]), rules(models=["x"])], has_meter=True).enforced

    assert enforced.allow_endpoint(FILES)
    assert not enforced.allow_endpoint(CHAT)
    assert not enforced.allow_endpoint(None)


def test_a_route_may_be_named_alone():
    named = rules(endpoints=["POST chat/completions", "realtime/client_secrets"])

    assert named.allow_endpoint(CHAT)
    assert not named.allow_endpoint(find_route("GET", "/v1/chat/completions"))
    assert named.allow_endpoint(find_route("POST", "/v1/realtime/client_secrets"))


def test_rules_in_report_mode_refuse_nobody():
    enforced, reported = in_force([rules(models=["gpt-5"], mode="report")], has_meter=False)

    assert enforced == NO_RULES
    assert reported is not None
    assert not reported.allow_model("gpt-4")
    assert reported.endpoints == DEFAULT_GROUPS


def test_beside_rules_in_report_mode_the_others_refuse_and_what_is_noted_holds_both():
    enforced, reported = in_force([rules(models=["gpt-*"]), rules(models=["*-5"], mode="report")], has_meter=False)

    assert [enforced.allow_model(name) for name in ("gpt-4", "o-5")] == [True, False]
    assert [reported.allow_model(name) for name in ("gpt-4", "gpt-5", "o-5")] == [False, True, False]


def test_where_all_rules_enforce_nothing_is_noted():
    assert in_force([FULL, FULL], has_meter=True).reported is None
