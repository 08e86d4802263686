"""Which row a model is priced by, and whose word counts."""

import pytest

from llmproxy.limits.cost import cost
from llmproxy.limits.price_file import read_overlay
from llmproxy.limits.prices import Overlay, Prices, Sheet, read_sheet
from llmproxy.limits.usage import Extras, Usage

MILLION = 10**6
IN_AND_OUT = Usage(MILLION, 0, MILLION)


def laid_over(sheet: Sheet, text: str) -> Prices:
    return Prices(sheet, read_overlay(text))


def price_in(prices: Prices, model: str, project: str | None = None) -> float:
    """Dollars for a million tokens of input."""
    return cost(prices.find(model, project), Usage(MILLION)) / MILLION


@pytest.mark.parametrize(
    ("model", "row"),
    [
        ("gpt-5", "gpt-5"),
        ("gpt-5-2025-08-07", "gpt-5"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("gpt-3.5-turbo-0125", "gpt-3.5-turbo-0125"),
        ("ft:gpt-4.1-2025-04-14:acme::Bq1", "ft:gpt-4.1"),
        ("ft:gpt-4.1-mini-2025-04-14:acme:our-suffix:Bq1:ckpt-step-100", "ft:gpt-4.1-mini"),
        ("ft:gpt-3.5-turbo-0125:acme::Bq1", "ft:gpt-3.5-turbo-0125"),
        ("ft:davinci-002:acme::Bq1", "ft:davinci-002"),
    ],
)
def test_a_model_is_priced_by_its_row_or_that_of_its_undated_name(prices, model, row):
    assert prices.find(model).model == row


@pytest.mark.parametrize(
    "model",
    [
        "",
        "gpt-5-20250807",
        "gpt-5-2025-13-07",
        "gpt-5-2025-08-32",
        "gpt-5-1999-08-07",
        "gpt-5-2025-08-07-preview",
        "gpt-5-2025-08-07\n",
        "gpt-5-ultra",
        "GPT-5",
        "openai/gpt-5",
        "ft:gpt-5:acme::Bq1",
        "ft:",
        "ft::::",
        "llama3",
        "-2025-08-07",
    ],
)
def test_nothing_else_is_guessed(prices, model):
    assert prices.find(model) is None


def test_an_operators_row_changes_what_it_names_and_nothing_else(sheet):
    row = laid_over(sheet, '[model."gpt-5"]\nin = 1\nflex.out = 4').find("gpt-5")

    assert cost(row, IN_AND_OUT) == 11 * MILLION
    assert cost(row, IN_AND_OUT, "flex") == 4_625_000
    assert cost(row, Usage(MILLION, MILLION)) == 125_000
    assert (row.max_out, row.reasons) == (128_000, True)


def test_a_projects_row_goes_before_the_operators_and_that_before_the_sheet(sheet):
    prices = laid_over(
        sheet,
        """
        [model."gpt-5"]
        in = 1
        out = 8
        [project."edge models".model."gpt-5"]
        in = 0.5
        """,
    )

    assert cost(prices.find("gpt-5", "edge models"), IN_AND_OUT) == 8_500_000
    assert cost(prices.find("gpt-5", "another"), IN_AND_OUT) == 9 * MILLION
    assert cost(prices.find("gpt-5"), IN_AND_OUT) == 9 * MILLION
    assert cost(Prices(sheet).find("gpt-5", "edge models"), IN_AND_OUT) == 11_250_000


def test_a_projects_model_is_unknown_to_others(sheet):
    prices = laid_over(sheet, '[project."edge models".model."llama3"]\nin = 0.10')

    assert price_in(prices, "llama3", "edge models") == 0.10
    assert prices.find("llama3") is prices.find("llama3", "another") is None


def test_whoever_is_nearer_is_asked_for_the_undated_name_too(sheet):
    prices = laid_over(sheet, '[model."gpt-4o"]\nin = 1\n[project.a.model."gpt-4o-2024-05-13"]\nin = 2')

    assert price_in(prices, "gpt-4o-2024-05-13") == price_in(prices, "gpt-4o-2024-11-20") == 1
    assert price_in(prices, "gpt-4o-2024-05-13", "a") == 2
    assert price_in(prices, "gpt-4o-2024-11-20", "a") == 1


def test_one_fine_tuned_model_can_have_a_price_of_its_own(sheet):
    prices = laid_over(sheet, '[model."ft:gpt-4.1-2025-04-14:acme::Bq1"]\nin = 1')

    assert price_in(prices, "ft:gpt-4.1-2025-04-14:acme::Bq1") == 1
    assert price_in(prices, "ft:gpt-4.1-2025-04-14:acme::other") == 3
    assert cost(prices.find("ft:gpt-4.1-2025-04-14:acme::Bq1"), Usage(0, 0, MILLION)) == 12 * MILLION


def test_one_price_for_all_sizes_takes_the_place_of_those_below(sheet):
    row = laid_over(sheet, '[model."gpt-image-1"]\nimage = 0.02').find("gpt-image-1")

    assert cost(row, Usage(extras=Extras(images=1, quality="high", size="1024x1024"))) == 20_000


def test_fees_of_tools_are_overridden_for_all_and_for_one(sheet):
    prices = laid_over(sheet, '[tools]\nweb_search = 0.005\nour_own = 1\n[model."gpt-5".tools]\nweb_search = 0.002')
    searched = Usage(extras=Extras(tools={"web_search": 1}))

    assert cost(prices.find("o3"), searched) == 5_000
    assert cost(prices.find("gpt-5"), searched) == 2_000
    assert cost(prices.find("o3"), Usage(extras=Extras(tools={"our_own": 1}))) == MILLION
    assert cost(prices.find("o3"), Usage(extras=Extras(tools={"web_search_preview": 1}))) == 10_000


def test_a_row_says_who_had_a_word_in_it(sheet):
    prices = laid_over(sheet, '[model."gpt-5"]\nin = 1\n[project.a.model."gpt-5"]\nin = 2')

    assert prices.find("gpt-5", "a").origin == ("the sheet", "PRICES_FILE", 'PRICES_FILE, project "a"')
    assert prices.find("o3", "a").origin == ("the sheet",)


def test_a_model_looked_up_again_is_not_put_together_again(prices):
    assert prices.find("gpt-5-2025-08-07", "a") is prices.find("gpt-5-2025-08-07", "a")


def test_projects_without_rows_share_those_of_all(prices):
    assert prices.find("gpt-5", "a") is prices.find("gpt-5", "b") is prices.find("gpt-5")


def test_names_that_callers_make_up_are_not_kept_for_ever(prices):
    for number in range(5_000):
        prices.find(f"model-{number}")

    assert prices._find.cache_info().currsize <= 1024


def test_a_row_tells_what_a_bound_needs(sheet, prices):
    gpt, unknown = prices.find("gpt-5.4"), Prices(sheet, Overlay({"m": {}})).find("m")

    assert (gpt.max_in, gpt.max_out, gpt.image_most, gpt.reasons) == (1_050_000, 128_000, 10_000, True)
    assert (unknown.max_in, unknown.max_out, unknown.image_most, unknown.reasons) == (None, None, 50_000, False)
    assert (gpt.dearest.text_out, gpt.dearest_long.text_out) == (30 * MILLION, 30 * MILLION)
    assert (gpt.dearest.text_in, gpt.dearest_long.text_cached) == (5 * MILLION, MILLION // 2)


def test_a_sheet_that_is_wrong_is_refused_with_every_fault():
    text = '{"date": "", "made_from": "", "tools": {"fees": {"a": -1}}, "models": {"m": {"inn": 1, "out": "2"}}}'

    with pytest.raises(ValueError, match=r'"m": inn is no name of a price; did you mean in\?') as caught:
        read_sheet(text)

    assert len(str(caught.value).splitlines()) == 3
