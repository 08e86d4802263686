"""A response given while its request's body is unread: little of that is read, and the client sees the response."""

import io

import openai
import pytest

from tests.http_by_hand import HandClient, call
from tests.security.attackers import attacking
from tests.servers import on_both_servers, wait_for

pytestmark = on_both_servers
ENDLESS = "Content-Length: 1000000000000"
WRONG = "Authorization: Bearer wrong"
# What the kernel holds of a connection that nobody reads.
BUFFERED_BYTES = 32 * 1024 * 1024
UPLOADS = {
    "401": ("POST /v1/files", WRONG, ENDLESS),
    "401, chunked": ("POST /v1/files", WRONG, "Transfer-Encoding: chunked"),
    "413": ("POST /v1/files", "Authorization: {bearer}", ENDLESS),
    "404": ("POST /nowhere", ENDLESS),
    "healthz": ("GET /healthz", ENDLESS),
    "management": ("POST /manage/projects", WRONG, ENDLESS),
    "a chunk that is none": ("POST /v1/files", "Transfer-Encoding: gzip", ENDLESS),
}


@pytest.mark.parametrize("kind", UPLOADS)
def test_a_client_that_sends_on_is_cut_and_keeps_nobody_waiting(impatient_proxy, kind):
    line, *headers = UPLOADS[kind]
    bearer = impatient_proxy.issue_token().bearer[1]
    opening = "\r\n".join([f"{line} HTTP/1.1", "Host: x", *headers, "", ""]).replace("{bearer}", bearer)
    piece = b"10000\r\n%b\r\n" % bytes(65536) if "chunked" in opening else bytes(65536)
    with attacking(impatient_proxy.url, opening.encode(), piece) as attacker:
        wait_for(lambda: attacker.sent > 100_000)
        assert call(impatient_proxy.url, "GET", "/healthz").status == 200
        assert attacker.is_cut.wait(20)

    assert attacker.sent < BUFFERED_BYTES
    assert b"\r\nConnection: close\r\n" in attacker.received


@pytest.mark.parametrize("framing", [("Content-Length", "50000"), ("Content-Length", "65536")])
def test_a_client_that_sends_little_may_go_on(proxy, framing):
    with HandClient(proxy.url) as client:
        client.send_request("POST", "/v1/files", framing)
        assert client.read_answer().status == 401
        client.send(bytes(int(framing[1])))

        assert client.call("GET", "/healthz").status == 200


def test_a_client_that_will_be_cut_is_told_so_and_finds_the_end_behind_the_response(proxy):
    with HandClient(proxy.url) as client:
        client.send_request("POST", "/v1/files", ("Content-Length", "65537"))
        client.send(bytes(60000))
        answer = client.read_answer()

        assert (answer.status, answer["connection"]) == (401, "close")
        assert client.has_ended()
        client.send(bytes(5537))


def test_openais_client_with_a_wrong_token_and_a_large_upload_is_told_that_it_is_wrong(proxy):
    client = openai.OpenAI(api_key="wrong", base_url=f"{proxy.url}/v1", max_retries=0, timeout=30)
    with client, pytest.raises(openai.AuthenticationError):
        client.files.create(file=("a.jsonl", io.BytesIO(bytes(BUFFERED_BYTES))), purpose="batch")
