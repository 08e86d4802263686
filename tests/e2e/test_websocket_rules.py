"""What a client may say on a WebSocket under rules and budgets: sent by hand, and looked for upstream."""

import json
import struct
import subprocess
import threading
from contextlib import suppress

import openai
import orjson
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.meters import DOLLAR, add_meter, settled
from tests.servers import WAIT_S, on_both_servers, wait_for
from tests.websocket_upstream import WebSocketUpstream

ALLOWED, OTHER = "gpt-realtime", "gpt-realtime-mini"
RULES = {"endpoints": ["realtime", "responses"], "models": [ALLOWED, "gpt-4o-mini"]}
SESSION = json.dumps({"type": "session.created", "session": {"model": ALLOWED}})
BEGUN = json.dumps({"type": "response.created", "response": {"usage": None}})
DONE = json.dumps({"type": "response.done", "response": {"usage": {"input_tokens": 10, "output_tokens": 1}}})
BIG = f'"model":"{OTHER}"'.encode()
SOUND = b"input_audio_buffer.append"
FINAL, TEXT, BINARY, CONTINUED, CLOSE, PING = 0x80, 0x1, 0x2, 0x0, 0x8, 0x9


def frame(payload=b"", first=FINAL | TEXT, *, mask=b"\x01\x02\x03\x04", size=None):
    """A client's frame, as odd as is wanted."""
    length = len(payload) if size is None else size
    head = bytes([first])
    masked = 0x80 if mask else 0
    if length < 126:
        head += bytes([masked | length])
    elif length < 2**16:
        head += bytes([masked | 126]) + struct.pack("!H", length)
    else:
        head += bytes([masked | 127]) + struct.pack("!Q", length)
    return head + mask + (bytes(b ^ mask[i % 4] for i, b in enumerate(payload)) if mask else payload)


def fragmented(text, step=1, between=b""):
    """A message in fragments, with frames between them."""
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    out = frame(pieces[0], TEXT)
    for piece in pieces[1:-1]:
        out += between + frame(piece, CONTINUED)
    return out + between + frame(pieces[-1], FINAL | CONTINUED)


class Heard(WebSocketUpstream):
    """Keeps what it hears, takes settings but for voices, and responds to whoever asks for a response."""

    def __init__(self):
        self.messages = []
        super().__init__(self._listen, max_size=None)

    def _listen(self, peer):
        peer.send(SESSION)
        session = {"model": ALLOWED, "max_output_tokens": "inf"}
        for message in peer:
            self.messages.append(message)
            said = json.loads(message)
            if said.get("type") == "response.create":
                peer.send(BEGUN)
                peer.send(DONE)
            elif "voice" in (update := said.get("session", {})):
                about = {"event_id": said.get("event_id"), "param": "session.voice"}
                peer.send(json.dumps({"type": "error", "error": {"code": "invalid_value", **about}}))
            elif said.get("type") == "session.update":
                session |= {name: value for name, value in update.items() if name != "max_response_output_tokens"}
                peer.send(json.dumps({"type": "session.updated", "session": session}))


@pytest.fixture
def heard():
    with Heard() as upstream:
        yield upstream


@pytest.fixture
def token(proxy, token_for, heard):
    """A token with rules about models, in front of that."""
    made = token_for(heard.url)
    set_rules(proxy, made, RULES)
    return made


def set_rules(proxy, token, rules):
    status, answer = proxy.manage("PATCH", f"/tokens/{token.id}", {"rules": rules})
    assert status == 200, answer


def opened(proxy, token, path="/v1/realtime?model=gpt-realtime"):
    url = proxy.url.replace("http", "ws") + path
    # No pings by themselves: one would come in the midst of what a test sends by hand.
    return connect(
        url,
        additional_headers=dict([token.bearer]),
        proxy=None,
        max_size=None,
        ping_interval=None,
        open_timeout=WAIT_S,
    )


def closed_after(proxy, token, data, path="/v1/realtime?model=gpt-realtime"):
    """The close frame that bytes sent as they are lead to."""
    with opened(proxy, token, path) as client:
        client.recv()
        client.socket.sendall(data)
        return closed(client)


def closed(client):
    """The close frame that ends it, whatever comes before."""
    with pytest.raises(ConnectionClosed) as caught:  # noqa: PT012
        while True:
            client.recv(timeout=WAIT_S)
    return caught.value.rcvd and (caught.value.rcvd.code, caught.value.rcvd.reason)


def said(kind, more=b""):
    return b'{"type":"' + kind + b'"' + more + b"}"


