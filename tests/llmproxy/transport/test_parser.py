"""What is told of a response is the same wherever its head was cut, and holds nothing that is to be concealed."""

import pytest

from llmproxy.concealment import Concealment
from llmproxy.transport.parser import ParsedResponse

KEY = "sk-planted-key-0123456789"
MASK = "*" * len(KEY)
HEAD = f"HTTP/1.1 200 So {KEY} it is\r\nX-Echo: a {KEY}\r\nX-{KEY}: b\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize("at", range(1, len(HEAD)))
def test_a_key_is_masked_wherever_the_head_is_cut(at):
    parsed = ParsedResponse(conceals=Concealment(KEY))
    parsed.parser.feed_data(HEAD[:at])
    parsed.parser.feed_data(HEAD[at:])

    assert parsed.reason == f"So {MASK} it is"
    assert parsed.headers == [("X-Echo", f"a {MASK}"), (f"X-{MASK}", "b"), ("Content-Length", "0")]
