"""OpenAI's own Python client over WebSockets, unmodified: Realtime and Responses, sync and async."""

import asyncio
import json
from typing import Any

import openai
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.server import ServerConnection

from tests.servers import UPSTREAM_KEY, Server, Token
from tests.websocket_upstream import WebSocketUpstream

MODEL = "gpt-realtime"
TURNS = 2
USAGE = {
    "total_tokens": 12, "input_tokens": 7, "output_tokens": 5,
    "input_token_details": {"text_tokens": 7, "audio_tokens": 0, "cached_tokens": 2},
    "output_token_details": {"text_tokens": 5, "audio_tokens": 0},
}  # fmt: skip


def realtime(peer: ServerConnection) -> None:
    """Answers each `response.create` in the events that OpenAI documents for text."""
    send = _numbered(peer)
    send({"type": "session.created", "session": {"type": "realtime", "id": "sess_1", "model": MODEL}})
    for message in peer:
        event = json.loads(message)
        if event["type"] == "session.update":
            send({"type": "session.updated", "session": {**event["session"], "id": "sess_1", "model": MODEL}})
        elif event["type"] == "response.create":
            response = {"object": "realtime.response", "id": "resp_1", "output": [], "usage": None}
            send({"type": "response.created", "response": response | {"status": "in_progress"}})
            for word in ("Hel", "lo"):
                place = {"response_id": "resp_1", "item_id": "item_1", "output_index": 0, "content_index": 0}
                send({"type": "response.output_text.delta", "delta": word, **place})
            send({"type": "response.done", "response": response | {"status": "completed", "usage": USAGE}})