WAYS = {
    "in a session": (said(b"session.update", b',"session":{' + BIG + b"}"), "model_not_allowed"),
    "in a response": (said(b"response.create", b',"response":{' + BIG + b"}"), "model_not_allowed"),
    "beside a response": (said(b"response.create", b"," + BIG), "model_not_allowed"),
    "in a list to fall back to": (
        said(b"response.create", b',"response":{"models":["gpt-realtime-mini"]}'),
        "model_not_allowed",
    ),
    "left out for a tool": (
        said(b"session.update", b',"session":{"tools":[{"type":"image_generation"}]}'),
        "model_undetermined",
    ),
    "in a transcription": (
        said(b"session.update", b',"session":{"audio":{"input":{"transcription":{' + BIG + b"}}}}"),
        "model_not_allowed",
    ),
    "in an older transcription": (
        said(b"transcription_session.update", b',"session":{"input_audio_transcription":{' + BIG + b"}}"),
        "model_not_allowed",
    ),
    "in a tool": (said(b"session.update", b',"session":{"tools":[{' + BIG + b"}]}"), "model_not_allowed"),
    "in a kind that nobody knows": (said(b"x", b',"y":[{' + BIG + b"}]"), "model_not_allowed"),
    "with the sound": (
        said(SOUND, b',"audio":"","session":{' + BIG + b"}"),
        "model_not_allowed",
    ),
    "twice": (
        said(b"session.update", b',"session":{"model":"gpt-realtime",' + BIG + b"}"),
        "ambiguous_body",
    ),
    "in a second session": (said(b"session.update", b',"session":{},"session":{' + BIG + b"}"), "ambiguous_body"),
    "by a second type": (said(b"x", b',"type":"session.update","session":{' + BIG + b"}"), "ambiguous_body"),
    "with an escape": (said(b"session.update", b',"session":{"\\u006dodel":"gpt-4o"}'), "model_not_allowed"),
    "in another case": (said(b"session.update", b',"session":{"Model":"gpt-4o"}'), "ambiguous_body"),
    "as an object": (said(b"response.create", b',"response":{"model":{"id":"x"}}'), "ambiguous_body"),
    "behind the end": (said(b"x") + said(b"session.update", b',"session":{' + BIG + b"}"), "ambiguous_body"),
    "behind a BOM": (b"\xef\xbb\xbf" + said(b"session.update", b',"session":{' + BIG + b"}"), "ambiguous_body"),
    "beside what is not UTF-8": (said(b"session.update", b',"x":"\xff","session":{' + BIG + b"}"), "ambiguous_body"),
    "in an array": (b"[" + said(b"session.update", b',"session":{' + BIG + b"}") + b"]", "ambiguous_body"),
    "far behind": (said(b"x", b',"pad":"' + b"x" * 300_000 + b'","session":{' + BIG + b"}"), "model_not_allowed"),
    "nothing at all": (b"", "ambiguous_body"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_no_message_names_another_model(proxy, token, heard, way):
    text, code = way

    assert closed_after(proxy, token, frame(text)) == (1008, code)

    assert heard.messages == []
    *_, record = proxy.wait_for_records(1, token)
    assert (record["outcome"], record["error"]["code"]) == ("refused", code)


NAMING = said(b"session.update", b',"session":{' + BIG + b"}")
PLAIN = said(b"input_audio_buffer.clear")
FRAMES = {
    "in fragments of a byte": (fragmented(NAMING), 1008, "model_not_allowed"),
    "in fragments with pings": (fragmented(NAMING, 7, frame(b"x", FINAL | PING)), 1008, "model_not_allowed"),
    "with empty fragments": (fragmented(NAMING, 9, frame(b"", CONTINUED)), 1008, "model_not_allowed"),
    "as bytes": (frame(NAMING, FINAL | BINARY), 1008, "model_not_allowed"),
    "with an unmasked frame": (frame(NAMING, mask=b""), 1008, "ambiguous_body"),
    "with a bit of an extension": (frame(NAMING, FINAL | 0x40 | TEXT), 1008, "ambiguous_body"),
    "in a frame of no kind": (frame(NAMING, FINAL | 0x3), 1008, "ambiguous_body"),
    "in a control frame of no kind": (frame(PLAIN[:20], FINAL | 0xB), 1008, "ambiguous_body"),
    "as a fragment of nothing": (frame(NAMING, FINAL | CONTINUED), 1008, "ambiguous_body"),
    "as a message within a message": (frame(PLAIN, TEXT) + frame(NAMING), 1008, "ambiguous_body"),
    "in a long control frame": (frame(NAMING * 3, FINAL | PING), 1008, "ambiguous_body"),
    "in a fragmented control frame": (frame(PLAIN[:20], PING), 1008, "ambiguous_body"),
    "with a length in too many bytes": (
        bytes([FINAL | TEXT, 0x80 | 126]) + struct.pack("!H", len(PLAIN)) + bytes(4) + PLAIN, 1008, "ambiguous_body",
    ),
    "with a length beyond all": (frame(b"", size=2**63), 1009, "request_too_large"),
    "with more than may be said": (frame(b"", size=16 * 1024 * 1024 + 1), 1009, "request_too_large"),
}  # fmt: skip


@pytest.mark.parametrize("way", FRAMES.values(), ids=FRAMES)
def test_no_frame_hides_a_message(proxy, token, heard, way):
    data, code, reason = way

    assert closed_after(proxy, token, data) == (code, reason)

    assert heard.messages == []


def test_fragments_without_end_and_without_bytes_are_too_many(proxy, token, heard):
    with opened(proxy, token) as client:
        client.recv()
        client.socket.sendall(frame(b"{", TEXT))
        with suppress(OSError):
            for _ in range(400):
                client.socket.sendall(frame(b"", CONTINUED) * 10_000)

    *_, record = proxy.wait_for_records(1, token)
    assert record["error"]["code"] == "request_too_large" and heard.messages == []


def test_what_follows_a_close_frame_is_read_by_nobody(proxy, token, heard):
    closing = frame(struct.pack("!H", 1000) + b"bye", FINAL | CLOSE)

    assert closed_after(proxy, token, closing + frame(NAMING)) == (1000, "bye")

    assert heard.messages == []


ALLOWED_WAYS = {
    "a session": said(b"session.update", b',"session":{"model":"gpt-realtime-2025-08-28"}'),
    "sound": said(SOUND, b',"audio":"' + b"A" * 100_000 + b'"'),
    "a lot of sound": said(SOUND, b',"audio":"' + b"A" * 15_000_000 + b'"'),
    "what callers name": said(
        b"session.update",
        b',"session":{"prompt":{"id":"p","variables":{"model":"x"}},"tools":[{"type":"mcp","headers":{"model":"x"}}]}',
    ),
    "what callers name in an item": said(
        b"conversation.item.create", b',"item":{"type":"mcp_call","model":"x","arguments":"{}"}'
    ),
    "an item": said(b"conversation.item.create", b',"item":{"content":[{"text":"\\"model\\":\\"x\\""}]}'),
}


@on_both_servers
def test_what_may_go_up_goes_up_as_it_came_and_five_parsers_read_no_other_model(proxy, token_for, heard):
    token = token_for(heard.url)
    set_rules(proxy, token, RULES)
    with opened(proxy, token) as client:
        client.recv()
        for text in ALLOWED_WAYS.values():
            client.socket.sendall(frame(text) if len(text) > 1000 else fragmented(text, 5, frame(b"p", FINAL | PING)))
        wait_for(lambda: len(heard.messages) == len(ALLOWED_WAYS))

    assert [message.encode() for message in heard.messages] == list(ALLOWED_WAYS.values())
    assert {model for message in heard.messages for model in models_by_five_parsers(message)} <= {
        "gpt-realtime-2025-08-28",
        "",
    }


def models_by_five_parsers(text):
    """The session's model, by each of them."""
    node = "let s='';process.stdin.on('data',d=>s+=d).on('end',()=>console.log(JSON.parse(s).session?.model??''))"
    perl = "local $/; print JSON::PP->new->utf8->decode(<STDIN>)->{session}{model} // ''"
    models = [(read(text).get("session") or {}).get("model", "") for read in (json.loads, orjson.loads)]
    if len(text) < 200_000:  # Perl's is slow
        for command in (
            ["jq", "-r", '.session.model // ""'],
            ["node", "-e", node],
            ["perl", "-MJSON::PP", "-e", perl],
        ):
            done = subprocess.run(command, input=text.encode(), capture_output=True, check=True)
            models.append(done.stdout.decode().strip())
    return models


def test_parameters_hold_for_a_session_and_for_a_response(proxy, token, heard):
    set_rules(proxy, token, RULES | {"limits": {"max_output_tokens": 100, "tools": ["function"]}})
    settings = {
        b'"max_output_tokens":101': "parameter_not_allowed",
        b'"max_output_tokens":"inf"': "parameter_not_allowed",
        b'"tools":[{"type":"mcp"}]': "parameter_not_allowed",
    }
    for setting, code in settings.items():
        for kind, name in ((b"session.update", b"session"), (b"response.create", b"response")):
            text = said(kind, b',"' + name + b'":{' + setting + b"}")
            assert closed_after(proxy, token, frame(text)) == (1008, code), text
    item = said(b"conversation.item.create", b',"item":{"tools":[{"type":"mcp"}]}')
    assert closed_after(proxy, token, frame(item)) == (1008, "parameter_not_allowed")

    assert heard.messages == []


def test_what_a_session_was_told_holds_for_its_responses(proxy, token, heard):
    set_rules(proxy, token, RULES | {"limits": {"max_output_tokens": 100, "require_max_output": True}})
    with opened(proxy, token) as client:
        client.recv()
        client.send(said(b"session.update", b',"session":{"max_output_tokens":50}').decode())
        client.send('{"type":"response.create"}')
        assert '"session.updated"' in client.recv(timeout=WAIT_S)
        assert [client.recv(timeout=WAIT_S), client.recv(timeout=WAIT_S)] == [BEGUN, DONE]

    assert closed_after(proxy, token, frame(said(b"response.create"))) == (1008, "parameter_not_allowed")


UNLIMITED = {
    "an update that the upstream refuses": [b'{"max_output_tokens":50,"voice":"x"}'],
    "one that it refuses by its id": [b'{"max_output_tokens":50,"voice":"x"},"event_id":"mine"'],
    "a limit by a name that it does not know": [b'{"max_response_output_tokens":50}'],
    "a limit that is none": [b'{"max_output_tokens":"inf"}'],
    "a limit that was taken back": [b'{"max_output_tokens":50}', b'{"max_output_tokens":"inf"}'],
    "a limit that is taken back by what may be refused": [
        b'{"max_output_tokens":50}', b'{"max_output_tokens":null,"voice":"x"}',
    ],
    "a limit of a response that is none": [b'{"max_output_tokens":50}', None],
}  # fmt: skip


@pytest.mark.parametrize("updates", UNLIMITED.values(), ids=UNLIMITED)
def test_no_response_is_asked_for_without_a_limit_that_the_upstream_has_taken(proxy, token, heard, updates):
    set_rules(proxy, token, RULES | {"limits": {"require_max_output": True}})
    asking = b',"response":{"max_output_tokens":"inf"}' if updates[-1] is None else b""
    frames = [frame(said(b"session.update", b',"session":' + update)) for update in updates if update is not None]

    data = b"".join(frames) + frame(said(b"response.create", asking))
    assert closed_after(proxy, token, data) == (1008, "parameter_not_allowed")

    assert not any("response.create" in message for message in heard.messages)


@pytest.mark.parametrize(
    "text",
    [
        said(b"response.create", b',"session":{"max_output_tokens":50}'),
        said(b"session.update", b',"session":{},"response":{"max_output_tokens":50}'),
    ],
)
def test_settings_stand_where_the_upstream_looks_for_them(proxy, token, heard, text):
    assert closed_after(proxy, token, frame(text)) == (1008, "ambiguous_body")

    assert heard.messages == []


def test_an_error_about_something_else_takes_no_setting_away(proxy, token, heard):
    set_rules(proxy, token, RULES | {"limits": {"require_max_output": True}})
    with opened(proxy, token) as client:
        client.recv()
        client.send('{"type":"conversation.item.create","session":{"voice":"x"}}')
        client.send(said(b"session.update", b',"session":{"max_output_tokens":50}').decode())
        client.send('{"type":"response.create"}')
        told = [json.loads(client.recv(timeout=WAIT_S))["type"] for _ in range(4)]

    assert told == ["error", "session.updated", "response.created", "response.done"]


CHANGES = {
    "endpoints": ({"endpoints": ["chat"]}, "endpoint_not_allowed"),
    "addresses": ({"addresses": ["203.0.113.0/24"]}, "address_not_allowed"),
    "models": ({"models": ["gpt-4o-mini"]}, "model_not_allowed"),
    "size": ({"limits": {"max_body_bytes": 20}}, "request_too_large"),
}


@pytest.mark.parametrize("whose", ["tokens", "projects"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_rule_that_changes_holds_from_the_next_message_on(proxy, token, heard, change, whose):
    rules, code = change
    owner = token.id if whose == "tokens" else token.project_id
    texts = ['{"type":"input_audio_buffer.clear"}', '{"type":"response.create"}']
    if code != "model_not_allowed":
        texts.append(said(SOUND, b',"audio":"AAAA"').decode())
    for text in texts:
        heard.messages.clear()
        set_rules(proxy, token, RULES)
        with opened(proxy, token) as client:
            client.recv()
            status, answer = proxy.manage("PATCH", f"/{whose}/{owner}", {"rules": RULES | rules})
            assert status == 200, answer
            client.send(text)
            assert closed(client) == (1009 if code == "request_too_large" else 1008, code), text
        assert heard.messages == []
        proxy.manage("PATCH", f"/{whose}/{owner}", {"rules": RULES})


def test_a_rule_that_changes_reaches_a_session_of_sound_alone(proxy, token, heard):
    sound = said(SOUND, b',"audio":"AAAA"').decode()
    with opened(proxy, token) as client:
        client.recv()
        client.send(sound)
        set_rules(proxy, token, RULES | {"endpoints": ["chat"]})

        def is_closed():
            try:
                client.send(sound)
            except ConnectionClosed as exc:
                return exc.rcvd
            return None

        close = wait_for(is_closed)

    assert (close.code, close.reason) == (1008, "endpoint_not_allowed")


@pytest.mark.parametrize("text", [said(SOUND, b',"audio":"' + b"A" * 500 + b'"'), b'{"a":1,"a":' + b"[" * 500])
def test_no_message_is_longer_than_bodies_may_be(proxy, token, heard, text):
    set_rules(proxy, token, {"endpoints": ["realtime"], "limits": {"max_body_bytes": 100}})

    assert closed_after(proxy, token, frame(text)) == (1009, "request_too_large")

    assert heard.messages == []


HEARING = b'{"type":"transcription","audio":{"input":{"transcription":{"model":"gpt-4o-mini-transcribe"}}}}'


def test_a_transcription_names_its_model_in_its_session(proxy, token, heard):
    set_rules(proxy, token, RULES | {"models": ["gpt-4o-mini-transcribe"]})
    texts = [said(b"session.update", b',"session":' + HEARING), said(SOUND, b',"audio":"AAAA"')]
    path = "/v1/realtime?intent=transcription"
    with opened(proxy, token, path) as client:
        for text in texts:
            client.send(text.decode())
        wait_for(lambda: len(heard.messages) == len(texts))
    heard.messages.clear()

    nameless = said(b"session.update", b',"session":{"audio":{"input":{"transcription":{"language":"en"}}}}')
    assert closed_after(proxy, token, frame(nameless), path) == (1008, "model_undetermined")
    assert closed_after(proxy, token, frame(texts[1]), path) == (1008, "model_undetermined")
    assert closed_after(proxy, token, frame(said(b"response.create")), path) == (1008, "model_undetermined")
    assert closed_after(proxy, token, frame(NAMING), path) == (1008, "model_not_allowed")
    assert heard.messages == []


def test_what_hears_may_be_changed_without_its_name_where_the_upstream_has_confirmed_it(proxy, token, heard):
    set_rules(proxy, token, RULES | {"models": [ALLOWED, "gpt-4o-mini-transcribe"]})
    partial = said(b"session.update", b',"session":{"audio":{"input":{"transcription":{"language":"en"}}}}').decode()
    with opened(proxy, token) as client:
        client.recv()
        client.send(said(b"session.update", b',"session":' + HEARING).decode())
        client.send(partial)
        wait_for(lambda: len(heard.messages) == 2)
        assert heard.messages[1] == partial
        # This upstream takes an update for the whole: it has told now that nobody has named what hears.
        client.recv(), client.recv()
        client.send(partial)
        assert closed(client) == (1008, "model_undetermined")


def test_no_model_hears_that_the_upstream_has_chosen_and_the_rules_do_not_allow(proxy, token_for):
    told = json.dumps({"type": "session.updated", "session": json.loads(HEARING)})

    def talk(peer):
        for _ in peer:
            peer.send(told)

    with WebSocketUpstream(talk) as upstream:
        token = token_for(upstream.url)
        set_rules(proxy, token, RULES)
        with opened(proxy, token) as client:
            client.send('{"type":"session.update","session":{"voice":"alloy"}}')
            assert client.recv() == told
            client.send(said(SOUND, b',"audio":"AAAA"').decode())
            assert closed(client) == (1008, "model_not_allowed")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (said(b"session.update", b',"session":' + HEARING.replace(b"gpt-4o-mini", b"made-up")), "model_not_priced"),
        (said(SOUND, b',"audio":"AAAA"'), "model_undetermined"),
    ],
)
def test_no_model_hears_that_a_budget_in_dollars_does_not_see(proxy, token, heard, text, code):
    set_rules(proxy, token, {"endpoints": ["realtime"]})
    add_meter(proxy, token)
    path = "/v1/realtime?intent=transcription"
    with opened(proxy, token, path) as client:
        client.send(said(b"session.update", b',"session":' + HEARING).decode())
        wait_for(lambda: len(heard.messages) == 1)

    assert closed_after(proxy, token, frame(text), path) == (1008, code)
    assert len(heard.messages) == 1


def test_nothing_is_heard_beside_a_budget_that_reserves_bounds(proxy, token, heard):
    set_rules(proxy, token, {"endpoints": ["realtime"]})
    add_meter(proxy, token, reserve="bound")
    hearing = frame(said(b"session.update", b',"session":' + HEARING))

    assert closed_after(proxy, token, hearing, "/v1/realtime?intent=transcription") == (1008, "budget_too_small")
    assert heard.messages == []


TRANSLATING = "/v1/realtime/translations?model="


def test_a_translation_is_held_to_rules_as_any_session_is(proxy, token, heard):
    sound = said(b"session.input_audio_buffer.append", b',"audio":"AAAA"')
    language = said(b"session.update", b',"session":{"audio":{"output":{"language":"es"}}}')
    hearing = said(b"session.update", b',"session":{"audio":{"input":{"transcription":{' + BIG + b"}}}}")
    with opened(proxy, token, TRANSLATING + ALLOWED) as client:
        for text in (language, sound, sound, said(b"session.close")):
            client.send(text.decode())
        wait_for(lambda: len(heard.messages) == 4)

    assert closed_after(proxy, token, frame(hearing), TRANSLATING + ALLOWED) == (1008, "model_not_allowed")
    for path, code in ((TRANSLATING + OTHER, b"model_not_allowed"), (TRANSLATING[:-7], b"model_undetermined")):
        with pytest.raises(InvalidStatus) as caught:
            opened(proxy, token, path)
        assert code in caught.value.response.body
    record = proxy.wait_for_records(1, token)[0]
    assert (record["cost_usd"], record["cost_source"]) == (None, "absent")


def test_a_translation_that_was_opened_before_its_token_had_rules_ends_with_its_sound(proxy, token_for, heard):
    plain, sound = token_for(heard.url), said(b"session.input_audio_buffer.append", b',"audio":"AAAA"').decode()
    with opened(proxy, plain, TRANSLATING + OTHER) as client:
        client.recv()
        client.send(sound)
        set_rules(proxy, plain, RULES)
        with suppress(ConnectionClosed):
            while True:
                client.send(sound)
        assert closed(client) == (1008, "endpoint_not_allowed")


@pytest.mark.parametrize("unit", ["usd", "tokens"])
def test_no_translation_goes_on_beside_a_budget_that_is_not_told_its_cost(proxy, token, heard, unit):
    with opened(proxy, token, TRANSLATING + ALLOWED) as client:
        client.recv()
        add_meter(proxy, token, unit=unit)
        client.send(said(b"session.input_audio_buffer.append", b',"audio":"AAAA"').decode())
        assert closed(client) == (1008, "model_not_priced")

    with pytest.raises(InvalidStatus) as caught:
        opened(proxy, token, TRANSLATING + ALLOWED)
    assert b"model_not_priced" in caught.value.response.body
    assert heard.messages == [] and len(heard.handshakes) == 1


@pytest.mark.parametrize(
    "query", ["call_id=rtc_1", "call_id=rtc_1&model=gpt-realtime", "call%5Fid=x&model=gpt-realtime"]
)
def test_no_call_is_joined_whose_model_nobody_knows(proxy, token, heard, query):
    with pytest.raises(InvalidStatus) as caught:
        opened(proxy, token, f"/v1/realtime?{query}")

    assert b"model_undetermined" in caught.value.response.body and heard.handshakes == []


def test_a_secret_that_was_replaced_works_on_in_open_sessions(proxy, token, heard):
    with opened(proxy, token) as client:
        client.recv()
        status, answer = proxy.manage("POST", f"/tokens/{token.id}/rotate", {"grace_hours": 1})
        assert status in (200, 201), answer
        client.send('{"type":"input_audio_buffer.clear"}')
        client.send('{"type":"response.create"}')
        assert client.recv(timeout=WAIT_S) == BEGUN


def test_a_rule_that_changes_holds_from_the_next_message_on(proxy, token, heard):
    with opened(proxy, token) as client:
        client.recv()
        client.send('{"type":"response.create"}')
        client.recv(timeout=WAIT_S)
        set_rules(proxy, token, RULES | {"models": ["gpt-4o-mini"]})
        client.send('{"type":"response.create"}')
        assert closed(client) == (1008, "model_not_allowed")
    assert len(heard.messages) == 1
    _, record = proxy.wait_for_records(2, token)
    assert (record["outcome"], record["error"]["code"], record["cut"]) == ("refused", "model_not_allowed", True)


def test_a_session_that_was_opened_before_its_token_had_rules_ends_with_its_next_response(proxy, token_for, heard):
    plain = token_for(heard.url)
    ask = '{"type":"response.create"}'
    with opened(proxy, plain) as client:
        client.recv()
        # Without rules, with such as refuse nobody, and with such as ask nothing of a request it goes on.
        for rules in (None, RULES | {"mode": "report"}, {"endpoints": ["realtime"]}):
            set_rules(proxy, plain, rules)
            client.send(ask)
            assert [client.recv(timeout=WAIT_S), client.recv(timeout=WAIT_S)] == [BEGUN, DONE]
        set_rules(proxy, plain, RULES)
        client.send(ask)
        assert closed(client) == (1008, "endpoint_not_allowed")

    *parts, session = proxy.wait_for_records(5, plain)
    assert [part["part"] for part in parts] == [1, 2, 3, 4]
    assert (session["outcome"], session["error"]["code"]) == ("refused", "endpoint_not_allowed")
    wait_for(lambda: json.loads(heard.messages[-1])["type"] == "response.cancel")  # which nobody answers


def test_an_hourly_limit_that_messages_use_up_ends_the_session_at_the_next_response(proxy, token, heard):
    proxy.manage("PATCH", f"/tokens/{token.id}", {"rate_limit": 2})  # the opening, and a response
    with opened(proxy, token) as client:
        client.recv()
        client.send('{"type":"response.create"}')
        assert [client.recv(timeout=WAIT_S), client.recv(timeout=WAIT_S)] == [BEGUN, DONE]
        client.send('{"type":"input_audio_buffer.clear"}')  # which asks for nothing
        client.send('{"type":"response.create"}')
        assert closed(client) == (1008, "rate_limit_exceeded")

    wait_for(lambda: len(heard.messages) > 1)
    assert [json.loads(message)["type"] for message in heard.messages] == [
        "response.create",
        "input_audio_buffer.clear",
    ]
    _, session = proxy.wait_for_records(2, token)
    assert (session["outcome"], session["error"]["code"]) == ("refused", "rate_limit_exceeded")
    with pytest.raises(InvalidStatus) as caught:
        opened(proxy, token)
    assert caught.value.response.status_code == 429


def test_in_report_mode_messages_go_up_and_what_would_have_refused_them_is_noted(proxy, token, heard):
    set_rules(proxy, token, RULES | {"mode": "report"})
    with opened(proxy, token) as client:
        client.recv()
        for text in (NAMING.decode(), said(b"response.create", b',"response":{' + BIG + b"}").decode()):
            client.send(text)
        assert '"session.updated"' in client.recv(timeout=WAIT_S)
        assert client.recv(timeout=WAIT_S) == BEGUN
        client.recv(timeout=WAIT_S)

    response, session = proxy.wait_for_records(2, token)
    assert (response["part"], response["would_refuse"]) == (1, "model_not_allowed")
    assert session["would_refuse"] == "model_not_allowed" and session["outcome"] == "complete"
    assert len(heard.messages) == 2


def test_nothing_is_compressed_for_whoever_is_read(proxy, token, heard):
    with opened(proxy, token) as client:
        client.recv()

    assert "Sec-WebSocket-Extensions" not in heard.handshakes[0]


# Responses.


def responses(peer):
    for message in peer:
        asked = json.loads(message)
        response = {"id": "resp_1", "object": "response", "model": asked.get("model"), "output": []}
        peer.send(json.dumps({"type": "response.created", "sequence_number": 0, "response": response}))
        usage = {"input_tokens": 1_000_000, "output_tokens": 0, "total_tokens": 1_000_000}  # $0.15
        done = {"type": "response.completed", "sequence_number": 1, "response": response | {"usage": usage}}
        peer.send(json.dumps(done))


@on_both_servers
def test_responses_are_held_priced_and_refused_one_by_one(proxy, token_for):
    with WebSocketUpstream(responses) as upstream:
        token = token_for(upstream.url)
        meter = add_meter(proxy, token, amount=DOLLAR // 5)
        set_rules(proxy, token, {"endpoints": ["POST responses"], "models": ["gpt-4o-mini"]})
        client = openai.OpenAI(api_key=token.secret, base_url=f"{proxy.url}/v1")
        with client.responses.connect() as connection:
            for tier in ("default", "priority"):  # which the upstream does not tell
                connection.response.create(model="gpt-4o-mini", input="Hi", store=False, service_tier=tier)
                assert connection.recv().type == "response.created"
                assert connection.recv().type == "response.completed"
                settled(proxy, meter)
            connection.response.create(model="gpt-4o-mini", input="Hi")
            with pytest.raises(ConnectionClosed) as caught:
                connection.recv()

    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1008, "budget_exhausted")
    records = proxy.wait_for_records(3, token)
    assert [(one.get("part"), one["cost_usd"]) for one in records] == [(1, 0.15), (2, 0.25), (None, 0)]
    assert settled(proxy, meter).spent == 400_000


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"type":"response.create","model":"gpt-4o","input":"x"}', "model_not_allowed"),
        ('{"type":"response.create","input":"x"}', "model_undetermined"),
        ('{"model":"gpt-4o-mini","background":true,"input":"x"}', "parameter_not_allowed"),
        ('{"input":"x"}', "model_undetermined"),
        ('{"type":"response.create","model":"gpt-4o-mini","background":true}', "parameter_not_allowed"),
        ('{"type":"response.create","model":"gpt-4o-mini","tools":[{"type":"mcp"}]}', "parameter_not_allowed"),
        ('{"type":"response.create","response":{"model":"gpt-4o-mini"}}', "ambiguous_body"),
        ('{"type":"response.create","model":"gpt-4o-mini","model":"gpt-4o"}', "ambiguous_body"),
    ],
)
def test_a_response_that_may_not_be_made_is_not_asked_for(proxy, token_for, text, code):
    asked = []
    with WebSocketUpstream(asked.extend) as upstream:
        token = token_for(upstream.url)
        set_rules(proxy, token, {"models": ["gpt-4o-mini"], "limits": {"tools": ["function"], "background": False}})
        with opened(proxy, token, "/v1/responses") as client:
            client.send(text)
            with pytest.raises(ConnectionClosed) as caught:
                client.recv(timeout=WAIT_S)

    assert ((caught.value.rcvd.code, caught.value.rcvd.reason), asked) == ((1008, code), [])


