"""The README's commands, typed as they stand."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mock_openai.mock import MockOpenAI
from tests.http_by_hand import call
from tests.servers import MANAGEMENT_TOKEN, UPSTREAM_KEY, Server

README = Path(__file__).resolve().parent.parent / "README.md"
EXECUTED = re.compile(r"<!-- executed by tests/test_readme\.py -->\n```bash\n(.*?)```", re.DOTALL)
WITH_LIMITS = re.compile(r"<!-- executed by tests/test_readme\.py: limits -->\n```bash\n(.*?)```", re.DOTALL)
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@needs_curl
def test_the_everyday_commands_work_as_they_stand(proxy: Server) -> None:
    [commands] = EXECUTED.findall(README.read_text())
    script = commands.replace("http://localhost:8080", proxy.url)

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "MANAGEMENT_TOKEN": MANAGEMENT_TOKEN,
            "OPENAI_API_KEY": UPSTREAM_KEY,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    completion, tokens, switched_off, switched_on = _documents(done.stdout)
    assert completion["object"] == "chat.completion"
    assert [token["label"] for token in tokens["data"]] == ["nightly job"]
    assert (switched_off["is_active"], switched_on["is_active"]) == (False, True)
    proxy.manage("DELETE", f"/projects/{switched_on['id']}?force=true")


@needs_curl
def test_tokens_with_limits_are_issued_as_it_says(proxy: Server, upstream: MockOpenAI) -> None:
    [commands] = WITH_LIMITS.findall(README.read_text())
    project = proxy.create_project()

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands.replace("http://localhost:8080", proxy.url)],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "MANAGEMENT_TOKEN": MANAGEMENT_TOKEN, "PROJECT": project},
        capture_output=True,
        text=True,
        timeout=60,
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
