"""How targets and levels are called, and what is said of them."""

from benchmark.output.sides import warnings_of


def level(users: int, *warnings: str | None) -> dict:
    sides = [
        {"base_url": f"http://{number}", "concurrency": users, "client_warning": warning}
        for number, warning in enumerate(warnings)
    ]
    return sides[0] | ({"compare": sides[1]} if len(sides) > 1 else {})


def test_a_warning_of_the_only_run_stands_alone():
    assert warnings_of([level(1, "busy")]) == ["busy"]


def test_a_warning_says_where_it_is_from_when_there_is_more_than_one_place():
    assert warnings_of([level(1, None, "busy")]) == ["busy (http://1)"]
    assert warnings_of([level(1, "busy"), level(2, None)]) == ["busy (1 user)"]
    assert warnings_of([level(1, "busy", None), level(2, None, "late")]) == [
        "busy (http://0, 1 user)",
        "late (http://1, 2 users)",
    ]


def test_warnings_of_many_levels_are_one():
    [said] = warnings_of([level(users, f"late by {users}") for users in (1, 2, 4, 8)])

    assert said == "late by 8 (8 users; something of the kind at 3 others: 1 user; 2 users; 4 users)"
