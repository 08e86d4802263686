"""The compiled sheet: every row is whole, has its source, and says what can be true; and it is the overlay's."""

import json
import tomllib
from collections.abc import Iterator
from datetime import date
from decimal import Decimal

import pytest

from llmproxy.limits.price_fields import TIERS, TOKENS
from llmproxy.limits.price_row import NO_PRICE, Rates, Row
from llmproxy.limits.prices import Prices, read_sheet
from tests.llmproxy.limits.conftest import SHEET

DOCUMENT = json.loads(SHEET.read_text(), parse_float=Decimal)
OVERLAY = tomllib.loads((SHEET.parent / "overlay.toml").read_text(), parse_float=Decimal)
MODELS = DOCUMENT["models"]
ROWS = {model: Prices(read_sheet(SHEET.read_text())).find(model) for model in MODELS}

each_model = pytest.mark.parametrize("model", MODELS)


def rates_of(row: Row) -> Iterator[Rates]:
    yield from row.short.values()
    yield from row.long.values()


@each_model
def test_every_row_has_its_source_and_its_day(model):
    assert MODELS[model]["source"]
    assert date(2026, 1, 1) <= date.fromisoformat(MODELS[model]["date"]) <= date.fromisoformat(DOCUMENT["date"])


@pytest.mark.parametrize("part", ["tools", "facts", "image_most", "cache_write_12h"])
def test_what_holds_for_models_in_general_has_its_source_and_its_day(part):
    assert DOCUMENT[part]["source"]
    assert date.fromisoformat(DOCUMENT[part]["date"]) <= date.fromisoformat(DOCUMENT["date"])


@each_model
def test_every_row_prices_something_and_nothing_for_nothing(model):
    free = {"omni-moderation", "omni-moderation-latest", "text-moderation-latest", "text-moderation-stable"}
    numbers = [MODELS[model][name] for name in (*TOKENS, "minute", "characters") if name in MODELS[model]]
    numbers += MODELS[model].get("second", {}).values()

    assert numbers
    if model not in free:
        assert all(number > 0 for number in numbers if not ("embedding" in model and number == MODELS[model]["out"]))


@each_model
def test_tokens_are_priced_both_ways_or_not_at_all(model):
    assert all((rates.text_in == NO_PRICE) == (rates.text_out == NO_PRICE) for rates in rates_of(ROWS[model]))


@each_model
def test_the_cache_is_never_dearer_to_read_nor_cheaper_to_fill(model):
    for rates in rates_of(ROWS[model]):
        assert rates.text_cached <= rates.text_in <= rates.text_write <= rates.text_write_12h
        assert rates.audio_cached <= rates.audio_in
        assert rates.image_cached <= rates.image_in


@each_model
def test_above_the_line_nothing_is_cheaper(model):
    row = ROWS[model]

    for tier, rates in row.short.items():
        assert all(
            getattr(rates, kind) <= getattr(row.long[tier], kind) for kind in Rates.__slots__ if "text" in kind
        )


@each_model
@pytest.mark.parametrize("kind", ["text_in", "text_cached", "text_write", "text_out"])
def test_who_waits_pays_less_and_who_hurries_more(model, kind):
    tiers = [tier for tier in ("batch", "flex", None, "priority", "ultrafast") if tier in ROWS[model].short]
    if kind == "text_cached":
        # o3 and its like have no price for cached tokens in a batch, so the default's.
        tiers = [tier for tier in tiers if tier is None or "cached" in MODELS[model][tier]]
    below = [getattr(ROWS[model].short[tier], kind) for tier in tiers]
    above = [getattr(ROWS[model].long[tier], kind) for tier in tiers if tier is None or "long" in MODELS[model][tier]]

    assert (below, above) == (sorted(below), sorted(above))


@each_model
def test_what_a_model_reads_and_writes_is_told_together(model):
    assert (ROWS[model].max_in is None) == (ROWS[model].max_out is None)


def test_every_model_that_chats_tells_how_much_it_reads_and_writes():
    untold = {"gpt-4-32k", "gpt-4-vision-preview", "gpt-4-1106-vision-preview", "gpt-4.5-preview", "o1-preview"}
    untold |= {"gpt-4-32k-0314", "gpt-4-32k-0613", "gpt-4o-mini-tts", "gpt-5.5-cyber", "gpt-5.5-cyber-preview"}
    chats = [model for model in MODELS if model.startswith(("gpt-4", "gpt-5", "gpt-6", "o1", "o3", "o4", "ft:"))]

    assert {model for model in chats if ROWS[model].max_out is None} == untold


@each_model
def test_an_image_counts_for_no_more_than_a_model_reads(model):
    row = ROWS[model]

    assert "image_most" not in MODELS[model] or row.image_most <= row.max_in


def test_tools_that_openai_runs_have_fees():
    assert {tool for tool, fee in DOCUMENT["tools"]["fees"].items() if fee} == {
        "web_search", "web_search_preview", "file_search",
        "container", "container_4g", "container_16g", "container_64g",
    }  # fmt: skip


def test_dated_names_have_rows_only_where_they_cost_something_else():
    dated = [model for model in MODELS if model[-10:-6].isdigit()]

    assert dated == ["gpt-4o-2024-05-13"]


@pytest.mark.parametrize("model", OVERLAY["model"])
def test_the_sheet_says_what_the_overlay_says(model):
    said = {name: value for name, value in OVERLAY["model"][model].items() if name not in {"source", "date"}}

    assert within(said, MODELS[model])
    assert OVERLAY["model"][model]["source"] in MODELS[model]["source"]


def within(part: dict, whole: dict) -> bool:
    return all(
        within(value, whole.get(name, {})) if isinstance(value, dict) else whole.get(name) == value
        for name, value in part.items()
    )


def test_the_sheets_fees_and_facts_are_the_overlays():
    facts = {model: [MODELS[model][name] for name in ("max_in", "max_out")] for model in OVERLAY["facts"]["models"]}

    assert DOCUMENT["tools"]["fees"] == OVERLAY["tools"]["fees"]
    assert facts == {model: told[:2] for model, told in OVERLAY["facts"]["models"].items()}
    assert {model for model in MODELS if MODELS[model].get("reasons")} == {
        model for model, told in OVERLAY["facts"]["models"].items() if told[2]
    }
    assert OVERLAY["image_most"]["models"].items() <= {m: row.get("image_most") for m, row in MODELS.items()}.items()


def test_twelve_hours_in_the_cache_are_priced_wherever_writing_is():
    times = OVERLAY["cache_write_12h"]["times_in"]
    tables = [table for row in MODELS.values() for table in (row, *(row[tier] for tier in TIERS if tier in row))]
    tables += [table["long"] for table in tables if "long" in table]

    assert all(table["cache_write_12h"] == table["in"] * times for table in tables if "cache_write" in table)
    assert all("cache_write" in table for table in tables if "cache_write_12h" in table)


def test_the_notice_of_those_whose_prices_it_has_stands_beside_it():
    notice = (SHEET.parent / "genai-prices.LICENSE").read_text()

    assert "MIT License" in notice
    assert "Pydantic Services Inc." in notice
    assert "genai-prices.LICENSE" in DOCUMENT["made_from"]


def test_the_sheet_is_small():
    assert SHEET.stat().st_size < 64 * 1024
