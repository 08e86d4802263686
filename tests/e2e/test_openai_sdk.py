"""OpenAI's own Python client, unmodified, against the proxy: what it gets is what the upstream itself tells it."""

import asyncio
import hashlib
import io
from collections.abc import Iterator

import openai
import pytest

from tests.servers import UPSTREAM_KEY

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
UPLOAD_BYTES = 64 * 1024 * 1024


def client_of(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0, timeout=60)


@pytest.fixture
def direct(upstream) -> Iterator[openai.OpenAI]:
    with client_of(upstream.url, UPSTREAM_KEY) as client:
        yield client


@pytest.fixture
def proxied(proxy, token) -> Iterator[openai.OpenAI]:
    with client_of(proxy.url, token.secret) as client:
        yield client


def dumped(events):
    return [event.model_dump() for event in events]


CALLS = {
    "chat": lambda client: client.chat.completions.create(**CHAT).model_dump(),
    "stream": lambda client: dumped(client.chat.completions.create(**CHAT, stream=True)),
    "stream with usage": lambda client: dumped(
        client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
    ),
    "completion": lambda client: client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hi").model_dump(),
    "response": lambda client: client.responses.create(model="gpt-4o-mini", input="Hi").model_dump(),
    "response stream": lambda client: dumped(client.responses.create(model="gpt-4o-mini", input="Hi", stream=True)),
    "embeddings": lambda client: client.embeddings.create(
        model="text-embedding-3-small", input=["a", "b"]
    ).model_dump(),
    "models": lambda client: dumped(client.models.list()),
    "model": lambda client: client.models.retrieve("gpt-4o-mini").model_dump(),
    "image": lambda client: client.images.generate(model="gpt-image-1", prompt="Hi").model_dump(),
    "speech": lambda client: client.audio.speech.create(model="tts-1", voice="alloy", input="Hi").read(),
    "file content": lambda client: client.files.content("file-1").read(),
}


async def gathered(stream) -> list:
    return dumped([event async for event in await stream])


async def dumped_answer(answer) -> dict:
    return (await answer).model_dump()


async def read_bytes(answer) -> bytes:
    return (await answer).read()


ASYNC_CALLS = {
    "chat": lambda client: dumped_answer(client.chat.completions.create(**CHAT)),
    "stream with usage": lambda client: gathered(
        client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
    ),
    "response": lambda client: dumped_answer(client.responses.create(model="gpt-4o-mini", input="Hi")),
    "models": lambda client: dumped_answer(client.models.list()),
    "speech": lambda client: read_bytes(client.audio.speech.create(model="tts-1", voice="alloy", input="Hi")),
    "transcription": lambda client: dumped_answer(
        client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"RIFF" * 99999))
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_tells_the_client_what_the_upstream_does(direct, proxied, name):
    assert CALLS[name](proxied) == CALLS[name](direct)


def test_a_stream_tells_its_usage_only_to_those_who_ask(proxied):
    without, asked = CALLS["stream"](proxied), CALLS["stream with usage"](proxied)

    assert all(chunk["usage"] is None for chunk in without)
    assert asked[-1]["usage"]["total_tokens"] > 0


def test_a_large_upload_arrives_whole(upstream, direct, proxied):
    data = b"withering" * (UPLOAD_BYTES // 9)
    created = [
        client.files.create(file=io.BytesIO(data), purpose="batch").model_dump() for client in (proxied, direct)
    ]

    assert created[0] == created[1]
    seen = [request["files"][0] for request in upstream.requests("/v1/files")]
    assert {file["sha256"] for file in seen} == {hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        (400, openai.BadRequestError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
def test_an_error_of_the_upstream_raises_what_it_raises_directly(direct, proxied, status, raised):
    told = []
    for client in (proxied, direct):
        with pytest.raises(raised) as error:
            client.chat.completions.create(**CHAT, extra_headers={"x-mock-status": str(status)})
        told.append((error.value.body, error.value.code, error.value.type, error.value.message))

    assert told[0] == told[1]


@pytest.mark.parametrize("name", ["chat", "stream with usage", "response", "models", "speech", "transcription"])
def test_the_asynchronous_client_is_told_the_same(upstream, proxy, token, name):
    async def told(url: str, key: str) -> object:
        async with openai.AsyncOpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0, timeout=60) as client:
            return await ASYNC_CALLS[name](client)

    proxied, direct = asyncio.run(told(proxy.url, token.secret)), asyncio.run(told(upstream.url, UPSTREAM_KEY))

    assert proxied == direct


def test_many_calls_at_once_and_then_one_after_another_are_all_answered(proxy, upstream, token):
    async def many() -> list[str]:
        async with openai.AsyncOpenAI(api_key=token.secret, base_url=f"{proxy.url}/v1") as client:
            at_once = await asyncio.gather(*[client.chat.completions.create(**CHAT) for _ in range(40)])
            return [answer.object for answer in [*at_once, *[await client.models.retrieve("m") for _ in range(10)]]]

    assert asyncio.run(many()) == ["chat.completion"] * 40 + ["model"] * 10
    # Each found a connection that one before had left.
    assert {request["connection"] for request in upstream.requests("/v1/models/m")} <= {
        request["connection"] for request in upstream.requests("/v1/chat/completions")
    }


def test_what_must_not_be_tried_again_is_not(proxy, upstream, token):
    refused = {"x-mock-status": "500", "x-mock-header": "x-should-retry: false"}
    client = client_of(proxy.url, token.secret).with_options(max_retries=2)
    with client, pytest.raises(openai.InternalServerError):
        client.models.list(extra_headers=refused)

    assert len(upstream.requests("/v1/models")) == 1


def test_a_retry_that_the_upstream_asks_for_is_made(proxy, upstream, token):
    once = {"x-mock-status": "429", "x-mock-retry-after-ms": "1", "x-mock-once": "retry"}
    with client_of(proxy.url, token.secret).with_options(max_retries=2) as client:
        assert client.chat.completions.create(**CHAT, extra_headers=once).object == "chat.completion"

    assert len(upstream.requests("/v1/chat/completions")) == 2
