"""
The load of llm-benchmark in Locust's web UI, or headless and over several machines.

    LLM_BENCHMARK_TOKEN=… locust -f locustfile.py --host http://localhost:8080

Token, endpoint, payload and streaming are arguments beside Locust's own, or come from the environment.
"""

from gevent import monkey

monkey.patch_all()

import sys
from pathlib import Path
from typing import Any

from locust import events, task
from locust.exception import StopTest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from benchmark.bodies import bodies_of, payload_of
from benchmark.call import Call, check_endpoint
from benchmark.load.caller import Caller
from benchmark.load.connections import Connections
from benchmark.refused import Refused
from benchmark.target import Target, read_tokens

TIMEOUT_S = 60.0
MOST_CONNECTIONS = 10_000


def _add_arguments(parser: Any, **_: Any) -> None:
    parser.add_argument("--endpoint", default="/v1/chat/completions", env_var="LLM_BENCHMARK_ENDPOINT", help="Path")
    parser.add_argument("--payload", env_var="LLM_BENCHMARK_PAYLOAD", help="JSON to send, or @FILE")
    parser.add_argument(
        "--streaming", action="store_true", env_var="LLM_BENCHMARK_STREAM", help='Adds "stream": true'
    )
    # Not in the web UI, which would show it to whoever opens the page.
    parser.add_argument("--token", env_var="LLM_BENCHMARK_TOKEN", include_in_web_ui=False, help="Bearer token")
    parser.add_argument("--token-file", env_var="LLM_BENCHMARK_TOKEN_FILE", include_in_web_ui=False, help="Its file")


class OpenAIUser(Caller):
    """Sends the request that the arguments describe, again and again."""

    client_pool = Connections(MOST_CONNECTIONS, TIMEOUT_S)

    @task
    def ask(self) -> None:
        """One request."""
        self.send()


def _describe_request(environment: Any) -> None:
    asked = environment.parsed_options
    target = Target(environment.host, read_tokens(tuple((asked.token or "").split()), asked.token_file))
    check_endpoint(asked.endpoint, environment.host)
    payload = payload_of(asked.payload or None, asked.endpoint, "POST")
    bodies = bodies_of(payload, asked.endpoint, stream=asked.streaming)
    OpenAIUser.call = Call(asked.endpoint, bodies, stream=asked.streaming, timeout_s=TIMEOUT_S)
    OpenAIUser.outgoing = OpenAIUser.call.outgoing(target)


def _refuse_at_once(environment: Any, **_: Any) -> None:
    # Without a host there is a web UI, which will ask for it.
    if environment.host:
        try:
            _describe_request(environment)
        except Refused as refused:
            print(f"locustfile.py: {refused}", file=sys.stderr)
            sys.exit(2)


def _describe_anew(environment: Any, **_: Any) -> None:
    # The web UI may have changed what the command line said.
    try:
        _describe_request(environment)
    except Refused as refused:
        raise StopTest(str(refused)) from None


events.init_command_line_parser.add_listener(_add_arguments)  # type: ignore[no-untyped-call]
events.init.add_listener(_refuse_at_once)  # type: ignore[no-untyped-call]
events.test_start.add_listener(_describe_anew)  # type: ignore[no-untyped-call]
