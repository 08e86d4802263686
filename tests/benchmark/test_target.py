"""Servers and tokens that can be called, and those that cannot."""

import pytest

from benchmark.refused import Refused
from benchmark.target import Target, read_tokens


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8080", "ftp://host", "http://", "http://ho st", "http://host:0", "http://host:99999",
     "http://user:pass@host", "http://host?x=1", "http://host#x", "http://höst"],
)  # fmt: skip
def test_what_is_no_url_of_a_server_is_refused(url):
    with pytest.raises(Refused):
        Target(url)


@pytest.mark.parametrize("url", ["http://localhost:8080", "https://api.openai.com/", "http://[::1]:8080/prefix"])
def test_urls_of_servers_are_taken(url):
    assert Target(url, ("t",)).base_url == url


@pytest.mark.parametrize("token", ["", "two\nlines", "schlüssel"])
def test_a_token_that_no_header_can_carry_is_refused(token):
    with pytest.raises(Refused, match="token"):
        Target("http://host", ("fine", token))


def test_a_token_is_in_no_description_and_in_nothing_that_a_server_says():
    target = Target("http://host", ("secret", "secret-token"))

    assert "secret-token" not in repr(target)
    assert target.without_bearers("bad key secret-token, secret!") == "bad key [token], [token]!"


def test_tokens_come_from_a_file_one_on_each_line(tmp_path):
    (tmp_path / "tokens").write_text("first\n\n  second  \n")
    (tmp_path / "empty").write_text("\n")

    assert read_tokens((), str(tmp_path / "tokens")) == ("first", "second")
    assert read_tokens(("typed", "twice"), None) == ("typed", "twice")
    with pytest.raises(Refused, match="contradict"):
        read_tokens(("typed",), str(tmp_path / "tokens"))
    with pytest.raises(Refused, match="holds no token"):
        read_tokens((), str(tmp_path / "empty"))
