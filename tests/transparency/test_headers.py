"""Every header that the page names, by the rule that it names, in any spelling; and no other is touched."""

import pytest

from llmproxy import headers as code
from tests.http_by_hand import HandClient
from tests.servers import UPSTREAM_KEY
from tests.transparency.exchange import ANSWER_RULES, REQUEST_RULES, Sent, Twice, answer, unframed
from tests.transparency.page import HeaderRule

# These frame a message or say who calls: what becomes of them is tried with the shapes and with every exchange.
FRAMES = {"content-length", "transfer-encoding", "authorization", "host"}


def spellings(name: str) -> list[str]:
    """A header's name as clients write it; an example of it where it stands for many."""
    name = name.replace("*", "Example")
    return [name, name.lower(), name.upper()]


def tried(rules: list[HeaderRule], rule: str) -> list[str]:
    return [each.name for each in rules if each.rule == rule and each.name.lower() not in FRAMES]


@pytest.mark.parametrize("name", tried(REQUEST_RULES, "removed"))
def test_a_header_that_the_page_removes_does_not_go_up(twice: Twice, name: str) -> None:
    twice.recorder.answers(answer())
    values = {"expect": "100-continue", "connection": "close"}
    names = [spelling for each in spellings(name) for spelling in (each, each.replace("-", "_"))]
    sent = [(each, values.get(name.lower(), "1")) for each in names]
    exchange = twice.proxied(Sent("GET", "/v1/models", [*sent, ("X-Kept", "1")]))

    assert [each for each, _ in exchange.up.headers] == ["Host", "Authorization", "X-Kept", "Accept-Encoding"]


@pytest.mark.parametrize("name", tried(REQUEST_RULES, "kept"))
def test_a_header_that_the_page_keeps_goes_up_as_it_is(twice: Twice, name: str) -> None:
    twice.recorder.answers(answer())
    # Servers refuse a second Content-Type, which says two things of one body.
    sent = [(each, f'"{number}",\tcaf\xe9; q=0.5') for number, each in enumerate(spellings(name))]
    if name == "Content-Type":
        sent = sent[:1]
    exchange = twice.proxied(Sent("GET", "/v1/models", sent))

    assert exchange.up.headers[2 : 2 + len(sent)] == sent


def test_the_key_and_the_upstreams_host_stand_where_the_clients_stood(twice: Twice) -> None:
    twice.recorder.answers(answer())
    with HandClient(twice.proxy_url) as client:
        head = "GET /v1/models HTTP/1.1\r\nX-A: 1\r\nauthorization: Bearer {key}\r\nX-B: 2\r\nHOST: anything\r\n\r\n"
        client.send(head.replace("{key}", twice.token).encode())
        client.read_answer()

    host = twice.recorder.origin.host_header
    assert twice.recorder.received().headers == [
        ("X-A", "1"), ("authorization", f"Bearer {UPSTREAM_KEY}"), ("X-B", "2"), ("HOST", host),
        ("Accept-Encoding", "identity"),
    ]  # fmt: skip


def test_headers_that_connection_lists_are_removed_both_ways(twice: Twice) -> None:
    twice.recorder.answers(answer("Connection: keep-alive, X-Listed", "x-listed: 1", "X-Kept: 1"))
    sent = [("Connection", "keep-alive, x-listed,X-Other"), ("X-Listed", "1"), ("x_other", "1"), ("X-Kept", "1")]
    exchange = twice.proxied(Sent("GET", "/v1/models", sent))

    assert ("X-Kept", "1") in exchange.up.headers and ("X-Kept", "1") in exchange.down.headers
    assert not [
        name for name, _ in exchange.up.headers + exchange.down.headers if name.lower() in ("x-listed", "x_other")
    ]


@pytest.mark.parametrize("name", tried(ANSWER_RULES, "removed"))
def test_a_header_that_the_page_removes_does_not_come_down(twice: Twice, name: str) -> None:
    twice.recorder.answers(answer(*[f"{each}: keep-alive" for each in spellings(name)], "X-Kept: 1"))
    exchange = twice.proxied(Sent("GET", "/v1/models"))

    names = ["Date", "Server", "x-request-id", "X-Kept", "x-proxy-request-id"]
    assert [each for each, _ in unframed(exchange.down.headers)] == names


@pytest.mark.parametrize("name", tried(ANSWER_RULES, "kept"))
def test_a_header_that_the_page_keeps_comes_down_as_it_is(twice: Twice, name: str) -> None:
    sent = [(each, f'"{number}",\tcaf\xe9; q=0.5') for number, each in enumerate(spellings(name))]
    twice.recorder.answers(answer(*[f"{each}: {value}" for each, value in sent]))
    exchange = twice.proxied(Sent("GET", "/v1/models"))

    assert [pair for pair in exchange.down.headers if pair in sent] == sent


def test_the_proxys_own_id_takes_the_place_of_one_that_the_upstream_sends(twice: Twice) -> None:
    twice.recorder.answers(answer("X-Proxy-Request-Id: forged"))

    assert twice.proxied(Sent("GET", "/v1/models")).down["x-proxy-request-id"] != "forged"


def test_where_the_upstream_names_no_date_the_proxys_server_does(twice: Twice) -> None:
    twice.recorder.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    assert len(twice.proxied(Sent("GET", "/v1/models")).down.all("date")) == 1


@pytest.mark.parametrize("came_by", ["Via", "X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_events_that_go_back_through_a_proxy_are_not_to_be_gathered_up_there(twice: Twice, came_by: str) -> None:
    twice.recorder.answers(answer("Content-Type: text/event-stream; charset=utf-8"))

    assert twice.proxied(Sent("GET", "/v1/models", [(came_by, "1")])).down.all("x-accel-buffering") == ["no"]


@pytest.mark.parametrize(
    ("sent", "lines", "expected"),
    [
        ([], ["Content-Type: text/event-stream"], []),
        ([("Via", "1")], ["Content-Type: application/json"], []),
        ([("Via", "1")], ["Content-Type: text/event-stream", "x-accel-buffering: yes"], ["yes"]),
    ],
    ids=["no proxy", "no events", "the upstream's own"],
)
def test_nothing_else_is_said_of_gathering_up(twice: Twice, sent, lines, expected) -> None:
    twice.recorder.answers(answer(*lines))

    assert twice.proxied(Sent("GET", "/v1/models", sent)).down.all("x-accel-buffering") == expected


@pytest.mark.parametrize(
    ("rules", "exact", "prefixes"),
    [
        (REQUEST_RULES, code.REMOVED_FROM_REQUEST, code.REMOVED_REQUEST_PREFIXES),
        (ANSWER_RULES, code.REMOVED_FROM_RESPONSE, (code.REMOVED_RESPONSE_PREFIX,)),
    ],
    ids=["request", "answer"],
)
def test_the_page_names_all_that_the_code_removes(rules, exact, prefixes) -> None:
    named = [rule for rule in rules if rule.rule in ("removed", "replaced")]
    framing = {"content-length"}  # removed with the others, and written anew

    assert {rule.name.lower() for rule in named} >= {f"{prefix}*" for prefix in prefixes}
    assert [name for name in exact - framing if not any(rule.covers(name) for rule in named)] == []
