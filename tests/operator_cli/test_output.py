"""What tables show."""

import json

import pytest

from operator_cli.output import show

COLUMNS = ("name", "cost_usd")


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (1e-06, "0.000001"),
        (1.25e-05, "0.0000125"),
        (0.0, "0.0"),
        (12.5, "12.5"),
        (1e22, "1" + "0" * 22),
        (-1e-06, "-0.000001"),
    ],
)
def test_dollars_are_in_plain_decimals(capsys: pytest.CaptureFixture[str], cost: float, text: str) -> None:
    show([{"name": "shop", "cost_usd": cost}], as_json=False, columns=COLUMNS)

    assert capsys.readouterr().out.split()[-1] == text


def test_json_has_the_numbers_of_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    show({"cost_usd": 1e-06, "amount": "0.000001"}, as_json=True, columns=COLUMNS)

    assert json.loads(capsys.readouterr().out) == {"cost_usd": 1e-06, "amount": "0.000001"}


def test_small_and_negative_amounts_stand_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"name": "a", "cost_usd": 12.5}, {"name": "b", "cost_usd": -1e-06}], as_json=False, columns=COLUMNS)

    assert [line[6:] for line in capsys.readouterr().out.splitlines()] == [" COST USD", "     12.5", "-0.000001"]
