"""The tool that compiles the price sheet, on rows as genai-prices has them."""

import json
from datetime import date
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from measure import price_sheet
from measure.price_sheet import as_json, genai_row, in_force, in_order, one_of_two, prices_of

FEES = {"web_search": Decimal("0.01"), "file_search": Decimal("0.0025")}
DAY = date(2026, 11, 4)


def told(**prices: Any) -> SimpleNamespace:
    """A set of prices, with the names that it does not price as genai-prices has them."""
    return SimpleNamespace(**{"cache_read_mtok": None, **prices})


def lined(base: str, start: int, price: str) -> SimpleNamespace:
    return SimpleNamespace(base=Decimal(base), tiers=[SimpleNamespace(start=start, price=Decimal(price))])


def variant(prices: SimpleNamespace, start: date | None = None, **when: str) -> SimpleNamespace:
    constraint = start and SimpleNamespace(start_date=start)
    return SimpleNamespace(when=when, prices=prices, constraint=constraint)


def model(*variants: SimpleNamespace, comments: str | None = None, **prices: Any) -> SimpleNamespace:
    return SimpleNamespace(id="m", prices=told(**prices), price_variants=list(variants), price_comments=comments)


@pytest.fixture(autouse=True)
def release(monkeypatch):
    monkeypatch.setattr(price_sheet, "version", lambda _: "1.2.3")


def test_prices_get_our_names_and_units():
    assert prices_of(told(input_mtok=Decimal(2), output_mtok=Decimal(8), audio_hours=Decimal("0.36")), FEES) == {
        "in": 2,
        "out": 8,
        "minute": Decimal("0.006"),
    }


def test_a_line_makes_a_table_of_what_holds_above_it():
    prices = told(input_mtok=lined("2.5", 272_000, "5"), output_mtok=lined("15", 272_000, "22.5"))

    assert prices_of(prices, FEES) == {
        "in": Decimal("2.5"),
        "out": 15,
        "long": {"over": 272_000, "in": 5, "out": Decimal("22.5")},
    }


def test_two_lines_are_more_than_a_row_can_say():
    with pytest.raises(SystemExit, match="more than one line"):
        prices_of(told(input_mtok=lined("2", 100, "4"), output_mtok=lined("2", 200, "4")), FEES)


def test_a_price_that_nobody_knows_is_no_price_to_pass_over():
    with pytest.raises(KeyError):
        prices_of(told(new_unit_kcount=Decimal(1)), FEES)


def test_fees_stand_in_a_row_only_where_they_are_not_everybodys():
    prices = told(input_mtok=Decimal(1), web_searches_kcount=Decimal(25), storage_searches_kcount=Decimal("2.5"))

    assert prices_of(prices, FEES) == {"in": 1, "tools": {"web_search": Decimal("0.025")}}


def test_of_prices_that_changed_those_of_the_day_hold():
    cheaper, later = (SimpleNamespace(start_date=date(2026, month, 1)) for month in (8, 12))
    prices = [SimpleNamespace(constraint=when, prices=name) for when, name in ((None, 1), (cheaper, 2), (later, 3))]

    assert [in_force(prices, date(2026, month, 1)) for month in (7, 8, 11, 12)] == [1, 2, 2, 3]


def test_tiers_are_tables_of_the_row():
    half, twice = told(input_mtok=lined("1", 9, "2")), told(input_mtok=Decimal(4))
    row = genai_row(
        model(
            variant(told(), service_tier="default"),
            variant(half, processing="batch"),
            variant(twice, service_tier="priority"),
            variant(twice, service_tier="fast"),
            variant(half, date(2027, 1, 1), service_tier="flex"),
            input_mtok=lined("2", 9, "4"),
        ),
        DAY,
        FEES,
    )

    assert row["batch"] == {"in": 1, "long": {"in": 2}}
    assert row["priority"] == {"in": 4}
    assert "flex" not in row


def test_two_names_of_a_tier_must_mean_the_same():
    fast = variant(told(input_mtok=Decimal(3)), service_tier="fast")

    with pytest.raises(SystemExit, match="m: fast is not what priority is"):
        genai_row(model(variant(told(input_mtok=Decimal(4)), service_tier="priority"), fast), DAY, FEES)


@pytest.mark.parametrize(
    ("comments", "day"),
    [
        (None, "2026-11-04"),
        ("Reduced on 2026-08-21.", "2026-11-04"),
        ("Flex verified on 2026-10-12. Batch rates verified on 2026-10-14.", "2026-10-12"),
    ],
)
def test_a_row_was_true_on_the_earliest_day_that_a_part_was_checked(comments, day):
    row = genai_row(model(input_mtok=Decimal(1), comments=comments), DAY, FEES)

    assert (row["source"], row["date"]) == ("genai-prices 1.2.3", day)


def test_a_row_of_both_has_both_sources_and_the_earlier_day():
    below = {"in": 1, "out": 2, "source": "theirs", "date": "2026-10-12"}

    assert one_of_two(below, {"in": 3, "source": "ours", "date": "2026-11-26"}) == {
        "in": 3,
        "out": 2,
        "source": "ours; theirs",
        "date": "2026-10-12",
    }
    assert one_of_two(below, {}) == below


def test_the_sheet_is_json_with_a_line_for_each_model():
    rows = {"a": {"in": Decimal("0.10"), "source": "x"}, "b": {"in": Decimal("30"), "long": {"over": 9}}}
    text = as_json({"date": "2026-11-26", "models": rows})

    assert json.loads(text) == {
        "date": "2026-11-26",
        "models": {"a": {"in": 0.1, "source": "x"}, "b": {"in": 30, "long": {"over": 9}}},
    }
    assert '  "a": {"in": 0.1, "source": "x"},\n  "b"' in text


def test_a_row_is_written_in_one_order_and_whole():
    row = {"source": "x", "flex": {"out": 1, "in": 2}, "out": 3, "in": 4}

    assert list(in_order(row)) == ["in", "out", "flex", "source"]
    assert list(in_order(row)["flex"]) == ["in", "out"]
