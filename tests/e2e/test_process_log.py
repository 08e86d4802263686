"""The process's own log, as an operator or a collector of logs reads it."""

import json
import re

from tests.http_by_hand import call
from tests.servers import DEPLOYED, Server


def test_a_log_for_machines_is_objects_alone_and_names_the_request(tmp_path):
    with Server(DEPLOYED, tmp_path / "data", LOG_FORMAT="json", UPSTREAM_URL="http://127.0.0.1:9") as server:
        token = server.issue_token()
        called = call(server.url, "GET", "/v1/models", token.bearer)
        server.terminate()
        assert server.wait() == 0

    told = [json.loads(line) for line in server.output().splitlines()]
    assert all({"timestamp", "level", "logger", "pid", "message"} <= line.keys() for line in told)
    (outage,) = [line for line in told if line["message"].startswith("upstream_unreachable")]
    assert outage["request_id"] == called.all("x-proxy-request-id")[0]
    assert outage["project_id"] == token.project_id


def test_all_lines_for_people_begin_with_the_same_form_of_time(tmp_path):
    with Server(DEPLOYED, tmp_path / "data") as server:
        server.terminate()
        server.wait()
    begins = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \[\d+\] [A-Z]+ [\w.]+: ")

    assert [line for line in server.output().splitlines() if not begins.match(line)] == []
