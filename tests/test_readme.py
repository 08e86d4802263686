"""The README's commands, typed as they stand."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mock_openai.mock import MockOpenAI
from tests.http_by_hand import Answer, call
from tests.servers import MANAGEMENT_TOKEN, UPSTREAM_KEY, Server

README = Path(__file__).resolve().parent.parent / "README.md"
EXECUTED = re.compile(r"<!-- executed by tests/test_readme\.py -->\n```bash\n(.*?)```", re.DOTALL)
WITH_LIMITS = re.compile(r"<!-- executed by tests/test_readme\.py: limits -->\n```bash\n(.*?)```", re.DOTALL)
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def typed(proxy: Server, words: str, *, more: str = "", key: str = UPSTREAM_KEY) -> subprocess.CompletedProcess[str]:
    """What became of the commands of the one block that has these words."""
    [commands] = [block for block in EXECUTED.findall(README.read_text()) if words in block]
    script = commands.replace("http://localhost:8080", proxy.url) + more
    # `llm-proxy` is run by whichever Python comes first.
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={
            "PATH": path,
            "LLM_PROXY_URL": proxy.url,
            "MANAGEMENT_TOKEN": MANAGEMENT_TOKEN,
            "OPENAI_API_KEY": key,
        },
        cwd=README.parent,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def project_id(proxy: Server, name: str) -> str:
    """Of the project with this name."""
    _, page = proxy.manage("GET", "/projects?limit=1000")
    return next(project["id"] for project in page["data"] if project["name"] == name)


@needs_curl
def test_the_everyday_commands_work_as_they_stand(proxy: Server) -> None:
    done = typed(proxy, "a project, with its upstream key")

    assert done.returncode == 0, done.stderr
    completion, tokens, switched_off, switched_on = _documents(done.stdout)
    assert completion["object"] == "chat.completion"
    assert [token["label"] for token in tokens["data"]] == ["nightly job"]
    assert (switched_off["is_active"], switched_on["is_active"]) == (False, True)

    again = typed(proxy, "a project, with its upstream key")
    assert again.returncode == 1 and again.stderr.startswith("A project named 'search team' exists already.")
    proxy.manage("DELETE", f"/projects/{switched_on['id']}?force=true")


@needs_curl
def test_the_everyday_commands_say_what_the_api_says_without_a_key(proxy: Server) -> None:
    done = typed(proxy, "a project, with its upstream key", key="")

    assert done.returncode == 1 and done.stderr.startswith("openai_api_key must have"), done.stderr
    assert "Traceback" not in done.stderr


@needs_curl
def test_tokens_with_limits_are_issued_as_it_says(proxy: Server, upstream: MockOpenAI) -> None:
    [commands] = WITH_LIMITS.findall(README.read_text())
    project = proxy.create_project()

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands.replace("http://localhost:8080", proxy.url)],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "MANAGEMENT_TOKEN": MANAGEMENT_TOKEN, "PROJECT": project},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    students, job = _documents(done.stdout)
    assert len(students["data"]) == 30
    student = students["data"][0]["token"]
    assert [_code(proxy, student, model) for model in ("gpt-4o-mini", "gpt-4o")] == [None, "model_not_allowed"]
    assert _code(proxy, job["token"], "gpt-4o-mini") == "address_not_allowed"


def _code(proxy: Server, secret: str, model: str) -> str | None:
    """The code that a chat is refused with."""
    body = json.dumps({"model": model, "messages": []}).encode()
    bearer, kind = ("Authorization", f"Bearer {secret}"), ("Content-Type", "application/json")
    answer = call(proxy.url, "POST", "/v1/chat/completions", bearer, kind, body=body)
    return None if answer.status == 200 else str(answer.json["error"]["code"])


def _documents(text: str) -> list[dict]:
    """The JSON documents in a text, one after another."""
    decoder, found, position = json.JSONDecoder(), [], 0
    while (position := text.find("{", position)) >= 0:
        document, position = decoder.raw_decode(text, position)
        found.append(document)
    return found


def test_thirty_students_have_two_dollars_a_day_until_friday(proxy: Server) -> None:
    done = typed(proxy, "--label student")

    assert done.returncode == 0, done.stderr
    secrets = dict(line.split("\t") for line in done.stdout.splitlines() if line.startswith("student "))
    assert list(secrets) == [f"student {number:02}" for number in range(1, 31)]
    school = project_id(proxy, "school")
    _, page = proxy.manage("GET", f"/meters?project_id={school}")
    assert {(row["amount"], row["period"], row["reserve"]) for row in page["data"]} == {("2.00", "day", "bound")}
    assert len(page["data"]) == 30
    answer = _chat(proxy, secrets["student 07"])
    assert (answer.status, 1.9 < float(answer["x-proxy-budget-remaining"]) < 2) == (200, True)
    proxy.manage("DELETE", f"/projects/{school}?force=true")


def test_one_job_has_a_dollar(proxy: Server) -> None:
    done = typed(proxy, "release build", more="\necho secret=$OPENAI_API_KEY")

    assert done.returncode == 0, done.stderr
    assert "USD in total" in done.stdout
    _, secret = done.stdout.rsplit("secret=", 1)
    assert 0.9 < float(_chat(proxy, secret.strip())["x-proxy-budget-remaining"]) < 1
    for model in ("gpt-4o-mini", "gpt-4.1"):
        assert _chat(proxy, secret.strip(), model=model, max_tokens=None).status == 200
    dear = _chat(proxy, secret.strip(), model="gpt-5", max_tokens=None)
    assert dear.json["error"]["code"] == "budget_too_small"
    assert _chat(proxy, secret.strip(), model="gpt-5", max_tokens=4096).status == 200
    proxy.manage("DELETE", f"/projects/{project_id(proxy, 'ci')}?force=true")


def _chat(proxy: Server, secret: str, **members: object) -> Answer:
    body = {"model": "gpt-4o-mini", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]} | members
    headers = (("Authorization", f"Bearer {secret}"), ("Content-Type", "application/json"))
    return call(proxy.url, "POST", "/v1/chat/completions", *headers, body=json.dumps(body).encode())
