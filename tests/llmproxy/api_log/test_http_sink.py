from datetime import UTC, datetime

import pytest

from llmproxy.api_log.http_receiver import retry_after_s
from llmproxy.api_log.read_record import parse_line
from llmproxy.api_log.sink import BatchRefused, SinkUnavailable


@pytest.fixture
def records(call_record):
    return [parse_line(call_record().to_line()[:-1]) for _ in range(3)]


def test_a_batch_arrives_as_a_json_array_of_the_records(open_http_sink, receiver, records):
    assert open_http_sink().deliver(records) == []
    assert receiver.batches == [[record.fields for record in records]]


def test_the_request_says_what_it_is(open_http_sink, receiver, records):
    open_http_sink(token="t0ken").deliver(records)

    headers = receiver.headers[0]
    assert headers["Content-Type"] == "application/json"
    assert headers["Content-Encoding"] == "gzip"
    assert headers["Authorization"] == "Bearer t0ken"
    assert len(headers["Idempotency-Key"]) == 32


def test_without_a_token_the_urls_credentials_are_used_and_without_those_nothing(open_http_sink, receiver, records):
    open_http_sink(url=receiver.url.replace("127", "me:pass@127")).deliver(records)
    open_http_sink().deliver(records)

    assert receiver.headers[0]["Authorization"] == "Basic bWU6cGFzcw=="
    assert "Authorization" not in receiver.headers[1]


def test_a_repeated_batch_has_the_same_key_and_another_one_has_not(open_http_sink, receiver, records):
    sink = open_http_sink()
    for batch in (records, records, records[:2]):
        sink.deliver(batch)

    keys = [headers["Idempotency-Key"] for headers in receiver.headers]
    assert keys[0] == keys[1] != keys[2]


def test_one_connection_serves_many_batches(open_http_sink, receiver, behave, records):
    ports = set()

    def note_port(handler, records):
        ports.add(handler.client_address[1])
        behave.answer(200, "x" * 1000)(handler, records)

    receiver.always = note_port
    sink = open_http_sink()
    for _ in range(3):
        sink.deliver(records)

    assert len(ports) == 1


def test_no_cookie_is_kept(open_http_sink, receiver, behave, records):
    receiver.always = behave.answer(200, Set_Cookie="a=b")
    sink = open_http_sink()
    for _ in range(2):
        sink.deliver(records)

    assert "Cookie" not in receiver.headers[1]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_answer_about_the_content_refuses_the_batch(open_http_sink, receiver, behave, records, status):
    receiver.always = behave.answer(status, "field x\nis bad t0ken")

    with pytest.raises(BatchRefused, match=rf"^{status} field x is bad \*\*\*$"):
        open_http_sink(token="t0ken").deliver(records)


@pytest.mark.parametrize("status", [301, 307, 401, 403, 404, 405, 408, 410, 425, 429, 500, 502, 503, 599])
def test_every_other_answer_means_later(open_http_sink, receiver, behave, records, status):
    receiver.always = behave.answer(status, Location="http://127.0.0.1:1/elsewhere")

    with pytest.raises(SinkUnavailable, match=str(status)):
        open_http_sink().deliver(records)
    assert receiver.tried == 1


@pytest.mark.parametrize(("status", "advice"), [(401, "LOGGING_TOKEN"), (403, "LOGGING_TOKEN"), (404, "LOGGING_URL")])
def test_an_answer_about_our_settings_names_the_setting(open_http_sink, receiver, behave, records, status, advice):
    receiver.always = behave.answer(status)

    with pytest.raises(SinkUnavailable, match=advice):
        open_http_sink().deliver(records)


def test_a_receiver_without_gzip_gets_plain_bodies_from_then_on(open_http_sink, receiver, behave, records):
    def plain_only(handler, records):
        behave.answer(415 if handler.headers.get("Content-Encoding") else 200)(handler, records)

    receiver.always = plain_only
    sink = open_http_sink()
    sink.deliver(records)
    sink.deliver(records)

    assert len(receiver.batches) == 2 and receiver.tried == 3


def test_a_receiver_that_refuses_the_media_type_itself_is_asked_later(open_http_sink, receiver, behave, records):
    receiver.always = behave.answer(415)

    with pytest.raises(SinkUnavailable, match="415"):
        open_http_sink().deliver(records)


def test_the_time_that_the_receiver_asks_for_is_passed_on(open_http_sink, receiver, behave, records):
    receiver.always = behave.answer(429, Retry_After="17")

    with pytest.raises(SinkUnavailable) as failure:
        open_http_sink().deliver(records)
    assert failure.value.retry_after_s == 17


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("120", 120),
        (" 0 ", 0),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0),
        ("Mon, 23 Nov 2026 13:00:30 +0100", 30),
    ],
)
def test_retry_after_is_read_in_both_forms(header, seconds):
    assert retry_after_s(header, datetime(2026, 11, 23, 12, tzinfo=UTC)) == seconds


def test_a_hanging_receiver_is_given_up(open_http_sink, receiver, behave, records):
    receiver.always = behave.hang

    with pytest.raises(SinkUnavailable, match="no answer in time"):
        open_http_sink(read_timeout_s=0.1).deliver(records)


def test_a_reset_or_a_closed_port_is_unavailable(open_http_sink, receiver, behave, records):
    receiver.script.append(behave.reset)
    sink = open_http_sink()

    with pytest.raises(SinkUnavailable, match="hung up"):
        sink.deliver(records)
    receiver.stop()
    with pytest.raises(SinkUnavailable, match="cannot be reached"):
        sink.deliver(records)
    receiver.start()
    assert sink.deliver(records) == []


def test_an_endless_answer_is_cut_off(open_http_sink, receiver, records):
    def endless(handler, records):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
        except OSError:
            handler.receiver.released.set()
            handler.close_connection = True

    receiver.always = endless

    assert open_http_sink().deliver(records) == []
    assert receiver.released.wait(60)


def test_no_failure_shows_the_urls_secrets(open_http_sink, receiver, behave, records, caplog):
    url = receiver.url.replace("http://", "http://user:hunter2@") + "?key=hunter2%21"
    sink = open_http_sink(url=url, token="t0ken", read_timeout_s=0.1)
    texts = [sink.name, repr(sink._receiver._target)]
    for fault in (behave.reset, behave.hang, behave.answer(500, "hunter2"), behave.answer(400, "hunter2! t0ken")):
        receiver.always = fault
        with pytest.raises((SinkUnavailable, BatchRefused)) as failure:
            sink.deliver(records)
        texts.append(str(failure.value))
    receiver.stop()
    with pytest.raises(SinkUnavailable) as failure:
        sink.deliver(records)
    receiver.start()
    texts += [str(failure.value), caplog.text]

    assert "hunter2" not in "".join(texts) and "t0ken" not in "".join(texts)
    assert failure.value.__suppress_context__
