"""Amounts as operators write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.limits.amounts import MOST_COUNT, MOST_DOLLARS, read_count, read_usd, usd


@pytest.mark.parametrize(
    ("text", "micro"),
    [
        ("12.50", 12_500_000),
        ("0.000001", 1),
        ("0", 0),
        ("007", 7_000_000),
        ("1000000000", MOST_DOLLARS * 10**6),
        ("1.5", 1_500_000),
    ],
)
def test_dollars_are_read_to_the_micro_dollar(text, micro):
    assert read_usd(text) == micro


@pytest.mark.parametrize(
    "value",
    [
        "-1", "+1", "1e3", "1.0000001", "1000000000.000001", "99999999999", "", ".5", "5.", " 1", "1\n", "1,5", "NaN",
        "١", "0x1", "1_000", 1, 1.5, True, None, [],
    ],
)  # fmt: skip
def test_what_is_no_plain_amount_is_refused(value):
    with pytest.raises(ValueError, match="must be"):
        read_usd(value)


@given(st.integers(0, MOST_DOLLARS * 10**6), st.integers(0, 6))
def test_an_amount_is_read_as_it_was_written(micro, decimals):
    written = usd(micro, decimals=decimals)

    assert read_usd(written) == micro
    assert len(written.partition(".")[2]) >= decimals


@pytest.mark.parametrize(("micro", "text"), [(4_182_300, "4.1823"), (5 * 10**6, "5.00"), (-1, "-0.000001")])
def test_dollars_are_written_without_needless_zeros_but_with_cents(micro, text):
    assert usd(micro) == text


def test_dollars_may_be_written_with_all_decimals():
    assert usd(4_182_300, decimals=6) == "4.182300"


@pytest.mark.parametrize("value", [-1, MOST_COUNT + 1, 1.0, True, "5", None])
def test_a_count_is_a_whole_number(value):
    assert read_count(MOST_COUNT) == MOST_COUNT

    with pytest.raises(ValueError, match="whole number"):
        read_count(value)
