"""Names and globs of models."""

import random
from fnmatch import fnmatchcase

import pytest

from llmproxy.limits.model_names import MOST_CHARS, ModelNames, checked_name


@pytest.mark.parametrize(
    ("rule", "model", "allowed"),
    [
        ("gpt-5", "gpt-5", True),
        ("gpt-5", "gpt-5-2025-08-07", True),
        ("gpt-5", "gpt-5-mini", False),
        ("gpt-5", "gpt-5-2025-13-07", False),
        ("gpt-5", "gpt-5-2025-08-07-mini", False),
        ("gpt-5", "ft:gpt-5:acme::1", False),
        ("gpt-5", "GPT-5", False),
        ("gpt-5", "gpt-5 ", False),
        ("gpt-5", "gpt-5\n", False),
        ("gpt-5", "gpt-5\0", False),
        ("gpt-5", "gpt-5.1", False),
        ("gpt-5", "", False),
        ("gpt-5.1", "gpt-5x1", False),
        ("gpt-5-2025-08-07", "gpt-5", False),
        ("gpt-6.1-*", "gpt-6.1-sol", True),
        ("gpt-6.1-*", "gpt-6.1-", True),
        ("gpt-6.1-*", "gpt-6.1", False),
        ("gpt-6.1-*", "gpt-6.1-sol x", False),
        ("gpt-6.1-*", "gpt-6.1-sol\0", False),
        ("*", "anything", True),
        ("*", "", True),
        ("*", "söl", False),
        ("*-mini", "gpt-5-mini", True),
        ("*-mini", "gpt-5-mini-2025-08-07", False),
        ("ft:gpt-4.1*:acme:*", "ft:gpt-4.1-2025-04-14:acme::Bq1", True),
        ("a+b", "aab", False),
    ],
)
def test_a_name_allows_itself_and_its_snapshots_and_a_glob_what_it_matches(rule, model, allowed):
    assert ModelNames([rule]).allow(model) is allowed


@pytest.mark.parametrize(
    ("rule", "model", "covered"),
    [
        ("gpt-5", "gpt-5", True),
        ("gpt-5", "gpt-5-2025-08-07", True),
        ("gpt-5", "GPT-5", True),
        ("gpt-5", " gpt-5\n", True),
        ("gpt-5", "ft:gpt-5:acme::1", True),
        ("gpt-5", "ft:gpt-5-2025-08-07:acme:\n:1", True),
        ("gpt-5", "FT:gpt-5", True),
        ("gpt-5", "ft:gpt-5-mini:acme::1", False),
        ("gpt-5", "gpt-5-mini", False),
        ("gpt-5", "gpt-5:acme", False),
        ("gpt-5", "", False),
        ("gpt-5", "x" * (MOST_CHARS + 1), True),
        ("gpt-5-2025-08-07", "gpt-5", True),
        ("gpt-5-2025-08-07", "gpt-5-2025-08-08", False),
        ("*-mini", "gpt-5-mini-2025-08-07", True),
        ("*-mini", "ft:gpt-5-mini:acme::1", True),
        ("*-mini", "gpt-5", False),
        ("*", "söl", True),
        ("ft:gpt-4.1*:acme:*", "ft:gpt-4.1-2025-04-14:acme::Bq1", True),
        ("ft:gpt-4.1*:acme:*", "ft:gpt-4.1-2025-04-14:other::Bq1", False),
    ],
)
def test_a_name_covers_every_spelling_of_what_it_names(rule, model, covered):
    assert ModelNames([rule]).cover(model) is covered


def test_no_name_covers_nothing():
    assert not ModelNames([]).cover("ft:gpt-5")


def test_any_entry_of_a_list_allows():
    names = ModelNames(["gpt-5", "text-embedding-3-*"])

    assert names.allow("text-embedding-3-small")
    assert names.allow("gpt-5")
    assert not names.allow("gpt-4")
    assert not ModelNames([]).allow("")


def test_a_name_of_any_length_is_answered_at_once():
    names = ModelNames(["*a*a*a*a"])

    assert not names.allow("a" * 10**6)
    assert names.allow("a" * MOST_CHARS)
    assert not names.allow("a" * (MOST_CHARS - 1) + "b")


@pytest.mark.parametrize("value", ["", "a b", "a,b", "ä", "a\n", 'a"', "x" * 201, "*****", 5, None])
def test_what_is_no_name_is_refused(value):
    with pytest.raises(ValueError, match="must"):
        checked_name(value)


@pytest.mark.parametrize("value", ["gpt-5", "ft:gpt-4.1-2025-04-14:acme::Bq1", "meta/llama-3~x", "*"])
def test_a_name_is_taken(value):
    assert checked_name(value) == value


@pytest.mark.parametrize("glob", ["*-*-*-*", "ft:*:*:*:*", "*a*b*", "a**b*c", "*-*"])
def test_a_glob_matches_as_fnmatch_does(glob):
    """Names of few letters, in which each piece of a glob may stand in many places."""
    drawn = random.Random(glob)
    names = ["".join(drawn.choices("ft:ab-c", k=drawn.randrange(1, 12))) for _ in range(2000)]

    assert [ModelNames([glob]).allow(name) for name in names] == [fnmatchcase(name, glob) for name in names]


def test_no_name_keeps_a_glob_busy():
    """Each took seconds, by trying all places of all asterisks."""
    assert not ModelNames(["*-*-*-*"]).allow("-" * 199 + " ")
    assert not ModelNames(["ft:*:*:*:*"]).allow("ft:" + ":" * 190 + " ")
    assert not ModelNames(["*-*-*-*x"]).cover("-" * 199)


def test_long_names_are_not_kept():
    names = ModelNames(["gpt-5"])

    assert not names.allow("x" * 250_000) and names.cover("x" * 250_000)
    assert names._allows.cache_info().currsize == names._covers.cache_info().currsize == 0
