"""Bodies that are made to mislead, read in three ways; `python -m measure.judge` tries a million."""

from measure.judge import bodies, read_in_all_ways


def test_ten_thousand_hostile_bodies_are_read_as_python_reads_them():
    refused = 0
    for body, chosen in bodies(10_000, seed=20261126):
        by_python, held, scanned = read_in_all_ways(body, chosen)
        assert held == by_python, body
        assert scanned == by_python, body
        refused += by_python is None

    # Of either kind there must be enough for this to mean something.
    assert 2_000 < refused < 8_000
