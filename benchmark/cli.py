"""
The command `llm-benchmark`: its options, what is refused, and in which order things happen.

Status 0: it ran. 1: a limit of --fail-if is broken. 2: refused, nothing was written. 130, 143: ended by a
signal, with the summary so far.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console

from benchmark.call import Call, body_of, check_endpoint, read_payload
from benchmark.figures import fail_if
from benchmark.output.console import summary
from benchmark.output.html_report import page
from benchmark.plan import allow_connections, make_plan
from benchmark.refused import Refused, check_positive
from benchmark.session import Session
from benchmark.target import Target, read_token

BROKEN_LIMIT, REFUSED, ENDED_BY_SIGNAL = 1, 2, 128


class OneLine(click.Command):
    """A command whose every complaint is one line with status 2."""

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            return super().main(*args, **(extra | {"standalone_mode": False}))
        except click.ClickException as error:
            complaint = " ".join(error.format_message().split())
        except Refused as error:
            complaint = str(error)
        print(f"llm-benchmark: {complaint}", file=sys.stderr)
        sys.exit(REFUSED)


def option(*names: str, **settings: Any) -> Callable[[Any], Any]:
    """An option that says its default."""
    return click.option(*names, **({"show_default": settings.get("default") is not None} | settings))


@click.command(cls=OneLine, context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@option("--base-url", required=True, help="The server, such as http://localhost:8080 or https://api.openai.com.")
@option("--endpoint", default="/v1/chat/completions", help="Where to POST.")
@option("--token", envvar="LLM_BENCHMARK_TOKEN", help="Bearer token; better in LLM_BENCHMARK_TOKEN than in `ps`.")
@option("--token-file", envvar="LLM_BENCHMARK_TOKEN_FILE", help="File that holds the token.")
@option("--requests", type=int, help="How many, in all; 100 without --duration.")
@option("--concurrency", type=int, help="Users, each with one request at a time; 10, with --rate 256.")
@option("--payload", help="JSON to send, or @FILE; a small one of the endpoint's kind without it.")
@option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="One more header; repeatable.")
@option("--timeout", "timeout_s", type=float, default=60.0, help="Seconds of silence after which a request failed.")
@option("--duration", "duration_s", type=float, help="Seconds to go on for, instead of --requests.")
@option("--rate", type=float, help="Requests per second, kept whether or not the answers keep up.")
@option("--warmup", type=int, default=0, help="Requests before the measured ones.")
@option("--stream", is_flag=True, help='Adds "stream": true, and times every event.')
@option("--pace", type=float, help="With --stream: counts the streams that kept so many events per second.")
@option("--compare", "compare_url", metavar="URL2", help="Measures this server in turn with --base-url.")
@option("--token2", envvar="LLM_BENCHMARK_TOKEN2", help="Token of --compare, where it is another one.")
@option("--output", metavar="FILE", help="Figures as JSON; - for standard output.")
@option("--html", metavar="FILE", help="Report with charts, in one file.")
@option("--fail-if", "limits", multiple=True, metavar='"KEY>N"', help="Status 1 when this holds; repeatable.")
def main(
    base_url: str,
    endpoint: str,
    token: str | None,
    token_file: str | None,
    requests: int | None,
    concurrency: int | None,
    payload: str | None,
    headers: tuple[str, ...],
    timeout_s: float,
    duration_s: float | None,
    rate: float | None,
    warmup: int,
    stream: bool,
    pace: float | None,
    compare_url: str | None,
    token2: str | None,
    output: str | None,
    html: str | None,
    limits: tuple[str, ...],
) -> None:
    """Measure latency, throughput and errors of an OpenAI endpoint, through the proxy or without it."""
    plan = make_plan(requests=requests, duration_s=duration_s, concurrency=concurrency, rate=rate, warmup=warmup)
    allow_connections(plan.concurrency)
    token = read_token(*_typed_before_exported(token=token, token_file=token_file))
    targets = [Target(base_url, token)]
    if compare_url is not None:
        targets.append(Target(compare_url, token2 or token))
    _check(token2=token2, compare_url=compare_url, stream=stream, pace=pace, timeout_s=timeout_s)
    for target in targets:
        check_endpoint(endpoint, target.base_url)
    call = Call(
        endpoint=endpoint,
        body=body_of(read_payload(payload), endpoint, stream=stream),
        stream=stream,
        headers=tuple(map(_header, headers)),
        timeout_s=timeout_s,
    )
    checked = [fail_if.parse(text) for text in limits]
    _check_writable(output, html)
    session = Session(targets, call, plan, pace)
    session.measure(Console(stderr=True))
    _tell(session, output, html)
    sys.exit(_status(session, checked))


def _typed_before_exported(**options: str | None) -> list[str | None]:
    """The values, without those of the environment where one of them was typed."""
    source = click.get_current_context().get_parameter_source
    typed = {name for name in options if source(name) is ParameterSource.COMMANDLINE}
    return [value if name in typed or not typed else None for name, value in options.items()]


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not name or not name.isascii() or not (value.isascii() and value.isprintable()):
        raise Refused("--header is of the form 'name: value'")
    return name, value


def _check(
    *, token2: str | None, compare_url: str | None, stream: bool, pace: float | None, timeout_s: float
) -> None:
    from_command_line = click.get_current_context().get_parameter_source("token2")
    if token2 and compare_url is None and from_command_line is ParameterSource.COMMANDLINE:
        raise Refused("--token2 is for --compare")
    if pace is not None and not stream:
        raise Refused("--pace is for --stream")
    if pace is not None:
        check_positive("pace", pace)
    check_positive("timeout", timeout_s)


def _check_writable(output: str | None, html: str | None) -> None:
    """Now, and not after the load, is the time to say that there is no such directory."""
    if output is not None and output == html:
        raise Refused("--output and --html name the same file")
    for path in (Path(name) for name in (output, html) if name not in (None, "-")):
        if path.is_dir() or not path.parent.is_dir():
            raise Refused(f"cannot write {path}: {'it is a directory' if path.is_dir() else 'no such directory'}")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise Refused(f"cannot write {path}: permission denied")


def _tell(session: Session, output: str | None, html: str | None) -> None:
    """The files that were asked for, and the summary for people."""
    figures = json.dumps(session.figures, indent=2, ensure_ascii=False) + "\n"
    # What was measured for an hour is not lost because one of its places is full, or nobody reads the summary.
    complaints = [_write(output, figures)] if output not in (None, "-") else []
    if html is not None:
        complaints.append(_write(html, page(session)))
    complaints.append(_show(session, figures if output == "-" else None))
    for complaint in filter(None, complaints):
        raise Refused(complaint)


def _write(path: str, text: str) -> str | None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        return f"cannot write {path}: {error.strerror}"
    return None


def _show(session: Session, figures: str | None) -> str | None:
    # Standard output belongs to the JSON where it is wanted there.
    console = Console(stderr=figures is not None, highlight=False)
    # Caught, because rich ends the process with status 1 when nobody reads on, which is that of a broken limit.
    with console.capture() as caught:
        summary(console, session.figures)
    try:
        print(caught.get(), end="", file=console.file, flush=True)
        print(figures or "", end="", flush=True)
    except OSError as error:
        # Or the interpreter would try once more at its end, and complain in its own words.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return None if isinstance(error, BrokenPipeError) else f"cannot write standard output: {error.strerror}"
    return None


def _status(session: Session, limits: list[fail_if.Limit]) -> int:
    broken = [said for limit in limits if (said := limit.broken_by(session.figures))]
    for said in broken:
        print(f"llm-benchmark: failed by {said}", file=sys.stderr)
    if session.ended_by is not None:
        return ENDED_BY_SIGNAL + session.ended_by
    return BROKEN_LIMIT if broken else 0