@pytest.mark.parametrize(
    ("budget", "kind", "code"),
    [
        ({"reserve": "bound"}, "response.inject", "budget_too_small"),
        ({"reserve": "likely"}, "response.inject", None),
        ({"reserve": "likely"}, "response.steer", "parameter_not_allowed"),
        ({"unit": "tokens"}, "response.new", "parameter_not_allowed"),
        ({"unit": "requests"}, "response.steer", None),
    ],
)
def test_nothing_is_said_on_responses_that_may_cost_what_was_not_held_for(proxy, token_for, budget, kind, code):
    heard = []

    def hear(peer):
        for message in peer:
            heard.append(json.loads(message)["type"])
            peer.send(json.dumps({"type": "heard"}))

    with WebSocketUpstream(hear) as upstream:
        token = token_for(upstream.url)
        add_meter(proxy, token, **budget)
        with opened(proxy, token, "/v1/responses") as client:
            for text in ("response.cancel", kind):
                client.send(json.dumps({"type": text, "input": [{"role": "user", "content": "x"}]}))
                with suppress(ConnectionClosed):
                    client.recv(timeout=30)

    assert heard == ["response.cancel", *([] if code else [kind])]
    assert code is None or (client.close_code, client.close_reason) == (1008, code)


def test_a_response_that_the_upstream_refuses_holds_nothing_and_costs_nothing(proxy, token_for):
    leaves = threading.Event()

    def talk(peer):
        peer.recv()
        peer.send('{"type":"error","error":{"code":"invalid_value","type":"invalid_request_error"}}')
        leaves.wait(WAIT_S)

    with WebSocketUpstream(talk) as upstream:
        token = token_for(upstream.url)
        meter = add_meter(proxy, token)
        with opened(proxy, token, "/v1/responses") as client:
            client.send('{"type":"response.create","model":"gpt-4o-mini","input":"x"}')
            client.recv(timeout=WAIT_S)
            assert settled(proxy, meter).spent == 0
            leaves.set()

    record = proxy.wait_for_records(2, token)[0]
    assert (record["part"], record["cost_source"], record["failed_inside"]) == (1, "none", True)


def test_no_header_chooses_the_model_of_a_session(proxy, token, heard):
    headers = dict([token.bearer, ("x-litellm-tags", "dear")])
    url = proxy.url.replace("http", "ws") + "/v1/realtime?model=gpt-realtime"
    with pytest.raises(InvalidStatus) as caught:
        connect(url, additional_headers=headers, proxy=None)

    assert caught.value.response.status_code == 403 and heard.handshakes == []
    assert b"Leave out the header `x-litellm-tags`" in caught.value.response.body


@pytest.mark.parametrize("path", ["/v1/models", "/v1/files", "/v1/live/sessions?model=gpt-realtime"])
def test_no_other_path_opens_a_websocket_for_a_token_with_rules(proxy, token, heard, path):
    with pytest.raises(InvalidStatus) as caught:
        opened(proxy, token, path)

    assert caught.value.response.status_code == 403 and heard.handshakes == []
