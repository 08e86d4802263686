"""Operators' prices: what is read from the file, and what is said of a file that cannot be."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.limits.price_file import BadPrices, read_overlay
from llmproxy.limits.prices import Overlay, Prices, Sheet

MILLION = 10**6


def test_rows_and_fees_are_read():
    overlay = read_overlay(
        """
        [tools]
        web_search = 0.02

        [model."gpt-5"]
        in = 1
        long = { over = 128_000, in = 2 }
        batch = { in = 0.5, long = { in = 1 } }
        date = 2026-11-26

        [project."edge models".model."llama3"]
        in = 0.10
        """
    )

    assert overlay.tools == {"web_search": 2 * 10**10}
    assert overlay.projects == {"edge models": {"llama3": {"in": 100_000}}}
    assert overlay.models == {
        "gpt-5": {
            "in": MILLION,
            "long": {"over": 128_000, "in": 2 * MILLION},
            "batch": {"in": MILLION // 2, "long": {"in": MILLION}},
            "date": "2026-11-26",
        }
    }


def test_an_empty_file_says_nothing():
    assert read_overlay("# later\n") == Overlay()


def test_a_price_may_be_free():
    assert read_overlay("model.m = {in = 0, out = 0.0}").models == {"m": {"in": 0, "out": 0}}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('in = "cheap"', "in must be an amount in dollars, such as 0.10"),
        ("in = true", "in must be an amount in dollars, such as 0.10"),
        ("in = 2026-11-26", "in must be an amount in dollars, such as 0.10"),
        ("in = -0.1", "in must lie between 0 and 1,000,000 dollars"),
        ("in = 1000001", "in must lie between 0 and 1,000,000 dollars"),
        ("in = nan", "in must lie between 0 and 1,000,000 dollars"),
        ("in = inf", "in must lie between 0 and 1,000,000 dollars"),
        ("in = 1e-999999999", "in has more decimals than money is counted in"),
        ("in = 0.0000001", "in has more decimals than money is counted in"),
        ("inn = 1", "inn is no name of a price; did you mean in?"),
        ("input_price = 1", "input_price is no name of a price"),
        ("flex.out = -1", "flex: out must lie between 0 and 1,000,000 dollars"),
        ("flex = 1", "flex must be a table"),
        ("flex.call = 1", "flex: call is no name of a price"),
        ("turbo.in = 1", "turbo is no name of a price"),
        ("batch.long.over = 5", "batch: long: over is no name of a price"),
        ("long.in = 1", "long needs over, the tokens of input above which it holds"),
        ("flex.long.in = 1", "long needs over, the tokens of input above which it holds"),
        ("long.over = 0", "long: over must be a whole number above 0"),
        ("max_in = 1.5", "max_in must be a whole number above 0"),
        ("max_out = true", "max_out must be a whole number above 0"),
        ("reasons = 1", "reasons must be true or false"),
        ("source = ' '", "source must be a text"),
        ("date = 'soon'", "date must be a day, such as 2026-11-26"),
        ("tools.web_search = 'x'", "tools: web_search must be an amount in dollars, such as 0.10"),
        ("image.low.'1x1' = 'x'", "image: low: 1x1 must be an amount in dollars, such as 0.10"),
        ("second.'1x1' = -1", "second: 1x1 must lie between 0 and 1,000,000 dollars"),
    ],
)
def test_a_wrong_value_is_named_with_its_row(row, problem):
    with pytest.raises(BadPrices) as caught:
        read_overlay(f"[model.m]\n{row}\n[project.p.model.m]\n{row}")

    assert caught.value.problems == [f'model "m": {problem}', f'project "p", model "m": {problem}']


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[model", "not TOML: Expected ']' at the end of a table declaration (at end of document)"),
        ("in = 1", 'in is none of "model", "project" and "tools"'),
        ("[modell.m]\nin = 1", 'modell is none of "model", "project" and "tools"'),
        ("model = 1", "model must have a table for each name"),
        ("[model]\nm = 1", 'model "m" must be a table'),
        (
            "[model.gpt-4.1]\nin = 1",
            'model "gpt-4": 1 is no name of a price; a name with dots needs quotes, such as "gpt-4.1"',
        ),
        ("[model.m]", 'model "m" says nothing'),
        ("project = 1", "project must have a table for each name"),
        ("[project.p]\nin = 1", 'project "p": in is not model'),
        ("[project.p]\nmodel = 1", 'project "p", model must have a table for each name'),
        ("tools = 1", "tools must be a table"),
        ("x = " + "[" * 3000 + "]" * 3000, "nested too deeply"),
    ],
)
def test_a_wrong_shape_is_named(text, problem):
    with pytest.raises(BadPrices) as caught:
        read_overlay(text)

    assert caught.value.problems == [problem]


def test_a_byte_order_mark_is_no_fault():
    assert read_overlay("\ufeff[model.m]\nin = 1") == read_overlay("[model.m]\nin = 1")


def test_every_fault_is_told_at_once():
    with pytest.raises(BadPrices) as caught:
        read_overlay("x = 1\n[model.a]\nin = -1\nout = 'x'\n[project.p.model.b]\nmax_in = 0\n[tools]\nt = nan")

    assert len(caught.value.problems) == 5


@given(st.text())
def test_any_text_is_prices_or_is_refused(text):
    with suppress(BadPrices):
        assert isinstance(read_overlay(text), Overlay)


VALUE = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "x"]),
    lambda inner: st.dictionaries(st.sampled_from(["in", "out", "long", "over", "flex", "image", "low", "*"]), inner),
    max_leaves=8,
)


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{name}" = {toml(inner)}' for name, inner in value.items()) + "}"
    if isinstance(value, bool | str):
        return str(value).lower() if isinstance(value, bool) else f'"{value}"'
    return repr(value).replace("e+", "e")


@given(VALUE)
def test_any_row_is_read_or_is_refused(value):
    with suppress(BadPrices):
        prices = Prices(Sheet({}, {}, "", ""), read_overlay(f"[model]\nm = {toml(value)}"))

        assert prices.find("m").model == "m"
