"""The runs side by side: one that fails is enough, and its report is there to be read."""

from pathlib import Path

import pytest

from tests import side_by_side


@pytest.mark.parametrize(("run", "code"), [("fails", 1), ("finds nothing", 0)])
def test_one_run_that_fails_fails_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], run: str, code: int
):
    (tmp_path / "test_both.py").write_text("def test_good(): pass\n\ndef test_bad(): assert 1 == 2\n")
    selected = {"passes": "good", "fails": "bad", "finds nothing": "ugly"}
    runs = {name: [str(tmp_path), "-p", "no:cacheprovider", "-k", selected[name]] for name in ("passes", run)}
    monkeypatch.setattr(side_by_side, "RUNS", runs)
    monkeypatch.setattr(side_by_side, "OUTPUT", tmp_path)
    monkeypatch.setattr("sys.argv", ["side_by_side"])

    assert side_by_side.main() == code

    told = capfd.readouterr().out
    assert "===== passes =====" in told and f"===== {run} =====" in told
    assert ("assert 1 == 2" in told) is (run == "fails")


def test_where_there_is_no_postgresql_it_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    (tmp_path / "test_it.py").write_text("def test_good(): pass\n")
    monkeypatch.setattr(side_by_side, "RUNS", {name: [str(tmp_path)] for name in ("on SQLite", "on PostgreSQL")})
    monkeypatch.setattr(side_by_side, "OUTPUT", tmp_path)
    monkeypatch.setattr("sys.argv", ["side_by_side", "--sqlite", "-p", "no:cacheprovider"])

    assert side_by_side.main() == 0

    told = capfd.readouterr().out
    assert "1 passed" in told and "PostgreSQL" not in told
