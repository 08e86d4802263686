"""Files of lines that only grow: whole lines alone are added, and none is measured twice."""

import pytest

from llmproxy.api_log import line_file
from llmproxy.api_log.line_file import Tally, append


class Measured:
    """Counts lines, and keeps what it was given."""

    def __init__(self):
        self.pieces = []

    def __call__(self, piece):
        self.pieces.append(piece)
        return piece.count(b"\n")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lines"


@pytest.fixture
def measured():
    return Measured()


@pytest.fixture
def tally(path, measured):
    return Tally(path, measured, 0)


def test_a_line_is_measured_once_however_often_it_is_asked_for(path, tally, measured):
    append(path, b"one\ntwo\n")
    first = tally.total()
    append(path, b"three\n")

    assert [first, tally.total(), tally.total()] == [2, 3, 3]
    assert measured.pieces == [b"one\ntwo\n", b"three\n"]


def test_a_torn_line_waits_for_its_end(path, tally):
    path.write_bytes(b"one\ntw")
    torn = tally.total()
    append(path, b"three\n")

    assert (torn, tally.total()) == (1, 3)
    assert path.read_bytes() == b"one\ntw\nthree\n"


def test_a_file_that_was_cleared_or_replaced_is_measured_anew(path, tally):
    append(path, b"one\ntwo\nthree\n")
    tally.total()
    path.write_bytes(b"")
    cleared = tally.total()
    path.write_bytes(b"another\nfile, and a longer one than before\n")
    replaced = tally.total()
    path.unlink()

    assert (cleared, replaced, tally.total()) == (0, 2, 0)


def test_a_file_that_cannot_be_read_comes_to_what_it_was(path, tally):
    append(path, b"one\n")
    tally.total()
    path.unlink()
    path.mkdir()

    assert tally.total() == 1


def test_what_has_no_end_of_a_line_is_passed_over(path, tally, monkeypatch):
    monkeypatch.setattr(line_file, "_PIECE_BYTES", 10)
    path.write_bytes(b"x" * 25 + b"\ntwo\n")

    assert tally.total() == 2


def test_a_disk_that_takes_half_a_line_is_an_error(path, monkeypatch):
    whole = line_file.os.write
    monkeypatch.setattr(line_file.os, "write", lambda fd, data: whole(fd, data[:2]))

    with pytest.raises(OSError, match="no space for lines"):
        append(path, b"one\n")
