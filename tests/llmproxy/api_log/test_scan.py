import shutil

from llmproxy.api_log.record import MAX_LINE_BYTES
from llmproxy.api_log.scan import read_all


def ids_of(records):
    return [record["request_id"] for record in records]


def test_all_segments_are_read_oldest_first_and_copies_once(append, log_path):
    ids = append(3000)
    shutil.copy(log_path, log_path.with_name("api_logs.jsonl.1"))
    log_path.unlink()
    shutil.copy(log_path.with_name("api_logs.jsonl.1"), log_path.with_name("api_logs.jsonl.copy"))
    ids += append(2)

    assert ids_of(read_all(log_path)) == ids


def test_damage_is_left_out_and_a_last_line_without_newline_is_read(append, log_path):
    ids = append(1)
    with log_path.open("ab") as file:
        file.write(b"x" * (2 * MAX_LINE_BYTES) + b"\nhalf\n")
    ids += append(2)
    log_path.write_bytes(log_path.read_bytes()[:-1])

    assert ids_of(read_all(log_path)) == ids


def test_it_leaves_no_trace_beside_the_log(append, log_path):
    append(1)
    list(read_all(log_path))

    assert [path.name for path in log_path.parent.iterdir()] == ["api_logs.jsonl"]


def test_no_ledger_has_no_records(log_path):
    assert list(read_all(log_path)) == []
