"""docs/prices.md is true: its examples are run, and its tables are those of the code."""

import re
from pathlib import Path

import pytest

from llmproxy.limits.cost import NotPriced, cost
from llmproxy.limits.price_fields import TIERS, TOKENS
from llmproxy.limits.price_file import read_overlay
from llmproxy.limits.price_words import describe
from llmproxy.limits.prices import Prices
from llmproxy.limits.usage import Extras, Usage

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "prices.md").read_text()
FILE, SHOWN = re.findall(r"<!-- executed by [\w/.]+ -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)
MILLION = 10**6


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under these titles."""
    lines = PAGE.partition(f"| {heading} |\n")[2].partition("\n\n")[0].splitlines()[1:]
    return [line.strip("| ").split(" | ") for line in lines]


def counts(cell: str) -> list[int]:
    return [int(count.replace(",", "")) for count in cell.split(", ")]


def test_the_file_does_what_its_comments_say(sheet):
    prices = Prices(sheet, read_overlay(FILE))
    gpt, llama, house = prices.find("gpt-5"), prices.find("llama3", "edge models"), prices.find("house-model")

    assert cost(gpt, Usage(MILLION, 500_000, MILLION)) == 8_550_000
    assert cost(gpt, Usage(MILLION, 0, MILLION), "flex") == 5_625_000
    assert cost(llama, Usage(MILLION, 0, MILLION)) == 300_000
    assert prices.find("llama3", "another") is None
    assert cost(house, Usage(200_000, 0, 100_000)) == 1_000_000
    assert cost(house, Usage(200_001, 0, 100_000)) == 1_700_004
    assert cost(house, Usage(200_001, 0, 100_000), "batch") == 850_002
    assert cost(prices.find("o3"), Usage(extras=Extras(tools={"web_search": 1}))) == 8_000
    with pytest.raises(NotPriced):
        cost(house, Usage(extras=Extras(images=1)))


def test_a_model_is_shown_as_on_the_page(prices):
    assert describe(prices.find("gpt-5.4")) + "\n" == SHOWN


@pytest.mark.parametrize("row", rows("call | tokens in, of them cached, and out | tier | $"), ids=" ".join)
def test_the_costs_on_the_page_are_what_calls_cost(prices, row):
    model, tokens, tier, dollars = row

    assert cost(prices.find(model.strip("`")), Usage(*counts(tokens)), tier.strip("`")) == round(
        float(dollars) * MILLION
    )


def test_every_name_of_a_price_is_explained_and_no_other():
    named = {name for cell, _ in rows("name | dollars for") for name in re.findall("`([^`]+)`", cell)}

    others = {"characters", "minute", "second", "image", "call", "tools", "long"}
    assert named == {*TOKENS, *TIERS, *others}


@pytest.mark.parametrize("name", ["max_in", "max_out", "image_most", "reasons", "source", "date"])
def test_every_fact_is_named(name):
    assert f"`{name}`" in PAGE