def responses(peer: ServerConnection) -> None:
    """Answers each `response.create` as a stream of Responses does."""
    send = _numbered(peer)
    for message in peer:
        assert json.loads(message)["type"] == "response.create"
        response = {
            "id": "resp_1", "object": "response", "created_at": 1741476542, "model": MODEL, "output": [],
            "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        }  # fmt: skip
        send({"type": "response.created", "sequence_number": 0, "response": response})
        usage = {
            "input_tokens": 7, "output_tokens": 5, "total_tokens": 12,
            "input_tokens_details": {"cached_tokens": 2}, "output_tokens_details": {"reasoning_tokens": 0},
        }  # fmt: skip
        send({"type": "response.completed", "sequence_number": 1, "response": response | {"usage": usage}})


def _numbered(peer: ServerConnection) -> Any:
    return lambda event: peer.send(json.dumps({"event_id": "event_1", **event}))


def token_for(proxy: Server, upstream: WebSocketUpstream) -> Token:
    return proxy.issue_token(proxy.create_project(base_url=upstream.url))


def assert_recorded(proxy: Server, token: Token, upstream: WebSocketUpstream, endpoint: str) -> None:
    """One record of each response and one of the whole conversation, and the key upstream."""
    records = proxy.wait_for_records(TURNS + 1, token)
    assert {(one["endpoint"], one["outcome"], one["status_code"]) for one in records} == {(endpoint, "complete", 101)}
    assert [one.get("part") for one in records] == [*range(1, TURNS + 1), None]
    for one in records[:-1]:
        metadata = one["metadata"]
        assert (metadata["model"], metadata["total_tokens"]) == (MODEL, 12)
        assert metadata["prompt_tokens_details"]["cached_tokens"] == 2
    assert [sent["Authorization"] for sent in upstream.handshakes] == [f"Bearer {UPSTREAM_KEY}"]


def test_a_conversation_by_the_sync_client(proxy):
    said = ""
    with WebSocketUpstream(realtime) as upstream:
        token = token_for(proxy, upstream)
        client = openai.OpenAI(api_key=token.secret, base_url=f"{proxy.url}/v1")
        with client.realtime.connect(model=MODEL) as connection:
            assert connection.recv().type == "session.created"
            connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
            assert connection.recv().session.output_modalities == ["text"]
            for _ in range(TURNS):
                connection.response.create()
                while (event := connection.recv()).type != "response.done":
                    said += getattr(event, "delta", "")
                assert event.response.usage.total_tokens == 12

        assert_recorded(proxy, token, upstream, "/v1/realtime")
    assert said == "Hello" * TURNS
    assert upstream.paths == [f"/v1/realtime?model={MODEL}"]


def test_a_conversation_by_the_async_client(proxy):
    async def talk(token: Token) -> list[str]:
        client = openai.AsyncOpenAI(api_key=token.secret, base_url=f"{proxy.url}/v1")
        kinds = []
        async with client.realtime.connect(model=MODEL) as connection:
            for _ in range(TURNS):
                await connection.response.create()
            async for event in connection:
                kinds.append(event.type)
                if kinds.count("response.done") == TURNS:
                    break
        return kinds

    with WebSocketUpstream(realtime) as upstream:
        token = token_for(proxy, upstream)
        kinds = asyncio.run(talk(token))

        assert_recorded(proxy, token, upstream, "/v1/realtime")
    assert kinds.count("response.output_text.delta") == 2 * TURNS


def test_a_transcription_by_the_sync_client_under_a_rule_about_models(proxy):
    transcription = {"input": {"transcription": {"model": "gpt-4o-transcribe", "language": "en"}}}
    with WebSocketUpstream(realtime) as upstream:
        token = token_for(proxy, upstream)
        rules = {"endpoints": ["realtime"], "models": ["gpt-4o-transcribe"]}
        proxy.manage("PATCH", f"/tokens/{token.id}", {"rules": rules})
        client = openai.OpenAI(api_key=token.secret, base_url=f"{proxy.url}/v1")
        with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
            assert connection.recv().type == "session.created"
            connection.session.update(session={"type": "transcription", "audio": transcription})
            assert connection.recv().type == "session.updated"
            connection.input_audio_buffer.append(audio="AAAA")
            connection.input_audio_buffer.commit()
            connection.session.update(session={"type": "transcription", "audio": transcription})
            assert connection.recv().type == "session.updated"

    assert upstream.paths == ["/v1/realtime?intent=transcription"]


def test_a_translation_by_the_sync_client_under_a_rule_about_models(proxy):
    with WebSocketUpstream(realtime) as upstream:
        token = token_for(proxy, upstream)
        rules = {"endpoints": ["realtime"], "models": ["gpt-realtime-translate"]}
        proxy.manage("PATCH", f"/tokens/{token.id}", {"rules": rules})
        client = openai.OpenAI(api_key=token.secret, base_url=f"{proxy.url}/v1")
        with client.realtime.translations.connect(model="gpt-realtime-translate") as connection:
            assert connection.recv().type == "session.created"
            connection.session.update(session={"audio": {"output": {"language": "es"}}})
            assert connection.recv().type == "session.updated"
            connection.session.input_audio_buffer.append(audio="AAAA")
            connection.session.close()

    assert upstream.paths == ["/v1/realtime/translations?model=gpt-realtime-translate"]


def test_responses_over_a_websocket(proxy):
    with WebSocketUpstream(responses) as upstream:
        token = token_for(proxy, upstream)
        client = openai.OpenAI(api_key=token.secret, base_url=f"{proxy.url}/v1")
        with client.responses.connect() as connection:
            for _ in range(TURNS):
                connection.response.create(model=MODEL, input="Hi")
                assert connection.recv().type == "response.created"
                assert connection.recv().response.usage.total_tokens == 12

        assert_recorded(proxy, token, upstream, "/v1/responses")


def test_a_bad_token_is_told_to_the_client(proxy):
    client = openai.OpenAI(api_key="no-token", base_url=f"{proxy.url}/v1", max_retries=0)
    with pytest.raises(InvalidStatus) as refused, client.realtime.connect(model=MODEL):
        pass

    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body)["error"]["code"] == "invalid_api_key"


def test_a_revocation_ends_the_conversation(proxy):
    with WebSocketUpstream(realtime) as upstream:
        token = token_for(proxy, upstream)
        client = openai.OpenAI(api_key=token.secret, base_url=f"{proxy.url}/v1")
        with client.realtime.connect(model=MODEL) as connection:
            assert connection.recv().type == "session.created"
            proxy.manage("DELETE", "/tokens", {"id": token.id})
            with pytest.raises(ConnectionClosedError) as closed:
                connection.recv()

    assert (closed.value.rcvd.code, "revoked" in closed.value.rcvd.reason) == (1008, True)
