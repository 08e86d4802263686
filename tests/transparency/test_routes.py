"""OpenAI's documented routes, as the page lists them: each method with each form of its answer."""

import threading

import pytest

from tests.http_by_hand import Answer, HandClient
from tests.transparency.exchange import Read, Sent, Twice, answer, assert_same
from tests.transparency.page import Route, routes

JSON_BODY = b'{"model": "gpt-4o-mini",\n "n": 1.10, "text": "\xc3\xbc\\u00fc", "twice": 1, "twice": 2}'
FORM_TYPE = 'multipart/form-data; boundary="--=_odd boundary?(1)"'
FORM_BODY = (
    b'----=_odd boundary?(1)\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'----=_odd boundary?(1)\r\nContent-Disposition: form-data; name="file"; filename="\xc3\xbc.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n" + bytes(range(256)) + b"\r\n----=_odd boundary?(1)--\r\n"
)
EVENTS = [b"event: a\ndata: {}\n\n", b": comment\n\n", 'data: {"delta": "ü"}\r\n\r\n'.encode(), b"data: [DONE]\n\n"]


def sent(route: Route) -> Sent:
    target = route.path.replace("{", "id%2F:1-{").replace("}", "}~%7e") + "?limit=20&after=a%20b&include[]=x"
    headers = [
        ("User-Agent", "OpenAI/Python 3.54.0"),
        ("Accept", "application/json"),
        ("OpenAI-Beta", "assistants=v2"),
    ]
    body = {"JSON": JSON_BODY, "form": FORM_BODY, "none": None}[route.body]
    if body is not None:
        headers.append(("Content-Type", "application/json" if route.body == "JSON" else FORM_TYPE))
    elif route.method == "POST":
        body = b""
    return Sent(route.method, target, headers, body)


def events_by_gate(gates: list[threading.Event]) -> Read:
    """Reads a stream, and lets the upstream send each event when the one before has arrived."""

    def read(client: HandClient, method: str) -> tuple[list[Answer], Answer]:
        down = client.read_head(method)
        for number, gate in enumerate(gates):
            gate.set()
            while len(down.body) < sum(map(len, EVENTS[: number + 1])):
                assert client.read_chunk(down)
        return [], client.read_rest(down)

    return read


def gated_events(twice: Twice) -> Read:
    gates = [threading.Event() for _ in EVENTS]
    begin, *_ = answer("Content-Type: text/event-stream", framing="none").partition(b"\r\n\r\n")
    parts: list[bytes | threading.Event] = [begin + b"\r\nTransfer-Encoding: chunked\r\n\r\n"]
    for gate, event in zip(gates, EVENTS, strict=True):
        parts += [gate, b"%x\r\n%b\r\n" % (len(event), event)]
    twice.recorder.answers(*parts, b"0\r\n\r\n")
    return events_by_gate(gates)


@pytest.mark.parametrize("route", routes(), ids=" ".join)
def test_a_documented_route_passes_as_it_is(twice: Twice, route: Route) -> None:
    if route.answer == "events":
        # The gates of the first exchange are open; the second gets its own.
        direct = twice.direct(sent(route), gated_events(twice))
        proxied = twice.proxied(sent(route), gated_events(twice))
        assert_same(proxied, direct)
        assert proxied.down.body == b"".join(EVENTS)
        return
    kind = {"JSON": "application/json", "bytes": "application/octet-stream"}[route.answer]
    body = {"JSON": b'{"object": "list",\n "data": []}', "bytes": bytes(range(256)) * 300}[route.answer]
    twice.recorder.answers(answer(f"Content-Type: {kind}", "x-ratelimit-limit-requests: 5", body=body))

    assert twice.same(sent(route)).down.body == body
