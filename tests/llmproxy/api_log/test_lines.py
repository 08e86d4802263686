import pytest

from llmproxy.api_log.lines import cut


@pytest.fixture
def lines(call_record):
    return [call_record().to_line() for _ in range(3)]


def test_whole_lines_are_taken_and_half_ones_left(lines):
    data = b"".join(lines)

    for end in range(len(data) + 1):
        found = cut(data[:end], max_lines=100)
        assert found.used == len(b"".join(lines[: len(found.records)])) and found.torn == 0
        assert found.used + len(max(lines)) > end


def test_the_rest_is_a_line_when_nothing_will_follow(lines):
    data = b"".join(lines)

    whole, half = (cut(data[:-cut_off], max_lines=100, is_last=True) for cut_off in (1, 2))

    assert (len(whole.records), whole.torn, whole.used) == (3, 0, len(data) - 1)
    assert (len(half.records), half.torn, half.used) == (2, 1, len(data) - 2)


def test_a_record_that_was_glued_to_half_a_line_is_found(lines):
    for end in range(1, len(lines[0]) - 1):
        found = cut(lines[0][:end] + lines[1], max_lines=10)
        assert [record.line for record in found.records] == [lines[1][:-1]] and found.torn == 1


def test_a_record_without_its_newline_and_the_next_one_are_both_found(lines):
    found = cut(lines[0][:-1] + lines[1], max_lines=10)

    assert [record.line for record in found.records] == [lines[0][:-1], lines[1][:-1]] and found.torn == 0


def test_a_record_that_quotes_the_start_of_a_record_is_one_record(call_record):
    line = call_record(endpoint='/v1/{"timestamp":"x').to_line()

    for text in (line, b"half" + line):
        assert [record.line for record in cut(text, max_lines=1).records] == [line[:-1]]


def test_blank_lines_are_nothing_and_other_text_is_torn(lines):
    found = cut(b"\n\n" + lines[0] + b"\x00\x00\n" + b"hello\n" + lines[1], max_lines=100)

    assert (len(found.records), found.torn) == (2, 2)


def test_no_more_lines_are_used_than_asked_for(lines):
    found = cut(b"".join(lines), max_lines=2)

    assert found.used == len(lines[0] + lines[1])
