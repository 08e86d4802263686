"""`llm-proxy` as an operator types it, at a running proxy."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mock_openai.mock import MockOpenAI
from operator_cli import api
from tests.http_by_hand import call
from tests.servers import DEPLOYED, MANAGEMENT_TOKEN, Server, wait_for

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-planted-key-of-the-command-line"

Typed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def server(running_upstream: MockOpenAI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests. Its project `shop` is for those that change nothing; the others make one of their own."""
    with Server(DEPLOYED, tmp_path_factory.mktemp("typed") / "data", UPSTREAM_URL=running_upstream.url) as server:
        server.create_project(name="shop")
        yield server


@pytest.fixture
def shop(server: Server) -> str:
    """The name of a project that nobody else has."""
    name = f"shop {uuid.uuid4()}"
    server.create_project(name=name)
    return name


@pytest.fixture
def typed(server: Server) -> Typed:
    """Runs the command; what it printed and how it ended."""

    def run(
        *arguments: str, stdin: str | bytes | None = "", stdout: str | None = "", stderr: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """stdin and stdout may be None for closed, and stdout and stderr be files."""
        variables = {"LLM_PROXY_URL": server.url, "MANAGEMENT_TOKEN": MANAGEMENT_TOKEN} | environ
        path = {"PATH": os.environ["PATH"]}  # noqa: TID251
        command = [sys.executable, str(ROOT / "llm-proxy"), *arguments]
        closed = "".join(sign for sign, stream in ((" <&-", stdin), (" >&-", stdout)) if stream is None)
        into = "".join(f" {sign}{file}" for sign, file in ((">", stdout), ("2>", stderr)) if file)
        if closed or into:
            command = ["sh", "-c", f'exec "$@"{closed}{into}', "sh", *command]
        given = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(command, env=path | variables, input=given, capture_output=True, check=False)
        return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


def test_a_secret_alone_goes_to_stdout_and_opens_the_api_until_it_is_revoked(server: Server, typed: Typed) -> None:
    created = typed("projects", "create", "a new shop", stdin=f"{KEY}\n")
    assert created.returncode == 0 and KEY not in created.stdout + created.stderr

    issued = typed("tokens", "issue", "a new shop", "--hours", "1", "--label", "till")
    secret = issued.stdout.strip()
    bearer = ("Authorization", f"Bearer {secret}")
    assert issued.returncode == 0 and len(secret.split()) == 1 and secret not in issued.stderr
    assert call(server.url, "GET", "/v1/models", bearer).status == 200

    [listed] = json.loads(typed("tokens", "list", "--project", "a new shop", "--json").stdout)
    assert listed["label"] == "till" and listed["id"] in issued.stderr
    assert typed("tokens", "revoke", listed["id"]).returncode == 0
    assert call(server.url, "GET", "/v1/models", bearer).status == 401


def test_a_rotated_token_is_used_with_either_secret_until_the_grace_is_over(
    server: Server, typed: Typed, shop: str
) -> None:
    old = typed("tokens", "issue", shop, "--hours", "1").stdout.strip()
    [listed] = json.loads(typed("tokens", "list", "--project", shop, "--json").stdout)

    new = typed("tokens", "rotate", listed["id"], "--grace", "1").stdout.strip()

    statuses = [call(server.url, "GET", "/v1/models", ("Authorization", f"Bearer {it}")).status for it in (old, new)]
    assert old != new and statuses == [200, 200]


def test_lists_are_tables_with_names_of_columns_or_json(server: Server, typed: Typed) -> None:
    for number in range(3):
        server.create_project(name=f"project {number}")

    head, *rows = typed("projects", "list").stdout.splitlines()
    assert head.split()[:2] == ["NAME", "ID"]
    assert [row.split("  ")[0] for row in rows[:3]] == ["project 2", "project 1", "project 0"]
    assert len(json.loads(typed("projects", "list", "--limit", "2", "--json").stdout)) == 2


def test_a_list_goes_on_over_the_pages_of_the_api(server: Server, typed: Typed) -> None:
    project = server.create_project(name="many")
    for _ in range(101):
        server.issue_token(project)

    assert len(json.loads(typed("tokens", "list", "--project", "many", "--json").stdout)) == 101


def test_a_project_is_switched_off_and_on_and_deleted_by_its_name(server: Server, typed: Typed) -> None:
    token = server.issue_token(server.create_project(name="off and on"))

    def status() -> int:
        return call(server.url, "GET", "/v1/models", token.bearer).status

    assert (typed("projects", "off", "off and on").returncode, status()) == (0, 403)
    assert (typed("projects", "on", "off and on").returncode, status()) == (0, 200)
    refused = typed("projects", "delete", "off and on")
    assert refused.returncode == 1 and "force" in refused.stderr
    assert (typed("projects", "delete", "off and on", "--force").returncode, status()) == (0, 401)


def test_an_id_is_never_taken_for_a_name(server: Server, typed: Typed) -> None:
    meant = server.create_project(name="meant")
    other = server.create_project(name=meant)

    assert typed("projects", "delete", meant).returncode == 0
    left = {project["id"] for project in json.loads(typed("projects", "list", "--json").stdout)}
    assert other in left and meant not in left


def test_a_limit_holds_for_the_next_call(server: Server, typed: Typed) -> None:
    token = server.issue_token()
    assert call(server.url, "GET", "/v1/models", token.bearer).status == 200

    assert typed("limits", "set", token.id, "--rate-limit", "1").returncode == 0
    assert call(server.url, "GET", "/v1/models", token.bearer).status == 429
    assert typed("limits", "set", token.id, "--default").returncode == 0
    assert call(server.url, "GET", "/v1/models", token.bearer).status == 200


def test_a_budget_is_set_looked_at_changed_and_taken_away(typed: Typed, shop: str) -> None:
    added = json.loads(
        typed("limits", "add", "--project", shop, "--usd", "12.50", "--per", "month", "--zone", "Europe/Berlin",
              "--model", "gpt-4o", "--name", "shop", "--bound", "--json").stdout
    )  # fmt: skip
    assert (added["amount"], added["unit"], added["period"], added["zone"]) == (
        "12.50",
        "usd",
        "month",
        "Europe/Berlin",
    )
    assert (added["models"], added["reserve"], added["name"]) == (["gpt-4o"], "bound", "shop")
    listed = typed("limits", "list", "--project", shop).stdout.splitlines()
    assert listed[0].split()[:4] == ["ID", "NAME", "TOKEN", "ID"] and listed[1].split()[0] == added["id"]
    assert json.loads(typed("limits", "change", added["id"], "20", "--json").stdout)["amount"] == "20.00"
    assert json.loads(typed("limits", "reset", added["id"], "--json").stdout)["spent"] == "0.00"
    assert typed("limits", "delete", added["id"]).returncode == 0
    assert json.loads(typed("limits", "list", "--project", shop, "--json").stdout) == []


def test_a_token_may_be_issued_with_a_budget(typed: Typed, shop: str) -> None:
    assert typed("tokens", "issue", shop, "--hours", "1", "--usd", "2.50", "--per", "day").returncode == 0
    [meter] = json.loads(typed("limits", "list", "--project", shop, "--json").stdout)
    assert (meter["amount"], meter["unit"], meter["period"]) == ("2.50", "usd", "day") and meter["token_id"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--per", "day", "--usd", "1"], "either --project or --token"),
        (
            ["--per", "day", "--usd", "1", "--tokens", "1", "--token", "x"],
            "Name one of --usd, --tokens and --requests",
        ),
        (["--per", "minute", "--usd", "1", "--project", "shop"], "for dollars"),
        (["--per", "day", "--usd", "much", "--project", "shop"], "(400)"),
        (["--per", "day", "--requests", "1", "--token", "nobody"], "(404)"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_in_words(typed: Typed, arguments: list[str], words: str) -> None:
    done = typed("limits", "add", *arguments)

    assert done.returncode in (1, 2) and words in done.stderr and "Traceback" not in done.stderr
    assert json.loads(typed("limits", "list", "--project", "shop", "--json").stdout) == []


def test_help_needs_no_token_and_no_proxy(typed: Typed) -> None:
    done = typed("limits", "add", "--help", MANAGEMENT_TOKEN="", LLM_PROXY_URL="http://127.0.0.1:9")

    assert done.returncode == 0 and "--usd" in done.stdout


def test_days_may_be_those_of_a_zone(typed: Typed) -> None:
    span = ("--from", "2026-03-28T23:00:00Z", "--to", "2026-03-30T22:00:00Z")

    shown = typed("usage", "--by", "day", "--tz", "Europe/Berlin", *span).stdout.splitlines()
    assert [line.split()[0] for line in shown] == [
        "DAY", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00", "total",
    ]  # fmt: skip


def test_usage_is_a_table_with_its_total(typed: Typed, shop: str) -> None:
    shown = typed("usage", "--by", "day", "--project", shop).stdout.splitlines()
    assert shown[0].split()[:2] == ["DAY", "REQUESTS"] and shown[-1].split()[:2] == ["total", "0"]
    assert json.loads(typed("usage", "--by", "project", "--json").stdout)["group_by"] == "project"


def test_usage_of_tokens_tells_their_ids_and_is_read_page_by_page_as_lists_are(
    server: Server, upstream: MockOpenAI, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = server.create_project(name="of five")
    tokens = [server.issue_token(project) for _ in range(5)]
    for token in tokens:
        assert call(server.url, "GET", "/v1/models", token.bearer).status == 200

    def is_summed_up() -> bool:
        return server.manage("GET", f"/usage?project_id={project}")[1]["total"]["requests"] == 5

    wait_for(is_summed_up)
    shown = [line.split() for line in typed("usage", "--by", "token", "--project", "of five").stdout.splitlines()]
    assert shown[0][:3] == ["TOKEN", "ID", "NAME"] and shown[-1][:3] == ["total", "-", "5"]
    assert {tuple(line[1:3]) for line in shown[1:-1]} == {("-", "1")}
    assert {line[0] for line in shown[1:-1]} == {token.id for token in tokens}

    monkeypatch.setattr(api, "PAGE", 2)
    asked = api.Api(server.url, MANAGEMENT_TOKEN, None)
    for limit in [2, 3, 5, 100]:
        report = asked.usage(limit=limit, project_id=project, group_by="token")
        read = {row["token_id"] for row in report["data"]}
        assert read <= {token.id for token in tokens} and len(read) == len(report["data"]) == min(limit, 5)
        assert report["total"]["requests"] == 5 and report["has_more"] is (limit < 5)
        listed = [row["id"] for row in asked.rows("/tokens", limit=limit, project_id=project)]
        assert listed == [token.id for token in reversed(tokens)][:limit]


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        (["projects", "show", "nobody"], {}, "no project with the name or id 'nobody'"),
        (["tokens", "show", "../projects"], {}, "'../projects' is no id"),
        (["tokens", "list"], {"MANAGEMENT_TOKEN": "wrong-token"}, "does not take this management token"),
        (["tokens", "list"], {"MANAGEMENT_TOKEN": ""}, "Set MANAGEMENT_TOKEN"),
        (["tokens", "list"], {"LLM_PROXY_URL": "http://127.0.0.1:9"}, "No answer from http://127.0.0.1:9/manage"),
        (["tokens", "list"], {"LLM_PROXY_URL": "127.0.0.1:9"}, "as in http://"),
        (["tokens", "list"], {"MANAGEMENT_TOKEN": "schlüssel"}, "it must be ASCII"),
        (["tokens", "list"], {"LLM_PROXY_URL": "http://[::1"}, "as in http://"),
        (["tokens", "issue", "shop", "--until", "9999-12-31"], {}, "is too far away"),
        (["projects", "show", "\udcff"], {}, "no project with the name or id"),
        (["tokens", "list", "--project", "\udcff"], {}, "no project with the name or id"),
        (["usage", "--model", "\udcff"], {}, "no text in UTF-8"),
        (["tokens", "issue", "shop", "--hours", "1", "--label", "\udcff"], {}, "no text in UTF-8"),
        (["tokens", "issue", "shop", "--hours", "9" * 30], {}, "a whole number from 1 to 8760"),
        (["tokens", "issue", "shop", "--hours", "9" * 5000], {}, "is not a valid integer"),
        (["tokens", "issue", "shop", "--hours", "1", "--usd", "-1"], {}, "must be dollars in a text"),
        (["tokens", "show", "a" * 100_000], {}, "request line is too long"),
        (["usage", "--by", "day", "--tz", "Asia/Kolkata"], {}, "off from UTC by a part of an hour"),
    ],
)
def test_what_goes_wrong_is_one_line_that_says_what_to_do(
    typed: Typed, arguments: list[str], environ: dict[str, str], words: str
) -> None:
    done = typed(*arguments, **environ)

    assert done.returncode in (1, 2) and done.stdout == ""
    assert words in done.stderr and "Traceback" not in done.stderr and MANAGEMENT_TOKEN not in done.stderr


def test_a_certificate_that_is_not_trusted_is_told_as_such(server: Server, typed: Typed) -> None:
    done = typed("tokens", "list", LLM_PROXY_URL=server.url.replace("http:", "https:"))

    assert done.returncode == 1 and "see --ca-file" in done.stderr


@pytest.mark.parametrize("option", ["--token-file", "--ca-file"])
def test_a_file_that_holds_something_else_is_told_in_a_line(typed: Typed, tmp_path: Path, option: str) -> None:
    (tmp_path / "binary").write_bytes(bytes(range(256)))

    done = typed(option, str(tmp_path / "binary"), "tokens", "list", LLM_PROXY_URL="https://127.0.0.1:9")
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr and done.stderr.count("Error: ") == 1


@pytest.mark.parametrize(("stdin", "words"), [(b"sk-\xff", "a byte in it is not ASCII"), (None, "which is closed")])
def test_an_upstream_key_that_cannot_be_read_is_asked_for_again(
    typed: Typed, stdin: bytes | None, words: str
) -> None:
    done = typed("projects", "create", "new", stdin=stdin)

    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def _tokens(server: Server, project: str) -> list[dict[str, str]]:
    return server.manage("GET", f"/tokens?project_id={project}")[1]["data"]


def test_no_secret_is_made_that_a_closed_stdout_would_lose(server: Server, typed: Typed) -> None:
    token = server.issue_token()
    for arguments in [("issue", token.project_id, "--hours", "1"), ("rotate", token.id, "--grace", "0")]:
        done = typed("tokens", *arguments, stdout=None)

        assert done.returncode == 1 and done.stderr == "Error: stdout cannot be written: it is closed.\n"
    assert [row["id"] for row in _tokens(server, token.project_id)] == [token.id]
    assert call(server.url, "GET", "/v1/models", token.bearer).status == 200


@pytest.mark.parametrize("more", [(), ("--json",), ("--count", "2"), ("--count", "2", "--json")])
def test_who_cannot_print_a_secret_tells_whose_it_is(server: Server, typed: Typed, more: tuple[str, ...]) -> None:
    project = server.create_project()

    done = typed("tokens", "issue", project, "--hours", "1", *more, stdout="/dev/full")

    assert done.returncode == 1 and "tokens revoke" in done.stderr and "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr and _tokens(server, project)
    assert all(row["id"] in done.stderr for row in _tokens(server, project))


def test_who_cannot_print_a_rotated_secret_tells_whose_it_is(server: Server, typed: Typed) -> None:
    token = server.issue_token()

    done = typed("tokens", "rotate", token.id, "--grace", "0", stdout="/dev/full")

    assert done.returncode == 1 and token.id in done.stderr and "tokens rotate" in done.stderr


def test_a_secret_is_printed_where_nothing_else_can_be(server: Server, typed: Typed) -> None:
    project = server.create_project()

    done = typed("tokens", "issue", project, "--hours", "1", stderr="/dev/full")
    bearer = ("Authorization", f"Bearer {done.stdout.strip()}")
    assert done.returncode == 0 and call(server.url, "GET", "/v1/models", bearer).status == 200


@pytest.mark.parametrize(("stdout", "code"), [("/dev/full", 1), (None, 1)])
def test_a_list_that_cannot_be_printed_is_a_failure(typed: Typed, stdout: str | None, code: int) -> None:
    done = typed("projects", "list", stdout=stdout)

    assert done.returncode == code and done.stderr.startswith("Error: stdout cannot be written")
    assert "Exception ignored" not in done.stderr


def test_a_label_is_printed_where_the_terminal_lacks_its_letters(server: Server, typed: Typed) -> None:
    project = server.create_project()

    done = typed(
        "tokens", "issue", project, "--hours", "1", "--count", "1", "--label", "Жук", PYTHONIOENCODING="ascii"
    )
    listed = typed("tokens", "list", "--project", project, "--json", PYTHONIOENCODING="latin-1")

    assert done.returncode == 0 and done.stdout.startswith("\\u0416\\u0443\\u043a")
    assert [row["label"] for row in json.loads(listed.stdout)] == [row["label"] for row in _tokens(server, project)]


def test_a_shell_completes_its_words(typed: Typed) -> None:
    completed = typed(_LLM_PROXY_COMPLETE="bash_complete", COMP_WORDS="llm-proxy tokens ", COMP_CWORD="2")

    assert {"plain,issue", "plain,list", "plain,revoke"} <= set(completed.stdout.split())


def test_tokens_are_issued_with_budgets_many_at_once(typed: Typed, shop: str) -> None:
    issued = typed(
        "tokens", "issue", shop, "--count", "3", "--until", "sunday", "--label", "student", "--usd", "2", "--per",
        "day", "--zone", "Europe/Amsterdam", "--bound", TZ="Asia/Tokyo",
    )  # fmt: skip

    assert issued.returncode == 0, issued.stderr
    lines = [line.split("\t") for line in issued.stdout.splitlines()]
    assert [label for label, _ in lines] == ["student 1", "student 2", "student 3"]
    assert len({secret for _, secret in lines}) == 3
    # The end of that day, to the second: an hour more would have the next day's budget.
    ends = {row["expires_at"] for row in json.loads(typed("tokens", "list", "--project", shop, "--json").stdout)}
    ends_there = [datetime.fromisoformat(end).astimezone(ZoneInfo("Asia/Tokyo")) for end in ends]
    assert [f"{end:%a %H:%M:%S}" for end in ends_there] == ["Mon 00:00:00"]
    found = json.loads(typed("limits", "list", "--project", shop, "--json").stdout)
    assert {(row["amount"], row["period"], row["zone"], row["reserve"]) for row in found} == {
        ("2.00", "day", "Europe/Amsterdam", "bound")
    }


@pytest.mark.parametrize(
    "more", [(), ("--until", "someday"), ("--hours", "1", "--zone", "UTC"), ("--hours", "1", "--per", "day")]
)
def test_half_of_what_a_token_needs_is_asked_for_again(typed: Typed, shop: str, more: tuple[str, ...]) -> None:
    assert typed("tokens", "issue", shop, *more).returncode == 2
