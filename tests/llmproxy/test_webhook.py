"""Events as signed webhooks: the signature as the specification has it, and what an answer means."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from llmproxy.api_log.sink import BatchRefused, SinkUnavailable
from llmproxy.webhook import Webhook, signature, signing_key, webhook_target
from tests.post_server import PostHandler, PostServer

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = datetime(2026, 11, 23, 10, 15, tzinfo=UTC)


class Receiver:
    """Answers `status`, and keeps what it was sent."""

    def __init__(self) -> None:
        self.status, self.headers = 204, {}
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.server = PostServer(self._take)

    def _take(self, handler: PostHandler, body: bytes) -> None:
        self.seen.append(({name.lower(): value for name, value in handler.headers.items()}, body))
        handler.answer(self.status, b"no: planted-key", self.headers)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.close()


@pytest.fixture
def webhook(receiver: Receiver) -> Iterator[Webhook]:
    made = Webhook(f"{receiver.server.url}/in?key=planted-key", SECRET)
    yield made
    made.close()


def test_the_signature_is_that_of_the_specifications_example():
    signed = signature(signing_key(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')

    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "secret", ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ=", "whsec_%%%", "whsec_" + "A" * 88]
)
def test_what_is_no_secret_is_refused(secret):
    with pytest.raises(ValueError, match="whsec_ and 24 to 64 bytes"):
        signing_key(secret)


@pytest.mark.parametrize("url", ["cloudwatch://g/s?region=eu-west-1", "ftp://h", "h/x", ""])
def test_what_is_no_address_of_a_receiver_is_refused(url):
    with pytest.raises(ValueError, match="must begin with https:// or http://"):
        webhook_target(url)


def test_an_event_arrives_as_it_is_with_what_its_receiver_checks(webhook, receiver):
    webhook.deliver("e1", b'{"type": "x"}', NOW)

    [(headers, body)] = receiver.seen
    at_s = int(NOW.timestamp())
    assert (body, headers["content-type"]) == (b'{"type": "x"}', "application/json")
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("e1", str(at_s))
    assert headers["webhook-signature"] == signature(signing_key(SECRET), "e1", at_s, body)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_answer_about_the_content_is_final_and_shows_no_secret(webhook, receiver, status):
    receiver.status = status

    with pytest.raises(BatchRefused, match=rf"^{status} no: \*\*\*$"):
        webhook.deliver("e1", b"{}", NOW)


@pytest.mark.parametrize(
    ("status", "advice"), [(301, "ALERT_URL"), (401, "ALERT_SECRET"), (410, "ALERT_URL"), (503, "503")]
)
def test_every_other_answer_means_later_and_says_what_to_check(webhook, receiver, status, advice):
    receiver.status, receiver.headers = status, {"Retry-After": "7"}

    with pytest.raises(SinkUnavailable, match=advice) as error:
        webhook.deliver("e1", b"{}", NOW)
    assert error.value.retry_after_s == 7
