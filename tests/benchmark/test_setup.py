"""What a run says of itself, so that it can be repeated."""

import shlex

import click
import pytest

from benchmark import setup
from benchmark.options import SECTIONS, Command


def typed(*words: str) -> str:
    """The command that a run tells when this was typed."""
    said: list[str] = []
    command = Command("llm-benchmark", callback=lambda **_: said.append(setup.command(click.get_current_context())))
    command.main([*words], standalone_mode=False)
    return said[0]


def test_the_command_is_what_was_typed_and_nothing_else():
    words = ["--base-url=http://host", "--payload={\"a\": \"it's\"}", "--stream", "--rate=2.5", "--fail-if=errors>0",
             "--fail-if=p50_latency_ms>5", "--header=x-mock-gap-ms: 5", "--sweep=1,2"]  # fmt: skip

    assert sorted(shlex.split(typed(*words))) == sorted(["llm-benchmark", *words])


def test_a_command_that_is_typed_again_tells_the_same():
    first = typed("--base-url", "http://host", "--duration", "1.50", "--concurrency", "3", "--token", "secret")

    assert typed(*shlex.split(first)[1:]) == first
    assert "--duration=1.5" in first


@pytest.mark.parametrize(
    "secret",
    [["--token=s3cret"], ["--token", "s3cret", "--token", "s3cret2"], ["--compare=http://x", "--token2=s3cret"],
     ["--header=Authorization: Bearer s3cret"], ["--header=api-key:s3cret"], ["--header=Cookie: a=s3cret"]],
)  # fmt: skip
def test_no_secret_is_told(secret):
    assert "s3cret" not in typed("--base-url=http://host", *secret)


def test_what_comes_from_the_environment_is_not_told(monkeypatch):
    monkeypatch.setenv("LLM_BENCHMARK_TOKEN", "s3cret")

    assert typed("--base-url=http://host") == "llm-benchmark --base-url=http://host"


def test_every_option_that_takes_a_token_is_known_as_a_secret():
    options = {name for options in SECTIONS.values() for option in options for name in option.opts}

    assert {name for name in options if "token" in name} - {"--token-file", "--input-tokens", "--output-tokens"} == (
        setup.SECRETS
    )


def test_the_payload_is_shown_as_far_as_it_can_be_and_known_by_its_hash():
    short, long, other = (
        setup.payload([b"{}"]),
        setup.payload([b"x" * 9000, b"y"]),
        setup.payload([b"x" * 9000, b"z"]),
    )

    assert (short["bodies"], short["bytes"], short["first"]) == (1, 2, "{}")
    assert (long["bodies"], long["bytes"]) == (2, 9001) and len(long["first"]) < 2100
    assert long["first"] == other["first"] and long["sha256"] != other["sha256"]
