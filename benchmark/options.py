"""The options of llm-benchmark, in the sections of its help, and what was asked with them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import chain
from typing import Any

import click
from click.core import ParameterSource

from benchmark.call import METHODS
from benchmark.plan import ARRIVALS, Arrivals
from benchmark.refused import Refused

REFUSED = 2


def _option(*names: str, **settings: Any) -> click.Option:
    """An option that says its default."""
    return click.Option(names, **({"show_default": settings.get("default") is not None} | settings))


SECTIONS = {
    "What is sent": [
        _option("--base-url", required=True, help="The server, such as http://localhost:8080."),
        _option("--endpoint", default="/v1/chat/completions", help="Path of the server."),
        _option(
            "--method",
            type=click.Choice(METHODS, case_sensitive=False),
            metavar="METHOD",
            default="POST",
            help="Without --payload only POST has a body.",
        ),
        _option(
            "--token",
            "tokens",
            multiple=True,
            envvar="LLM_BENCHMARK_TOKEN",
            help="Bearer token, which `ps` shows to everybody; repeatable, for requests in turn.",
        ),
        _option("--token-file", envvar="LLM_BENCHMARK_TOKEN_FILE", help="File of tokens, one on each line."),
        _option("--payload", help="JSON to send, or @FILE; a small one of the endpoint's kind without it."),
        _option("--prompts", metavar="FILE", help="JSON on each line, in turn: a text, or fields of the payload."),
        _option("--input-tokens", metavar="N[±N]", help="Makes prompts up of so many tokens, no two the same."),
        _option("--output-tokens", metavar="N[±N]", help="The most tokens that a response may have."),
        _option(
            "--seed",
            type=int,
            metavar="N",
            default=1,
            help="Another one, other prompts, lengths, arrivals.",
        ),
        _option("--stream", is_flag=True, help='Adds "stream": true, and times every event.'),
        _option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="One more header; repeatable."),
        _option(
            "--timeout",
            "timeout_s",
            type=float,
            metavar="S",
            default=60.0,
            help="Seconds of silence that fail a request.",
        ),
    ],
    "How much of it": [
        _option("--requests", type=int, metavar="N", help="How many, in all; 100 without --duration."),
        _option(
            "--duration", "duration_s", type=float, metavar="S", help="Seconds to go on for, instead of --requests."
        ),
        _option(
            "--concurrency",
            type=int,
            metavar="N",
            help="Users, each with one request at a time; 10, with --rate 256.",
        ),
        _option(
            "--rate", type=float, metavar="N", help="Requests per second, kept whether or not the responses keep up."
        ),
        _option(
            "--arrivals",
            type=click.Choice(ARRIVALS),
            default="even",
            help="With --rate: one every 1/rate seconds, or by chance as of strangers.",
        ),
        _option("--sweep", metavar="1,2,4|10/s,20/s", help="All of it by so many users, or at such rates, in turn."),
        _option("--warmup", type=int, metavar="N", default=0, help="Requests before the measured ones."),
    ],
    "What it is held against": [
        _option(
            "--ttft-limit",
            "ttft_limit_ms",
            type=float,
            metavar="MS",
            help="Milliseconds to the first token, for goodput.",
        ),
        _option(
            "--tpot-limit",
            "tpot_limit_ms",
            type=float,
            metavar="MS",
            help="Milliseconds per token after it, for goodput.",
        ),
        _option("--pace", type=float, metavar="N", help="Counts the streams that kept so many events per second."),
        _option(
            "--compare",
            metavar="URL2|FILE",
            help="Measures this server in turn with --base-url; or tells what was saved by --output beside it.",
        ),
        _option(
            "--token2",
            "tokens2",
            multiple=True,
            envvar="LLM_BENCHMARK_TOKEN2",
            help="Token of --compare, where it is another one; repeatable.",
        ),
        _option("--fail-if", "limits", multiple=True, metavar='"KEY>N"', help="Status 1 when it holds; repeatable."),
    ],
    "What is written": [
        _option("--output", metavar="FILE", help="Figures as JSON; - for standard output."),
        _option("--html", metavar="FILE", help="Report with charts, in one file."),
        _option("--csv", metavar="FILE", help="A line for each request."),
    ],
}


@dataclass(frozen=True)
class Asked:
    """What was typed, by the names of the options."""

    base_url: str
    endpoint: str
    method: str
    tokens: tuple[str, ...]
    token_file: str | None
    payload: str | None
    prompts: str | None
    input_tokens: str | None
    output_tokens: str | None
    seed: int
    stream: bool
    headers: tuple[str, ...]
    timeout_s: float
    requests: int | None
    duration_s: float | None
    concurrency: int | None
    rate: float | None
    arrivals: Arrivals
    sweep: str | None
    warmup: int
    ttft_limit_ms: float | None
    tpot_limit_ms: float | None
    pace: float | None
    compare: str | None
    tokens2: tuple[str, ...]
    limits: tuple[str, ...]
    output: str | None
    html: str | None
    csv: str | None

    def given_tokens(self) -> tuple[tuple[str, ...], str | None]:
        """--token and --token-file, without what the environment says of one where the other was typed."""
        if is_typed("tokens") or is_typed("token_file"):
            return self.tokens if is_typed("tokens") else (), self.token_file if is_typed("token_file") else None
        return self.tokens, self.token_file

    @property
    def compared_url(self) -> str | None:
        """The second server, where there is one."""
        return self.compare if self.compare is not None and "://" in self.compare else None

    @property
    def compared_file(self) -> str | None:
        """The saved run, where there is one."""
        return self.compare if self.compared_url is None else None


def is_typed(name: str) -> bool:
    """Whether an option was on the command line, and not in the environment alone."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


class Command(click.Command):
    """A command whose help has sections, and whose every complaint is one line with status 2."""

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(
            name,
            params=[*chain.from_iterable(SECTIONS.values())],
            context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]},
            **settings,
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections = SECTIONS | {"More": [option] if (option := self.get_help_option(ctx)) else []}
        for title, options in sections.items():
            with formatter.section(title):
                formatter.write_dl([record for option in options if (record := option.get_help_record(ctx))])

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            return super().main(*args, **(extra | {"standalone_mode": False}))
        except click.ClickException as error:
            complaint = " ".join(error.format_message().split())
        except Refused as error:
            complaint = str(error)
        print(f"{self.name}: {complaint}", file=sys.stderr)
        sys.exit(REFUSED)
