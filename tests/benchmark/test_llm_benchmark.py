"""The command as its users type it, against the mock upstream and the proxy."""

import csv
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from mock_openai.mock import MockOpenAI
from tests.ports import free_port
from tests.servers import ROOT, Server, Token, fetch, wait_for

COMMAND = ROOT / "llm-benchmark"
PATH = "/v1/chat/completions"
KEY = "sk-secret-of-the-benchmark-tests"
PROMISED = [
    "base_url", "endpoint", "requests", "concurrency", "total_duration_ms", "average_latency_ms", "p50_latency_ms",
    "p90_latency_ms", "p99_latency_ms", "throughput_rps", "error_rate", "errors",
]  # fmt: skip
ENVIRONMENT = {"PATH": os.path.dirname(sys.executable) + ":/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"}


class Done(NamedTuple):
    """How a run ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def figures(self) -> dict[str, Any]:
        return json.loads(self.stdout)


Run = Callable[..., Done]


@pytest.fixture
def run(mock: MockOpenAI, tmp_path: Path) -> Run:
    """Runs the command in an empty directory, with JSON on standard output where nothing else is said."""

    def typed(*arguments: str, base_url: str = mock.url, output: str = "-", **environment: str) -> Done:
        done = subprocess.run(
            [sys.executable, str(COMMAND), f"--base-url={base_url}", f"--output={output}", *arguments],
            cwd=tmp_path,
            env=ENVIRONMENT | {"LLM_BENCHMARK_TOKEN": KEY} | environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert KEY not in done.stdout + done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return typed


def measured(mock: MockOpenAI) -> list[dict[str, Any]]:
    """What came: requests of the load, and nothing else."""
    assert mock.requests() == mock.requests(PATH)
    return mock.requests()


def test_the_command_of_the_design_writes_its_keys_in_their_units(run: Run, mock: MockOpenAI, tmp_path: Path) -> None:
    payload = '{"model":"gpt-4","messages":[{"role":"user","content":"Hello"}]}'
    done = run(
        f"--endpoint={PATH}", f"--token={KEY}", "--requests=60", "--concurrency=6", f"--payload={payload}",
        # Long enough for the client's own clock, which rings every 20 ms.
        "--header=x-mock-delay-ms: 20", output="results.json",
    )  # fmt: skip
    found = json.loads((tmp_path / "results.json").read_text())

    assert done.status == 0 and "req/s" in done.stdout
    assert list(found)[:12] == PROMISED
    assert (found["base_url"], found["endpoint"]) == (mock.url, PATH)
    assert (found["requests"], found["concurrency"], found["errors"], found["error_rate"]) == (60, 6, 0, 0.0)
    assert 0 < found["p50_latency_ms"] <= found["p90_latency_ms"] <= found["p99_latency_ms"]
    assert found["p99_latency_ms"] <= found["max_latency_ms"] <= found["total_duration_ms"] + 1
    assert found["throughput_rps"] == pytest.approx(60_000 / found["total_duration_ms"], rel=0.1)
    assert {request["body_length"] for request in measured(mock)} == {len(payload)}


def test_exactly_so_many_requests_are_sent_over_at_most_so_many_connections(run: Run, mock: MockOpenAI) -> None:
    done = run("--requests=123", "--concurrency=7", "--warmup=10")

    assert (done.figures["requests"], done.figures["warmup_requests"]) == (123, 10)
    assert len(measured(mock)) == 133
    assert mock.connections()["accepted"] <= 7


def test_what_opening_a_connection_took_is_told(run: Run) -> None:
    cold, warm = run("--requests=12", "--concurrency=3"), run("--requests=12", "--concurrency=3", "--warmup=9")

    assert cold.figures["connections_opened"] == 3
    assert 0 < cold.figures["connect_p50_ms"] <= cold.figures["connect_p99_ms"]
    assert (cold.figures["tls_p50_ms"], "TCP connect" in cold.stderr, "TLS" in cold.stderr) == (None, True, False)
    # The warm-up opened them, at least all but those that only a race needs.
    assert warm.figures["connections_opened"] < 3


def test_a_run_too_short_for_a_single_request_has_no_figures(run: Run) -> None:
    done = run("--duration=0.000000001", "--html=report.html", "--csv=requests.csv", "--stream", "--tpot-limit=5")

    assert (done.figures["requests"], done.figures["p50_latency_ms"], done.figures["throughput_rps"]) == (
        0,
        None,
        0.0,
    )


def test_without_flags_a_small_chat_is_asked_a_hundred_times_by_ten(run: Run, mock: MockOpenAI) -> None:
    done = run()

    assert (done.figures["requests"], done.figures["concurrency"]) == (100, 10)
    assert {request["json"]["messages"][0]["content"] for request in measured(mock)} == {"Hello"}


def test_the_proxy_can_be_measured(run: Run, proxy: Server, token: Token, upstream: MockOpenAI) -> None:
    done = run("--requests=40", "--concurrency=4", base_url=proxy.url, LLM_BENCHMARK_TOKEN=token.secret)

    assert done.figures["errors"] == 0
    assert token.secret not in done.stdout + done.stderr
    assert [record["status_code"] for record in proxy.wait_for_records(40, token)] == [200] * 40
    assert len(measured(upstream)) == 40


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--payload={nope"], "--payload is not JSON"),
        (["--requests=0"], "--requests must be greater than 0"),
        (["--requests=5", "--concurrency=6"], "--concurrency 6 is above --requests 5"),
        (["--pace=5"], "--pace is for --stream"),
        (["--sweep=1,two"], "--sweep is of the form"),
        (["--arrivals=poisson"], "--arrivals poisson is for --rate"),
        (["--arrivals=never", "--rate=5"], "'never' is not one of"),
        (["--method=BREW"], "'BREW' is not one of"),
        (["--prompts=missing.jsonl"], "--prompts: cannot read missing.jsonl: No such file"),
        (["--prompts=x", "--input-tokens=5"], "--prompts and --input-tokens contradict each other"),
        (["--input-tokens=5", "--payload={}"], "no messages, input or prompt"),
        (["--output-tokens=many"], "--output-tokens is a number of tokens"),
        (["--endpoint=/v1/models", "--method=GET", "--input-tokens=5"], "there is no payload"),
        (["--ttft-limit=5"], "--ttft-limit is for --stream"),
        (["--tpot-limit=0", "--stream"], "--tpot-limit must be greater than 0"),
        (["--requests=many"], "not a valid integer"),
        (["--fail-if=p99_latency_ms is high"], "--fail-if"),
        (["--rate=nan"], "--rate must be a number, not nan"),
        (["--duration=inf"], "--duration must be a number, not inf"),
        (["--timeout=nan"], "--timeout must be a number, not nan"),
        (["--html=no/such/directory.html"], "no such directory"),
        (["--csv=results.json"], "--output and --csv name the same file"),
        (["--csv=no/such/directory.csv"], "no such directory"),
        (["--html=-"], "--html names a file"),
        (["--compare=then.json"], "then.json is neither a URL nor a file"),
        (["--compare=ftp://host"], "not the URL of a server"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    run: Run, mock: MockOpenAI, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    done = run(*arguments, output="results.json")

    assert done.status == 2 and complaint in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert (mock.requests(), list(tmp_path.iterdir())) == ([], [])


def test_a_host_that_is_not_there_is_refused(run: Run, tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        done = run(base_url=f"http://127.0.0.1:{nobody.getsockname()[1]}", output="results.json")

    assert done.status == 2 and "connection refused" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("warmup", ["--warmup=0", "--warmup=10"])
def test_a_token_that_is_not_taken_is_refused_by_the_first_response(
    run: Run, mock: MockOpenAI, tmp_path: Path, warmup: str
) -> None:
    done = run("--concurrency=2", warmup, LLM_BENCHMARK_TOKEN="no-key", output="results.json")

    assert done.status == 2 and "does not take the token: 401 invalid_api_key" in done.stderr
    assert done.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []
    assert len(mock.requests()) < 10  # each user's first, and what left before it was stopped


def test_a_second_server_that_does_not_take_its_token_is_refused(run: Run, mock: MockOpenAI) -> None:
    done = run("--requests=20", "--concurrency=2", f"--compare={mock.url}", "--token2=no-key")

    assert done.status == 2 and "does not take the token" in done.stderr and done.stdout == ""


def test_a_certificate_is_checked(run: Run, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    with MockOpenAI(cert=tmp_path / "server.pem", key=tmp_path / "server.pem") as secure:
        distrusted = run("--requests=2", base_url=secure.url)
        trust = {"base_url": secure.url, "SSL_CERT_FILE": str(tmp_path / "authority.pem")}
        trusted = run("--requests=2", **trust)
        streamed = run("--requests=4", "--concurrency=2", "--stream", "--header=x-mock-gap-ms: 1", **trust)

    assert distrusted.status == 2 and "TLS certificate refused" in distrusted.stderr
    assert trusted.figures["errors"] == 0
    assert trusted.figures["connections_opened"] == 2
    assert trusted.figures["connect_p50_ms"] > 0 and trusted.figures["tls_p50_ms"] > 0
    assert (streamed.figures["errors"], streamed.figures["events"]) == (0, 4 * 9)


def test_a_refusal_of_the_proxy_tells_its_code(run: Run, proxy: Server, token: Token) -> None:
    proxy.manage("DELETE", "/tokens", {"id": token.id})
    done = run(base_url=proxy.url, LLM_BENCHMARK_TOKEN=token.secret)

    assert done.status == 2 and "401 token_revoked" in done.stderr


def test_a_token_may_lie_in_a_file(run: Run, mock: MockOpenAI, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sk-from-a-file\n")
    command = [sys.executable, str(COMMAND), f"--base-url={mock.url}", "--token-file=token", "--requests=2"]
    subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, timeout=200, check=True)

    assert {dict(request["headers"])["Authorization"] for request in mock.requests()} == {"Bearer sk-from-a-file"}


def test_a_typed_token_is_sent_and_not_the_exported_one(run: Run, mock: MockOpenAI, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sk-from-a-file")
    run("--token-file=token", "--requests=1")
    run("--token=sk-typed", "--requests=1", LLM_BENCHMARK_TOKEN_FILE="token")
    refused = run("--requests=1", LLM_BENCHMARK_TOKEN_FILE="token")

    sent = [dict(request["headers"])["Authorization"] for request in mock.requests()]
    assert sent == ["Bearer sk-from-a-file", "Bearer sk-typed"]
    assert refused.status == 2 and "contradict each other" in refused.stderr


def test_several_tokens_are_sent_in_turn(run: Run, mock: MockOpenAI, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("sk-c\nsk-d\n")
    run("--token=sk-a", "--token=sk-b", "--requests=4", "--concurrency=1")
    run("--token-file=tokens", "--requests=2", "--concurrency=1")
    run("--requests=2", "--concurrency=1", LLM_BENCHMARK_TOKEN="sk-e sk-f")

    sent = [dict(request["headers"])["Authorization"] for request in mock.requests()]
    assert [bearer[-1] for bearer in sent] == ["a", "b", "a", "b", "c", "d", "e", "f"]


def test_other_methods_than_post_are_measured(run: Run, mock: MockOpenAI) -> None:
    read = run("--endpoint=/v1/models", "--method=get", "--requests=3", "--concurrency=1")
    deleted = run("--endpoint=/v1/files/file-1", "--method=DELETE", "--requests=2", "--concurrency=1")

    assert (read.figures["errors"], read.figures["method"], deleted.figures["errors"]) == (0, "GET", 0)
    assert [request["method"] for request in mock.requests()] == ["GET"] * 3 + ["DELETE"] * 2
    assert {request["body_length"] for request in mock.requests()} == {0}
    assert not {"content-type", "content-length"} & {name.lower() for name, _ in mock.last_request()["headers"]}
    assert "GET http://" in read.stderr


def test_what_fails_is_never_sent_again_by_whichever_method(run: Run, mock: MockOpenAI) -> None:
    done = run("--endpoint=/v1/models", "--method=GET", "--requests=3", "--concurrency=1", "--header=x-mock-drop: 1")

    assert done.status == 2 and "connection closed without a response" in done.stderr
    assert len(mock.requests()) == 1


def test_prompts_of_a_file_are_asked_in_turn(run: Run, mock: MockOpenAI, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('"One?"\n{"prompt": "Two?"}\n{"model": "gpt-4o"}\n')
    run("--prompts=prompts.jsonl", "--output-tokens=64", "--requests=4", "--concurrency=1")

    sent = [request["json"] for request in measured(mock)]
    assert [(body["messages"][0]["content"], body["model"]) for body in sent] == [
        ("One?", "gpt-4o-mini"),
        ("Two?", "gpt-4o-mini"),
        ("Hello", "gpt-4o"),
        ("One?", "gpt-4o-mini"),
    ]
    assert {body["max_tokens"] for body in sent} == {64}


def test_prompts_are_made_up_and_both_servers_get_the_same(run: Run, mock: MockOpenAI) -> None:
    run("--input-tokens=20±5", "--output-tokens=64±9", "--requests=12", "--concurrency=1", f"--compare={mock.url}")

    sent = [(body["messages"][0]["content"], body["max_tokens"]) for body in (one["json"] for one in measured(mock))]
    assert len(sent) == 24 and len(set(sent)) == 12


@pytest.mark.parametrize(
    ("controls", "cause"),
    [
        (["x-mock-status: 429"], "429 rate_limit_exceeded"),
        (["x-mock-status: 503"], "503"),
        (["x-mock-cut-after: 1"], "response cut short"),
    ],
)
def test_failures_are_grouped_by_their_cause(run: Run, controls: list[str], cause: str) -> None:
    done = run("--requests=6", "--concurrency=2", *(f"--header={control}" for control in controls))
    [group] = done.figures["errors_by_cause"]

    assert (done.figures["errors"], done.figures["error_rate"], done.figures["requests"]) == (6, 1.0, 6)
    assert group["cause"].startswith(cause) and group["count"] == 6
    # A failed request has no latency: there is nothing that could be told.
    assert done.figures["p50_latency_ms"] is None
    assert cause in done.stderr


@pytest.mark.parametrize("silent", ["x-mock-hang-after: 2", "x-mock-hold: 1"])
def test_a_server_that_falls_silent_is_a_timeout(run: Run, silent: str) -> None:
    done = run("--requests=2", "--concurrency=2", "--timeout=0.3", "--stream", f"--header={silent}")

    assert done.figures["errors_by_cause"] == [{"cause": "timeout", "count": 2, "message": None}]


def test_streams_are_timed_event_by_event(run: Run, mock: MockOpenAI) -> None:
    controls = ["x-mock-gap-ms: 20", "x-mock-stamp: 1", "x-mock-events: 10"]
    done = run(
        "--stream", "--requests=6", "--concurrency=3", "--pace=20", *(f"--header={control}" for control in controls)
    )
    found = done.figures

    assert all(request["json"]["stream"] is True for request in measured(mock))
    # The role, ten words, the reason of the end, the usage, [DONE].
    assert (found["events"], found["events_lost"], found["errors"]) == (6 * 14, 0, 0)
    assert found["streams_at_once"] == 3 and found["streams_sustained"] == 6
    assert 0 < found["ttfb_p50_ms"] <= found["first_event_p50_ms"] < found["p50_latency_ms"]
    # Not the p50: what comes while the machine is elsewhere comes at once.
    assert found["event_gap_p99_ms"] > 10 and found["event_delay_p50_ms"] > 0
    assert found["p50_latency_ms"] >= 12 * 20


def test_streams_follow_each_other_on_kept_connections_however_their_bytes_come(
    run: Run, lonely_mock: MockOpenAI
) -> None:
    controls = ["x-mock-event-split: 7", "x-mock-stamp: 1", "x-mock-gap-ms: 1"]
    done = run(
        "--stream", "--requests=30", "--concurrency=3", *(f"--header={control}" for control in controls),
        base_url=lonely_mock.url,
    )  # fmt: skip

    # The role, five words, the reason of the end, the usage, [DONE].
    assert (done.figures["events"], done.figures["events_lost"], done.figures["errors"]) == (30 * 9, 0, 0)
    assert lonely_mock.connections()["accepted"] == 3


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
@pytest.mark.parametrize("stream", [["--stream", "--ttft-limit=60000", "--tpot-limit=60000"], []])
def test_tokens_are_counted_as_the_server_tells_them(run: Run, endpoint: str, stream: list[str]) -> None:
    done = run(f"--endpoint={endpoint}", *stream, "--requests=4", "--concurrency=2", "--header=x-mock-events: 9")
    found = done.figures

    assert (found["errors"], found["requests_with_usage"]) == (0, 4)
    assert found["output_tokens"] == 4 * found["output_tokens_p50"] > 4 * 9
    assert found["input_tokens"] == 4 * found["input_tokens_per_request"] > 0
    assert found["output_tokens_per_s"] > 0
    if stream:
        assert 0 < found["ttft_p50_ms"] <= found["p50_latency_ms"] and found["tpot_p99_ms"] >= 0
        assert (found["goodput"], found["ttft_limit_ms"], found["tpot_limit_ms"]) == (1.0, 60000, 60000)
        assert "100.00%" in done.stderr


def test_the_first_token_is_no_empty_chunk(run: Run) -> None:
    gap = ["--header=x-mock-gap-ms: 400", "--header=x-mock-events: 1"]
    done = run("--stream", "--requests=2", "--concurrency=2", *gap)

    # The chunk with the role alone comes a gap before the first word.
    assert done.figures["ttft_p50_ms"] - done.figures["first_event_p50_ms"] > 25


def test_what_is_too_slow_is_no_goodput(run: Run) -> None:
    done = run("--stream", "--requests=2", "--concurrency=2", "--ttft-limit=0.001")

    assert (done.figures["errors"], done.figures["goodput"], done.figures["goodput_rps"]) == (0, 0.0, 0.0)


def test_a_ping_is_no_first_event(run: Run) -> None:
    done = run(
        "--stream", "--requests=2", "--concurrency=2", "--header=x-mock-ping: 1", "--header=x-mock-gap-ms: 300"
    )

    assert done.figures["first_event_p50_ms"] >= max(300, done.figures["ttfb_p50_ms"] + 1)
    assert done.figures["events"] == 2 * 9


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_a_stream_that_fails_inside_is_a_failed_request(run: Run, endpoint: str) -> None:
    done = run(
        f"--endpoint={endpoint}", "--stream", "--requests=2", "--concurrency=2", "--header=x-mock-ending: failed"
    )
    [group] = done.figures["errors_by_cause"]

    assert (done.figures["errors"], group["count"]) == (2, 2)
    assert group["cause"] == "error in the stream: server_error" and group["message"]


def test_a_200_whose_body_is_an_error_is_a_failed_request(run: Run) -> None:
    done = run("--endpoint=/v1/responses", "--requests=2", "--concurrency=2", "--header=x-mock-ending: failed")

    assert done.figures["errors_by_cause"] == [
        {"cause": "error in the body: server_error", "count": 2, "message": "The model failed."}
    ]


def test_a_cut_stream_counts_as_failed(run: Run) -> None:
    done = run("--stream", "--requests=4", "--concurrency=2", "--header=x-mock-cut-after: 3")

    assert done.figures["errors_by_cause"] == [{"cause": "response cut short", "count": 4, "message": None}]


def test_a_rate_is_kept_and_what_waits_behind_a_slow_answer_is_not_left_out(run: Run) -> None:
    # One user, 100 ms an answer, twenty wanted a second: the tenth had to leave 450 ms after the first, and could not
    # before 900 ms. Measured from its own sending it would have taken 100 ms.
    done = run("--rate=20", "--requests=10", "--concurrency=1", "--header=x-mock-delay-ms: 100")

    assert done.figures["rate_rps"] == 20
    assert done.figures["max_latency_ms"] > 450
    assert done.figures["send_delay_p99_ms"] > 350


def test_a_rate_sends_no_faster_than_it_says(run: Run) -> None:
    done = run("--rate=50", "--requests=20")

    assert done.figures["requests"] == 20
    assert done.figures["total_duration_ms"] >= 19 * 20 - 5


def test_strangers_arrive_by_chance(run: Run) -> None:
    done = run("--rate=200", "--arrivals=poisson", "--requests=40")

    assert (done.figures["requests"], done.figures["arrivals"], done.figures["errors"]) == (40, "poisson", 0)


def test_a_sweep_measures_every_level(run: Run, mock: MockOpenAI) -> None:
    done = run("--sweep=1,2,4", "--requests=8", "--warmup=4", "--fail-if=sweep.0.errors>0")
    levels = done.figures["sweep"]

    assert done.status == 0 and len(measured(mock)) == 4 + 3 * 8
    assert [(level["concurrency"], level["requests"], level["errors"]) for level in levels] == [
        (1, 8, 0),
        (2, 8, 0),
        (4, 8, 0),
    ]
    assert {key: value for key, value in done.figures.items() if key not in ("sweep", "setup")} == levels[-1]
    assert [line.split()[0] for line in done.stderr.splitlines()[1:5]] == ["users", "1", "2", "4"]


def test_a_sweep_of_rates_measures_both_servers_at_each(run: Run, mock: MockOpenAI, tmp_path: Path) -> None:
    sweep = ["--sweep=100/s,200/s", "--requests=10", f"--compare={mock.url}", "--html=report.html"]
    done = run(*sweep)
    levels = done.figures["sweep"]

    assert [(level["rate_rps"], level["requests"], level["compare"]["requests"]) for level in levels] == [
        (100, 10, 10),
        (200, 10, 10),
    ]
    assert levels[0]["compare"]["difference"].keys() == levels[1]["compare"]["difference"].keys()
    page = (tmp_path / "report.html").read_text()
    assert "Latency over throughput" in page and re.findall(r">(\d+/s)</text>", page)
    assert "100 to 200/s" not in page and "100/s to 200/s" in page


def test_an_interrupted_sweep_tells_the_levels_that_it_has(mock: MockOpenAI, tmp_path: Path) -> None:
    command = [sys.executable, str(COMMAND), f"--base-url={mock.url}", f"--token={KEY}", "--output=results.json"]
    gated = ["--sweep=1,2,4", "--requests=6", "--header=x-mock-gate: sweep"]
    mock.release("sweep", count=8)  # of the second level, two
    with subprocess.Popen([*command, *gated], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE) as going:
        mock.wait_for(path=PATH, count=8)
        going.send_signal(signal.SIGINT)
        going.communicate(timeout=200)
    levels = json.loads((tmp_path / "results.json").read_text())["sweep"]

    assert going.returncode == 128 + signal.SIGINT
    assert (levels[0]["requests"], levels[0]["interrupted"], levels[-1]["interrupted"]) == (6, False, True)


def test_a_duration_ends_the_run(run: Run, mock: MockOpenAI) -> None:
    done = run("--duration=0.5", "--concurrency=2", "--header=x-mock-delay-ms: 50")

    assert done.figures["total_duration_ms"] >= 500
    assert 0 < done.figures["client_cpu_share"] < 1.5 and done.figures["client_lag_p99_ms"] >= 0
    assert done.figures["requests"] == len(measured(mock)) > 2


def test_two_servers_are_measured_in_turn(run: Run, mock: MockOpenAI, tmp_path: Path) -> None:
    with MockOpenAI(api_key="sk-of-the-other") as other:
        done = run(
            "--requests=40", "--concurrency=2", "--warmup=3", f"--compare={other.url}", "--token2=sk-of-the-other",
            "--header=x-mock-delay-ms: 5", "--html=report.html",
        )  # fmt: skip
        sent = (len(measured(mock)), len(measured(other)))
    found, second = done.figures, done.figures["compare"]

    assert sent == (43, 43)
    assert (found["requests"], second["requests"], second["rounds"]) == (40, 40, 10)
    assert (found["base_url"], second["base_url"]) == (mock.url, other.url)
    for name in ("average_latency_ms", "p50_latency_ms", "p99_latency_ms"):
        one = second["difference"][name]
        assert one["difference_ms"] == pytest.approx(found[name] - second[name], abs=0.01)
        assert one["ratio"] == pytest.approx(found[name] / second[name], abs=0.01)
        assert one["difference_interval_ms"][0] <= one["difference_interval_ms"][1]
    page = (tmp_path / "report.html").read_text()
    assert mock.url in page and other.url in page and "sk-" not in page


def test_a_run_names_what_is_needed_to_repeat_it(run: Run, tmp_path: Path) -> None:
    done = run("--requests=3", "--concurrency=1", "--header=X-Project: ours", f"--token={KEY}")
    setup = done.figures["setup"]

    assert list(done.figures)[-1] == "setup" and KEY not in setup["command"]
    assert "--requests=3 " in setup["command"] and "'--header=X-Project: ours'" in setup["command"]
    assert json.loads(setup["payload"]["first"])["messages"][0]["content"] == "Hello"
    assert setup["version"] and setup["machine"]["cores"] >= 1


def test_a_saved_run_stands_beside_one_of_today(run: Run, mock: MockOpenAI, tmp_path: Path) -> None:
    run("--requests=20", "--concurrency=2", output="then.json")
    done = run("--requests=20", "--concurrency=4", "--compare=then.json", "--html=report.html")
    then = json.loads((tmp_path / "then.json").read_text())
    other = done.figures["compare"]

    assert len(measured(mock)) == 40  # it is read, not measured again
    assert (other["p50_latency_ms"], other["saved"]) == (then["p50_latency_ms"], "then.json")
    assert other["difference"]["p50_latency_ms"]["second"] == then["p50_latency_ms"]
    assert other["differs_in"] == ["concurrency 4 (was 2)"]
    assert "not the same as in then.json: concurrency 4 (was 2)" in done.stderr
    assert "concurrency 4 (was 2)" in (tmp_path / "report.html").read_text()


def test_every_request_is_a_line_of_csv(run: Run, tmp_path: Path) -> None:
    gap = "--header=x-mock-gap-ms: 60"  # longer than the machine is elsewhere
    done = run("--requests=6", "--concurrency=2", "--stream", "--csv=requests.csv", gap)
    failed = run("--requests=2", "--concurrency=1", "--csv=failed.csv", "--header=x-mock-status: 429")
    lines = list(csv.DictReader((tmp_path / "requests.csv").read_text().splitlines()))
    [first, _] = csv.DictReader((tmp_path / "failed.csv").read_text().splitlines())
    ends_ms = [float(line["due_ms"]) + float(line["latency_ms"]) for line in lines]

    assert len(lines) == 6 and {line["status"] for line in lines} == {"200"}
    assert {(line["events"], line["output_tokens"]) for line in lines} == {("9", "7")}
    assert all(
        0 < float(line["ttft_ms"]) < float(line["latency_ms"]) and float(line["tpot_ms"]) > 0 for line in lines
    )
    # The run is over with its last answer; what Locust needs to end is nobody's time.
    assert done.figures["total_duration_ms"] == pytest.approx(max(ends_ms), abs=1)
    assert first["error"] == "429 rate_limit_exceeded" and first["ttft_ms"] == "" and failed.figures["errors"] == 2


def test_the_report_is_one_file_that_asks_for_nothing_else(run: Run, tmp_path: Path) -> None:
    done = run("--requests=20", "--html=report.html", "--stream", "--header=x-mock-stamp: 1")
    page = (tmp_path / "report.html").read_text()

    assert done.status == 0
    assert not re.search(r"(?:src|href)=|url\(|@import", page)
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "How long responses took", "Over time", "Throughput", "First token", "Per output token", "First event",
        "Between two events", "On the way", "To measure it again",
    ]  # fmt: skip
    assert "--stream" in page and "&#34;Hello&#34;" in page and done.figures["setup"]["machine"]["processor"] in page
    assert f"{done.figures['requests']:,} requests" in page and KEY not in page


def test_what_a_server_says_is_no_markup_in_the_report(run: Run, tmp_path: Path) -> None:
    run("--requests=2", "--html=report.html", "--endpoint=/v1/<b>bold", "--payload={}", "--concurrency=1")
    page = (tmp_path / "report.html").read_text()

    assert "&lt;b&gt;bold" in page and "<b>bold" not in page
    assert "1 user" in page and "1 users" not in page


def test_a_broken_limit_is_status_1(run: Run) -> None:
    done = run("--requests=4", "--fail-if=p99_latency_ms>0.0001", "--fail-if=errors>0", "--fail-if=no_key<1")

    assert done.status == 1 and done.figures["requests"] == 4
    complaints = [line for line in done.stderr.splitlines() if line.startswith("llm-benchmark: ")]
    assert [line.split(": ")[1] for line in complaints] == [
        "failed by p99_latency_ms > 0.0001",
        "failed by no_key < 1",
    ]


@pytest.mark.parametrize("more", [[], ["--sweep=1,2"]])
def test_a_run_in_which_everything_failed_is_status_1(run: Run, mock: MockOpenAI, more: list[str]) -> None:
    done = run("--requests=4", "--header=x-mock-status: 500", *more)

    assert done.status == 1 and done.figures["errors"] == 4
    assert f"llm-benchmark: every request to {mock.url} failed\n" in done.stderr


def test_a_single_answer_makes_a_run_that_did_not_fail(run: Run) -> None:
    done = run("--requests=4", "--concurrency=1", "--header=x-mock-status: 500", "--header=x-mock-once: failing")

    assert (done.status, done.figures["errors"]) == (0, 1)


def test_of_two_servers_the_one_that_always_failed_is_named(run: Run, mock: MockOpenAI) -> None:
    done = run("--requests=10", "--concurrency=2", f"--compare={mock.url}/v1/echo", "--endpoint=/v1/chat/completions")
    assert (done.status, done.figures["compare"]["errors"]) == (0, 0)

    with MockOpenAI() as other:
        broken = run("--requests=10", "--concurrency=2", f"--compare={other.url}/nowhere")

    assert (broken.status, broken.figures["errors"], broken.figures["compare"]["errors"]) == (1, 0, 10)
    assert f"every request to {other.url}/nowhere failed" in broken.stderr


def test_kept_limits_are_status_0(run: Run) -> None:
    assert run("--requests=4", "--fail-if=errors>0", "--fail-if=throughput_rps<0.01").status == 0


def test_an_interrupted_run_tells_what_it_has(mock: MockOpenAI, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    command = [sys.executable, str(COMMAND), f"--base-url={mock.url}", f"--token={KEY}", f"--output={output}"]
    gated = ["--requests=50", "--concurrency=2", "--header=x-mock-gate: run"]
    mock.release("run", count=6)
    with subprocess.Popen(
        [*command, *gated], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as going:
        mock.wait_for(path=PATH, count=6)
        going.send_signal(signal.SIGINT)
        stdout, stderr = going.communicate(timeout=200)
    found = json.loads(output.read_text())

    assert going.returncode == 128 + signal.SIGINT and stderr == b""
    assert b"interrupted" in stdout
    assert found["interrupted"] is True and 0 < found["requests"] < 50 and found["errors"] == 0


def test_ctrl_c_before_the_load_ends_it_without_a_word() -> None:
    with subprocess.Popen([sys.executable, "-X", "importtime", str(COMMAND)], stderr=subprocess.PIPE) as starting:
        assert starting.stderr is not None
        # Told once it is imported, which is by the command's own code.
        while b" benchmark.plan" not in (line := starting.stderr.readline()) and line:
            pass
        starting.send_signal(signal.SIGINT)
        said = starting.communicate(timeout=200)[1]

    assert starting.returncode == -signal.SIGINT and b"Traceback" not in said


@pytest.mark.parametrize(
    ("full", "complaint"),
    [
        ("output", "cannot write /dev/full: No space left on device"),
        ("stdout", "cannot write standard output: No"),
    ],
)
def test_a_full_disk_takes_only_what_lies_on_it(mock: MockOpenAI, tmp_path: Path, full: str, complaint: str) -> None:
    output = "/dev/full" if full == "output" else "results.json"
    with Path("/dev/full").open("w") as nowhere:
        done = subprocess.run(
            [sys.executable, str(COMMAND), f"--base-url={mock.url}", f"--output={output}", "--html=report.html"],
            cwd=tmp_path, env=ENVIRONMENT | {"LLM_BENCHMARK_TOKEN": KEY}, text=True, timeout=200, check=False,
            stdout=nowhere if full == "stdout" else subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    assert done.returncode == 2 and complaint in done.stderr and done.stderr.count("\n") == 1
    assert (tmp_path / "report.html").exists() and (tmp_path / "results.json").exists() is (full == "stdout")
    assert full == "stdout" or "req/s" in done.stdout


def test_a_summary_that_nobody_reads_fails_nothing(mock: MockOpenAI, tmp_path: Path) -> None:
    command = f"set -o pipefail; {sys.executable} {COMMAND} --base-url={mock.url} --output=results.json | true"
    environment = ENVIRONMENT | {"LLM_BENCHMARK_TOKEN": KEY}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, timeout=200, check=False
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads((tmp_path / "results.json").read_text())["requests"] == 100


def test_it_works_from_anywhere_through_a_link(mock: MockOpenAI, tmp_path: Path) -> None:
    (tmp_path / "llm-benchmark").symlink_to(COMMAND)
    done = subprocess.run(
        [str(tmp_path / "llm-benchmark"), f"--base-url={mock.url}", "--requests=1"],
        cwd="/", env=ENVIRONMENT | {"LLM_BENCHMARK_TOKEN": KEY}, capture_output=True, timeout=200, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, b"")


def locust(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "locust", "-f", str(ROOT / "locustfile.py"), *arguments]


def test_the_locustfile_runs_headless(mock: MockOpenAI, tmp_path: Path) -> None:
    command = locust("--host", mock.url, "--headless", "--only-summary", "-u", "2", "-r", "2", "--streaming")
    environment = ENVIRONMENT | {"LLM_BENCHMARK_TOKEN": KEY}
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **both) as going:
        mock.wait_for(path=PATH, count=5, timeout=200)
        going.terminate()
        said = going.communicate(timeout=200)[0]

    assert going.returncode == 0 and re.search(rf"POST +{PATH} +[1-9]\d* +0\(0.00%\)", said), said
    assert mock.last_request()["json"]["stream"] is True and KEY not in said


def test_the_locustfile_refuses_a_payload_that_is_no_json(mock: MockOpenAI) -> None:
    done = subprocess.run(
        locust("--host", mock.url, "--headless", "--payload", "{nope"),
        env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip

    assert done.returncode == 2 and "--payload is not JSON" in done.stderr and mock.requests() == []


def test_the_web_ui_serves_and_starts_a_load_without_showing_the_token(mock: MockOpenAI, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = locust("--host", mock.url, "--web-host", "127.0.0.1", "--web-port", str(port))
    environment = ENVIRONMENT | {"LLM_BENCHMARK_TOKEN": KEY}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as going:
        try:
            page = wait_for(lambda: _page(url))
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            started = fetch(url, "POST", "/swarm", form, b"user_count=1&spawn_rate=1")[0]
            answered = mock.wait_for(path=PATH, timeout=200)
        finally:
            going.terminate()
            going.communicate(timeout=200)

    assert started == 200 and KEY not in page and "/v1/chat/completions" in page
    assert dict(answered["headers"])["Authorization"] == f"Bearer {KEY}"


def _page(url: str) -> str | None:
    try:
        return fetch(url, "GET", "/")[2].decode()
    except (OSError, http.client.HTTPException):
        return None
