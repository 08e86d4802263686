"""Rules as operators write them, and what they are told when they err."""

import pytest

from llmproxy.limits.model_names import ModelNames
from llmproxy.limits.routes import PRESETS
from llmproxy.limits.rules import NO_RULES
from llmproxy.limits.rules_json import BadRules, read_rules

EXAMPLE = {
    "models": ["gpt-5", "gpt-6.1-*", "text-embedding-3-*"],
    "endpoints": ["chat", "responses", "embeddings"],
    "addresses": ["10.0.0.0/8", "2001:db8::/32"],
    "concurrency": 8,
    "unpriced": "refuse",
    "mode": "enforce",
    "limits": {
        "max_output_tokens": 4096,
        "require_max_output": False,
        "n": 1,
        "service_tier": ["default", "flex"],
        "tools": ["function"],
        "background": False,
        "store": False,
        "reasoning_effort": ["low", "medium"],
        "max_body_bytes": 1_048_576,
    },
}


def test_every_rule_is_read():
    rules = read_rules(EXAMPLE)

    assert rules.models == (ModelNames(EXAMPLE["models"]),)
    assert rules.endpoints == set(EXAMPLE["endpoints"])
    assert rules.addresses[0].names == ("10.0.0.0/8", "2001:db8::/32")
    assert (rules.concurrency, rules.unpriced, rules.mode) == (8, "refuse", "enforce")
    assert (rules.max_output_tokens, rules.require_max_output, rules.n) == (4096, False, 1)
    assert (rules.service_tier, rules.tools) == (({"default", "flex"},), {"function"})
    assert (rules.background, rules.store, rules.max_body_bytes) == (False, False, 1_048_576)
    assert rules.reasoning_effort == {"low", "medium"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_stands_for_endpoints_that_can_be_named(preset):
    assert read_rules({"preset": preset}) == read_rules({"endpoints": sorted(PRESETS[preset])})


def test_an_empty_object_is_no_rule():
    assert read_rules({}) == read_rules({"limits": {}}) == NO_RULES


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ([], "rules must be an object"),
        ({"model": ["x"]}, "model is no rule; did you mean models?"),
        ({"limits": {"max_tokens": 5}}, "limits.max_tokens is no rule"),
        ({"limits": []}, "limits must be an object"),
        ({"models": "gpt-5"}, "models must be a list of 1 to 100 texts"),
        ({"models": []}, "models must be a list of 1 to 100 texts"),
        ({"models": ["x"] * 101}, "models must be a list of 1 to 100 texts"),
        ({"models": ["gpt-5", "a b"]}, "models entry 2 must be a model's name"),
        ({"preset": "all"}, "preset must be one of inference, stateful"),
        ({"preset": "inference", "endpoints": ["chat"]}, "preset cannot stand beside endpoints"),
        ({"endpoints": ["chats"]}, "endpoints entry 1 must be one of chat, completions"),
        ({"addresses": ["10.1.0.0/8"]}, r"addresses entry 1 has bits beyond its prefix; did you mean 10.0.0.0/8?"),
        ({"concurrency": 0}, "concurrency must be a whole number from 1 to 10000"),
        ({"concurrency": True}, "concurrency must be a whole number"),
        ({"concurrency": 1.0}, "concurrency must be a whole number"),
        ({"concurrency": None}, "concurrency must be a whole number"),
        ({"unpriced": "maybe"}, "unpriced must be one of refuse, allow"),
        ({"mode": "off"}, "mode must be one of enforce, report"),
        ({"limits": {"n": 0}}, "limits.n must be a whole number"),
        ({"limits": {"store": "no"}}, "limits.store must be true or false"),
        ({"limits": {"tools": ["Web"]}}, "limits.tools entry 1 must be a type of tools"),
        ({"limits": {"service_tier": ["cheap"]}}, "limits.service_tier entry 1 must be one of auto, default"),
        ({"limits": {"reasoning_effort": []}}, "limits.reasoning_effort must be a list of 1"),
    ],
)
def test_what_is_wrong_is_told_with_its_field(document, problem):
    with pytest.raises(BadRules) as caught:
        read_rules(document)

    assert str(caught.value).startswith(problem)
    assert len(caught.value.problems) == 1


def test_every_fault_is_told():
    with pytest.raises(BadRules) as caught:
        read_rules({"models": 5, "mode": "x", "limits": {"n": 0, "tools": 1}})

    assert list(caught.value.problems) == ["models", "mode", "limits.n", "limits.tools"]


def test_no_tool_at_all_is_a_rule():
    assert read_rules({"limits": {"tools": []}}).tools == frozenset()
