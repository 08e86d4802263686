import pytest

from llmproxy.api_log.http_sink import HttpSink
from llmproxy.api_log.logging_url import CloudWatchTarget, HttpTarget, parse_logging_url
from llmproxy.api_log.open_sink import open_sink


@pytest.mark.parametrize(
    ("url", "sent_to", "shown_as"),
    [
        ("https://logs.example/in?key=s3", "https://logs.example/in?key=s3", "https://logs.example"),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000/", "http://127.0.0.1:9000"),
        ("http://[::1]:9000/x", "http://[::1]:9000/x", "http://[::1]:9000"),
        ("https://me:s3@logs.example/", "https://logs.example/", "https://logs.example"),
    ],
)
def test_an_http_url_is_sent_to_whole_and_shown_without_secrets(url, sent_to, shown_as):
    target = parse_logging_url(url)

    assert isinstance(target, HttpTarget)
    assert (target.url, target.origin) == (sent_to, shown_as)
    assert "s3" not in repr(target)


def test_credentials_are_unquoted():
    assert parse_logging_url("https://me:p%40ss@logs.example/").credentials == ("me", "p@ss")


def test_a_cloudwatch_url_names_group_stream_and_region():
    assert parse_logging_url("cloudwatch://%2Fecs%2FProxy/node-1/a?region=eu-west-1") == CloudWatchTarget(
        "/ecs/Proxy", "node-1/a", "eu-west-1"
    )
    assert parse_logging_url("cloudwatch://g/s?region=us-gov-west-1&endpoint=http://127.0.0.1:5000").endpoint == (
        "http://127.0.0.1:5000"
    )


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "must begin with"),
        ("logs.example/in", "must begin with"),
        ("ftp://logs.example", "must begin with"),
        ("https://", "names no host"),
        ("https:///path", "names no host"),
        ("https://logs.example:99999/", "host and port"),
        ("https://logs.example:0/", "port 0"),
        ("https://logs.example:x/", "host and port"),
        ("https://[::1/", "host and port"),
        ("https://logs.example/a b", "blank"),
        ("https://logs.example/\n", "blank"),
        ("https://logs.example/#part", "fragment"),
        ("cloudwatch:///stream?region=eu-west-1", "log group"),
        ("cloudwatch://gro%20up/stream?region=eu-west-1", "log group"),
        ("cloudwatch://group?region=eu-west-1", "log stream"),
        ("cloudwatch://group/a%3Ab?region=eu-west-1", "log stream"),
        ("cloudwatch://group/stream", "needs a region"),
        ("cloudwatch://group/stream?region=mars", "needs a region"),
        ("cloudwatch://group/stream?region=eu-west-1&regoin=x", "not regoin"),
        ("cloudwatch://group/stream?region=eu-west-1&endpoint=ftp://x", "endpoint"),
    ],
)
def test_a_bad_url_is_told_what_is_wrong(url, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_logging_url(url)


def test_an_http_target_gets_an_http_sink():
    sink = open_sink(parse_logging_url("https://logs.example/in?key=s3"), token="t")

    assert isinstance(sink, HttpSink) and sink.name == "https://logs.example"


@pytest.mark.parametrize("token", ["a b", "a\nb", "ü"])
def test_a_token_that_cannot_stand_in_a_header_stops_the_start(token):
    with pytest.raises(ValueError, match="LOGGING_TOKEN"):
        open_sink(parse_logging_url("https://logs.example/"), token=token)
