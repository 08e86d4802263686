"""
The load of llm-benchmark in Locust's web UI, or headless and over several machines.

    LLM_BENCHMARK_TOKEN=… locust -f locustfile.py --host http://localhost:8080

Token, endpoint, payload and streaming are arguments beside Locust's own, or come from the environment.
"""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from locust import events, task  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent))

from benchmark.caller import Caller, Connections  # noqa: E402
from benchmark.cli import read_payload, read_token  # noqa: E402
from benchmark.plan import Call, Refused, Target, body_of, check_endpoint  # noqa: E402

TIMEOUT_S = 60.0
MOST_CONNECTIONS = 10_000


def _add_arguments(parser: Any, **_: Any) -> None:
    group = parser.add_argument_group("OpenAI request")
    group.add_argument("--endpoint", default="/v1/chat/completions", env_var="LLM_BENCHMARK_ENDPOINT", help="Path")
    group.add_argument("--payload", env_var="LLM_BENCHMARK_PAYLOAD", help="JSON to send, or @FILE")
    group.add_argument("--streaming", action="store_true", env_var="LLM_BENCHMARK_STREAM", help='Adds "stream": true')
    # Not in the web UI, which would show it to whoever opens the page.
    group.add_argument("--token", env_var="LLM_BENCHMARK_TOKEN", include_in_web_ui=False, help="Bearer token")
    group.add_argument("--token-file", env_var="LLM_BENCHMARK_TOKEN_FILE", include_in_web_ui=False, help="Its file")


class OpenAIUser(Caller):
    """Sends the request that the arguments describe, again and again."""

    client_pool = Connections(MOST_CONNECTIONS, TIMEOUT_S)

    @task
    def ask(self) -> None:
        """One request."""
        self.send()


def _describe_request(environment: Any, **_: Any) -> None:
    asked = environment.parsed_options
    try:
        OpenAIUser.target = Target(environment.host or "", read_token(asked.token, asked.token_file))
        check_endpoint(asked.endpoint, OpenAIUser.target.base_url)
        body = body_of(read_payload(asked.payload or None), asked.endpoint, stream=asked.streaming)
    except Refused as refused:
        environment.process_exit_code = 2
        environment.runner.quit()
        raise SystemExit(f"locust: {refused}") from None
    OpenAIUser.call = Call(asked.endpoint, body, stream=asked.streaming, timeout_s=TIMEOUT_S)


events.init_command_line_parser.add_listener(_add_arguments)  # type: ignore[no-untyped-call]
events.test_start.add_listener(_describe_request)  # type: ignore[no-untyped-call]
