import subprocess
import sys
import time

import boto3
import pytest
from botocore.exceptions import ClientError

from llmproxy.api_log import cloudwatch
from llmproxy.api_log.cloudwatch import MAX_CALL_BYTES, MAX_EVENTS, CloudWatchSink
from llmproxy.api_log.logging_url import parse_logging_url
from llmproxy.api_log.open_sink import open_sink
from llmproxy.api_log.read_record import ReadRecord, parse_line
from llmproxy.api_log.shipper import Shipper
from llmproxy.api_log.sink import BatchRefused, SinkUnavailable
from llmproxy.egress import Egress, proxy_of
from tests.egress_proxy import EgressProxyServer

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def aws():
    """The address of a stand-in for AWS."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


@pytest.fixture
def open_sink_to(aws, request):
    sinks = []

    def make(endpoint=None, egress=None):
        url = f"cloudwatch://%2Fllm-proxy%2F{request.node.originalname}/node-1?region=eu-west-1"
        sinks.append(open_sink(parse_logging_url(f"{url}&endpoint={endpoint or aws}"), egress=egress))
        return sinks[-1]

    yield make
    for sink in sinks:
        sink.close()


@pytest.fixture
def stored(aws, request):
    """The ids in the log stream, in its order."""

    def read():
        client = boto3.client("logs", region_name="eu-west-1", endpoint_url=aws)
        events, token = [], {}
        while True:
            page = client.get_log_events(
                logGroupName=f"/llm-proxy/{request.node.originalname}",
                logStreamName="node-1",
                startFromHead=True,
                **token,
            )
            if not page["events"]:
                client.close()
                return [parse_line(event["message"].encode()).request_id for event in events]
            events += page["events"]
            token = {"nextToken": page["nextForwardToken"]}

    return read


@pytest.fixture
def a_record(call_record):
    def make(**overrides):
        line = call_record(**overrides).to_line()[:-1]
        return parse_line(line)

    return make


@pytest.fixture
def note_calls(monkeypatch):
    """Replaces the call to AWS by one that notes its events and answers as told."""

    def install(sink, answer=None):
        made = []

        def put_log_events(**call):
            made.append(call["logEvents"])
            if isinstance(answer, Exception):
                raise answer
            return answer or {}

        monkeypatch.setattr(sink._client, "put_log_events", put_log_events)
        return made

    return install


def test_a_missing_group_and_stream_are_made_and_records_arrive(open_sink_to, stored, a_record):
    sink = open_sink_to()
    records = [a_record(timestamp=time.time() - 5 + second) for second in range(5)]

    assert sink.deliver(records[:3]) == []
    assert sink.deliver(records[3:]) == []
    assert stored() == [each.request_id for each in records]


def test_an_egress_proxy_stands_on_the_way_when_it_is_set_and_no_other_does(
    open_sink_to, stored, a_record, aws, monkeypatch
):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    first, second = a_record(), a_record()
    with EgressProxyServer() as proxy:
        far = aws.replace("127.0.0.1", "aws.test")
        assert open_sink_to(far, Egress(http=proxy_of(proxy.proxy_url))).deliver([first]) == []
        assert proxy.asked and all(f" {far}/ " in line for line in proxy.asked)
    assert open_sink_to(egress=Egress()).deliver([second]) == []
    monkeypatch.delenv("HTTP_PROXY")

    assert stored() == [first.request_id, second.request_id]


def test_records_are_sent_in_the_order_of_time(open_sink_to, note_calls, a_record):
    sink = open_sink_to()
    made = note_calls(sink)
    sink.deliver([a_record(timestamp=1700000000 + second) for second in (3, 1, 2)])

    assert [event["timestamp"] for event in made[0]] == [1700000001000, 1700000002000, 1700000003000]


def test_calls_stay_within_the_number_of_events(open_sink_to, note_calls, a_record):
    sink = open_sink_to()
    made = note_calls(sink)
    small = ReadRecord(b"{}", {"timestamp": "2026-11-23T00:00:00.000Z"})
    sink.deliver([small] * (MAX_EVENTS + 1))

    assert [len(call) for call in made] == [MAX_EVENTS, 1]


@pytest.mark.parametrize(("extra", "count"), [(0, 1), (1, 2)])
def test_calls_stay_within_the_bytes_with_26_for_each_event(open_sink_to, note_calls, extra, count):
    sink = open_sink_to()
    made = note_calls(sink)
    half = MAX_CALL_BYTES // 2 - 26
    record = {"timestamp": "2026-11-23T00:00:00.000Z"}
    sink.deliver([ReadRecord(b"x" * half, record), ReadRecord(b"x" * (half + extra), record)])

    assert len(made) == count


@pytest.mark.parametrize(("span_s", "count"), [(86399, 1), (86400, 2)])
def test_calls_span_less_than_a_day(open_sink_to, note_calls, a_record, span_s, count):
    sink = open_sink_to()
    made = note_calls(sink)
    sink.deliver([a_record(timestamp=1700000000), a_record(timestamp=1700000000 + span_s)])

    assert len(made) == count


@pytest.mark.parametrize(("size", "rejected"), [(MAX_CALL_BYTES - 26, 0), (MAX_CALL_BYTES - 25, 1)])
def test_an_event_too_large_for_any_call_is_rejected(open_sink_to, note_calls, size, rejected):
    sink = open_sink_to()
    made = note_calls(sink)
    rejections = sink.deliver([ReadRecord(b"x" * size, {"timestamp": "2026-11-23T00:00:00.000Z"})])

    assert (len(rejections), len(made)) == (rejected, 1 - rejected)


def test_events_that_aws_names_as_refused_are_rejected_and_no_others(open_sink_to, note_calls, a_record):
    sink = open_sink_to()
    note_calls(
        sink,
        {"rejectedLogEventsInfo": {
            "tooOldLogEventEndIndex": 2, "expiredLogEventEndIndex": 1, "tooNewLogEventStartIndex": 4}},
    )  # fmt: skip
    records = [a_record(timestamp=1700000000 + second) for second in range(5)]

    rejections = sink.deliver(records)

    assert [(item.record, item.reason) for item in rejections] == [
        (records[0], "too old for the log group"),
        (records[1], "too old for the log group"),
        (records[4], "too far in the future"),
    ]


def test_records_that_aws_refuses_become_dead_letters_and_the_rest_arrives(
    open_sink_to, stored, append, open_reader, dead_letters
):
    # Too old ones are left to the test above: the stand-in names their end by one too few.
    ids = append(2)
    append(1, timestamp=time.time() + 3 * 3600)
    result = Shipper(open_reader(), open_sink_to(), dead_letters).ship_once()

    assert stored() == ids
    assert (result.delivered, result.dead_lettered, dead_letters.count()) == (2, 1, 1)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("ThrottlingException", SinkUnavailable),
        ("ServiceUnavailableException", SinkUnavailable),
        ("AccessDeniedException", SinkUnavailable),
        ("ExpiredTokenException", SinkUnavailable),
        ("InvalidParameterException", BatchRefused),
    ],
)
def test_aws_errors_mean_later_or_never(open_sink_to, note_calls, a_record, code, error):
    sink = open_sink_to()
    note_calls(sink, ClientError({"Error": {"Code": code, "Message": "s3cret"}}, "PutLogEvents"))

    with pytest.raises(error, match=code) as failure:
        sink.deliver([a_record()])
    assert "s3cret" not in str(failure.value)


def test_an_unreachable_aws_means_later(open_sink_to, a_record, unused_port):
    with pytest.raises(SinkUnavailable, match="EndpointConnectionError"):
        open_sink_to(f"http://127.0.0.1:{unused_port}").deliver([a_record()])


def test_a_record_without_a_readable_time_is_left_to_aws_to_refuse(open_sink_to, note_calls):
    sink = open_sink_to()
    made = note_calls(sink)
    sink.deliver([ReadRecord(b"{}", {"timestamp": "yesterday"}), ReadRecord(b"{}", {})])

    assert [event["timestamp"] for event in made[0]] == [0, 0]


def test_a_missing_library_names_the_command_that_installs_it():
    blocked = (
        "import sys; sys.modules['boto3'] = None\n"
        "from llmproxy.api_log.logging_url import parse_logging_url\n"
        "from llmproxy.api_log.open_sink import open_sink\n"
        "try: open_sink(parse_logging_url('cloudwatch://g/s?region=eu-west-1'))\n"
        "except ImportError as exc: print(exc)"
    )
    said = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=True).stdout

    assert "pip install -r requirements-cloudwatch.txt" in said


def test_the_name_shows_group_and_stream_only(open_sink_to):
    assert isinstance(open_sink_to(), CloudWatchSink)
    assert open_sink_to().name.startswith("cloudwatch:///llm-proxy/") and "http" not in open_sink_to().name
    assert cloudwatch.EVENT_OVERHEAD_BYTES == 26
