"""Rules of tokens, through the running proxy: what a token may ask for, and sixty ways to ask for something else."""

import gzip
import http.client
import json
import subprocess
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import orjson
import pytest

from tests.http_by_hand import HandClient, call
from tests.meters import UsingUpstream, asking
from tests.nginx import Nginx, needs_nginx
from tests.ports import free_port
from tests.servers import DEPLOYED, Server, wait_for
from tests.transparency.page import routes

ALLOWED, OTHER = "gpt-4o-mini", "gpt-4o"
CHAT, AUDIO = "/v1/chat/completions", "/v1/audio/transcriptions"
JSON = ("Content-Type", "application/json")
FORM = ("Content-Type", "multipart/form-data; boundary=b")
MINI = b'"model":"gpt-4o-mini"'
BIG = b'"model":"gpt-4o"'
LONG = b'"messages":[{"role":"user","content":"' + b"x" * 300_000 + b'"}]'
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Way(NamedTuple):
    """A request that names another model than it may, and the code it is refused with."""

    code: str
    body: bytes | None
    path: str = CHAT
    headers: tuple[tuple[str, str], ...] = (JSON,)
    method: str = "POST"
    is_chunked: bool = False


def field(value: bytes, disposition: bytes = b'form-data; name="model"', more: bytes = b"") -> bytes:
    """One part of a form, as it follows a boundary."""
    return b"\r\nContent-Disposition: " + disposition + b"\r\n" + more + b"\r\n" + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    """A whole form."""
    return b"".join(b"--b" + part for part in parts) + b"--b--\r\n"


def encoded(name: str, body: bytes) -> Way:
    """A compressed body."""
    return Way("encoded_body", body, headers=(JSON, ("Content-Encoding", name)))


def naming(model: str) -> Way:
    """A plain request for a model."""
    return Way("model_not_allowed", json.dumps({"model": model}).encode())


FILE = field(b"\0" * 20_000_000, b'form-data; name="file"; filename="a.mp3"')
SHORT_FILE = field(b"\0" * 100, b'form-data; name="file"; filename="a.mp3"')
SESSION_FIELD = b'form-data; name="session"'
ALLOWED_FIELD, OTHER_FIELD = field(b"gpt-4o-mini"), field(b"gpt-4o")

WAYS = {
    "plainly": naming(OTHER),
    "as text": Way("model_not_allowed", b"{" + BIG + b"}", headers=(("Content-Type", "text/plain"),)),
    "a second member behind": Way("ambiguous_body", b"{" + MINI + b"," + BIG + b"}"),
    "a second member before": Way("ambiguous_body", b"{" + BIG + b"," + MINI + b"}"),
    "with an escape": Way("model_not_allowed", b'{"\\u006dodel":"gpt-4o"}'),
    "with an escape behind": Way("ambiguous_body", b"{" + MINI + b',"\\u006dodel":"gpt-4o"}'),
    "with an escape before": Way("ambiguous_body", b'{"mode\\u006C":"gpt-4o",' + MINI + b"}"),
    "in another case": Way("ambiguous_body", b"{" + MINI + b',"Model":"gpt-4o"}'),
    "in another case alone": Way("ambiguous_body", b'{"MODEL":"gpt-4o"}'),
    "with a space": Way("ambiguous_body", b"{" + MINI + b',"model ":"gpt-4o"}'),
    "with a NUL in the name": Way("ambiguous_body", b"{" + MINI + b',"model\\u0000":"gpt-4o"}'),
    "in the query": Way("model_not_allowed", b"{" + MINI + b"}", CHAT + "?model=gpt-4o"),
    "in the query, escaped": Way("model_not_allowed", b"{" + MINI + b"}", CHAT + "?mod%65l=gpt%2D4o"),
    "in the query, in another case": Way("ambiguous_body", b"{" + MINI + b"}", CHAT + "?Model=gpt-4o"),
    "in the query twice": Way("ambiguous_body", b"{}", CHAT + "?model=gpt-4o-mini&model=gpt-4o"),
    "in the query behind a semicolon": Way("ambiguous_body", b"{" + MINI + b"}", CHAT + "?a=b;model=gpt-4o"),
    "in the query with a NUL": Way("ambiguous_body", b"{" + MINI + b"}", CHAT + "?model%00=gpt-4o"),
    "in the query as a list": Way("ambiguous_body", b"{" + MINI + b"}", CHAT + "?model[]=gpt-4o"),
    "in a tool": Way("model_not_allowed", b"{" + MINI + b',"tools":[{"type":"x",' + BIG + b"}]}"),
    "in a session": Way("model_not_allowed", b"{" + MINI + b',"session":{' + BIG + b"}}"),
    "in a transcription": Way(
        "model_not_allowed", b"{" + MINI + b',"session":{"audio":{"input":{"transcription":{' + BIG + b"}}}}}"
    ),
    "in a moderation": Way("model_not_allowed", b"{" + MINI + b',"moderation":{' + BIG + b"}}"),
    "in a tool that an item brings": Way(
        "model_not_allowed",
        b"{" + MINI + b',"input":[{"type":"additional_tools","tools":[{"type":"image_generation",' + BIG + b"}]}]}",
        "/v1/responses",
    ),
    "in a grader that is named as a free place": Way(
        "model_not_allowed", b"{" + MINI + b',"grader":{"graders":{"metadata":{' + BIG + b"}}}}"
    ),
    "in a place that nobody knows": Way("model_not_allowed", b"{" + MINI + b',"x":[[[{"y":{' + BIG + b"}}]]]}"),
    "in a list to fall back to": Way("model_not_allowed", b"{" + MINI + b',"models":["gpt-4o-mini","gpt-4o"]}'),
    "in a list to fall back to, twice": Way(
        "ambiguous_body", b"{" + MINI + b',"models":"gpt-4o","models":"gpt-4o-mini"}'
    ),
    "in a list in another case": Way("model_not_allowed", b"{" + MINI + b',"Models":["gpt-4o"]}'),
    "as a fallback": Way("model_not_allowed", b"{" + MINI + b',"fallbacks":["gpt-4o"]}'),
    "as a fallback with messages": Way(
        "model_not_allowed", b"{" + MINI + b',"fallbacks":[{"messages":[],' + BIG + b"}]}"
    ),
    "as a fallback of another": Way("model_not_allowed", b"{" + MINI + b',"fallbacks":[{"gpt-4o-mini":["gpt-4o"]}]}'),
    "as a fallback for long contexts": Way(
        "model_not_allowed", b"{" + MINI + b',"context_window_fallback_dict":{"gpt-4o-mini":"gpt-4o"}}'
    ),
    "in a router's plugin": Way(
        "model_not_allowed", b"{" + MINI + b',"plugins":[{"id":"auto-router","allowed_models":["gpt-4o"]}]}'
    ),
    "in a router's own tool": Way(
        "model_undetermined",
        b"{" + MINI + b',"tools":[{"type":"openrouter:subagent","parameters":{' + BIG + b"}}]}",
    ),
    "by a router's choice": Way("model_undetermined", b"{" + MINI + b',"route":"fallback"}'),
    "by a router's preset": Way("model_undetermined", b"{" + MINI + b',"preset":"dear"}'),
    "left out for a tool that paints": Way(
        "model_undetermined", b"{" + MINI + b',"tools":[{"type":"image_generation"}]}', "/v1/responses"
    ),
    "left out for a tool that an item brings": Way(
        "model_undetermined",
        b"{" + MINI + b',"input":[{"type":"additional_tools","tools":[{"type":"image_generation","model":null}]}]}',
        "/v1/responses",
    ),
    "left out for the drawing of an SVG": Way(
        "model_undetermined", b"{" + MINI + b',"output_format":"svg"}', "/v1/images/generations"
    ),
    "left out for moderation": Way("model_undetermined", b"{" + MINI + b',"moderation":{}}', "/v1/responses"),
    "in a form for the drawing of an SVG": Way(
        "model_not_allowed",
        form(ALLOWED_FIELD, field(b"gpt-4o", b'form-data; name="svg[model]"')),
        "/v1/images/edits",
        (FORM,),
    ),
    "in JSON in a form": Way(
        "model_not_allowed",
        form(ALLOWED_FIELD, field(b"{" + BIG + b"}", b'form-data; name="svg"')),
        "/v1/images/edits",
        (FORM,),
    ),
    "left out in a form for the drawing of an SVG": Way(
        "model_undetermined",
        form(ALLOWED_FIELD, field(b"svg", b'form-data; name="output_format"')),
        "/v1/images/edits",
        (FORM,),
    ),
    "in an array": Way("ambiguous_body", b"[{" + BIG + b"}]"),
    "in a nested array": Way("ambiguous_body", b"[[{" + MINI + b"},{" + BIG + b"}]]"),
    "as an array": Way("ambiguous_body", b'{"model":["gpt-4o"]}'),
    "as an object": Way("ambiguous_body", b'{"model":{"id":"gpt-4o"}}'),
    "as nothing": Way("ambiguous_body", b'{"model":null}'),
    "as a text in a text": Way("ambiguous_body", b'"{\\"model\\":\\"gpt-4o\\"}"'),
    "by gzip": encoded("gzip", gzip.compress(b"{" + BIG + b"}")),
    "by deflate": encoded("deflate", zlib.compress(b"{" + BIG + b"}")),
    "by two encodings": encoded("identity, gzip", gzip.compress(b"{" + BIG + b"}")),
    "behind a BOM": Way("ambiguous_body", b"\xef\xbb\xbf{" + BIG + b"}"),
    "in UTF-16": Way("ambiguous_body", ("{" + BIG.decode() + "}").encode("utf-16")),
    "in UTF-16 without a BOM": Way("ambiguous_body", ("{" + BIG.decode() + "}").encode("utf-16-le")),
    "in UTF-32": Way("ambiguous_body", ("{" + BIG.decode() + "}").encode("utf-32")),
    "beside what is not UTF-8": Way("ambiguous_body", b"{" + MINI + b',"x":"\xff",' + BIG + b"}"),
    "behind the end": Way("ambiguous_body", b"{" + MINI + b"}{" + BIG + b"}"),
    "behind a line": Way("ambiguous_body", b"{" + MINI + b"}\n{" + BIG + b"}"),
    "behind a NUL": Way("ambiguous_body", b"{" + MINI + b"}\0{" + BIG + b"}"),
    "behind NaN": Way("ambiguous_body", b"{" + MINI + b',"n":NaN,' + BIG + b"}"),
    "in a comment": Way("ambiguous_body", b"{" + MINI + b"/*,*/," + BIG + b"}"),
    "in single quotes": Way("ambiguous_body", b"{" + MINI + b",'model':'gpt-4o'}"),
    "without quotes": Way("ambiguous_body", b"{" + MINI + b',model:"gpt-4o"}'),
    "a fine-tuned one": naming("ft:gpt-4o-mini:acme::1"),
    "an alias": naming("chatgpt-4o-latest"),
    "a snapshot": naming("gpt-4o-2024-08-06"),
    "something like a snapshot": naming("gpt-4o-mini-2024-07-18x"),
    "a longer name": naming("gpt-4o-mini-audio-preview"),
    "a name with a NUL": naming("gpt-4o-mini\0"),
    "a name with a line's end": naming("gpt-4o-mini\n"),
    "a name in another case": naming("GPT-4o-mini"),
    "a name of look-alikes": naming("gpt\u20104o-mini"),
    "left out": Way("model_undetermined", b"{}"),
    "left out where there is a default": Way("model_not_allowed", b'{"input":"x"}', "/v1/moderations"),
    "left out for images": Way("model_undetermined", b'{"prompt":"x"}', "/v1/images/generations"),
    "in a stored prompt": Way("model_undetermined", b'{"prompt":{"id":"pmpt_1"}}', "/v1/responses"),
    "no body": Way("model_undetermined", None),
    "left out, with an allowed one in the query": Way("model_undetermined", b"{}", CHAT + "?model=gpt-4o-mini"),
    "a default, with an allowed one in the query": Way(
        "model_not_allowed", b'{"input":"x"}', "/v1/moderations?model=gpt-4o-mini"
    ),
    "in a stored prompt, with an allowed one in the query": Way(
        "model_undetermined", b'{"prompt":{"id":"pmpt_1"}}', "/v1/responses?model=gpt-4o-mini"
    ),
    "as a form of the web that is JSON, too": Way(
        "ambiguous_body",
        b"{" + MINI + b',"x":"&model=gpt-4o&"}',
        headers=(("Content-Type", "application/x-www-form-urlencoded"),),
    ),
    "in another charset": Way(
        "ambiguous_body",
        b"{" + MINI + b',"user":"+ACI-,+ACI-model+ACI-:+ACI-gpt-4o"}',
        headers=(("Content-Type", "application/json; charset=utf-7"),),
    ),
    "in a form of another charset": Way(
        "ambiguous_body",
        form(ALLOWED_FIELD, field(b"gpt-4o", b'form-data; name="+AG0-odel"'), SHORT_FILE),
        AUDIO,
        (("Content-Type", "multipart/form-data; charset=utf-7; boundary=b"),),
    ),
    "as a form of the web": Way(
        "ambiguous_body", b"model=gpt-4o", headers=(("Content-Type", "application/x-www-form-urlencoded"),)
    ),
    **{
        f"as a form of the web, of the type {kind}": Way(
            "ambiguous_body", b"{" + MINI + b',"x":"&model=gpt-4o&"}', headers=(("Content-Type", kind),)
        )
        for kind in (
            "application/x-www-form-urlencoded, application/json", "x,Application/X-WWW-Form-urlencoded",
            '"application/x-www-form-urlencoded"', "application/json; x=application/x-www-form-urlencoded",
        )
    },
    "in chunks": Way("model_not_allowed", b'{"messages":[],"model":"gpt-4o"}', is_chunked=True),
    "in chunks, twice": Way("ambiguous_body", b"{" + MINI + b"," + BIG + b"}", is_chunked=True),
    "far behind": Way("model_not_allowed", b"{" + LONG + b"," + BIG + b"}"),
    "far behind, twice": Way("ambiguous_body", b"{" + MINI + b"," + LONG + b"," + BIG + b"}"),
    "far behind, in chunks": Way("ambiguous_body", b"{" + MINI + b"," + LONG + b"," + BIG + b"}", is_chunked=True),
    "in a form before a file": Way("model_not_allowed", form(OTHER_FIELD, FILE), AUDIO, (FORM,)),
    "in a form behind a file": Way("model_not_allowed", form(FILE, OTHER_FIELD), AUDIO, (FORM,)),
    "in a form around a file": Way("ambiguous_body", form(ALLOWED_FIELD, FILE, OTHER_FIELD), AUDIO, (FORM,)),
    "in a form twice": Way("ambiguous_body", form(ALLOWED_FIELD, OTHER_FIELD), AUDIO, (FORM,)),
    "in a form in chunks": Way("model_not_allowed", form(SHORT_FILE, OTHER_FIELD), AUDIO, (FORM,), is_chunked=True),
    "in a form in another case": Way(
        "ambiguous_body", form(ALLOWED_FIELD, field(b"gpt-4o", b'form-data; name="Model"')), AUDIO, (FORM,)
    ),
    "in a form as a list": Way(
        "ambiguous_body", form(ALLOWED_FIELD, field(b"gpt-4o", b'form-data; name="model[]"')), AUDIO, (FORM,)
    ),
    "in a form as a file": Way(
        "ambiguous_body", form(field(b"gpt-4o", b'form-data; name="model"; filename="a"')), AUDIO, (FORM,)
    ),
    "in a form without quotes": Way(
        "ambiguous_body", form(ALLOWED_FIELD, field(b"gpt-4o", b"form-data; name=model")), AUDIO, (FORM,)
    ),
    "in a form by another name of the name": Way(
        "ambiguous_body", form(ALLOWED_FIELD, field(b"gpt-4o", b"form-data; name*=utf-8''model")), AUDIO, (FORM,)
    ),
    "in a form in base64": Way(
        "ambiguous_body",
        form(ALLOWED_FIELD, field(b"Z3B0LTRv", more=b"Content-Transfer-Encoding: base64\r\n")),
        AUDIO,
        (FORM,),
    ),
    "in a form with bare line ends": Way(
        "ambiguous_body", form(ALLOWED_FIELD, OTHER_FIELD).replace(b"\r\n", b"\n"), AUDIO, (FORM,)
    ),
    "in a form before its first boundary": Way(
        "ambiguous_body", b"model=gpt-4o\r\n" + form(ALLOWED_FIELD), AUDIO, (FORM,)
    ),
    "in a form of two boundaries": Way(
        "ambiguous_body", form(ALLOWED_FIELD), AUDIO, ((FORM[0], FORM[1] + "; boundary=c"),)
    ),
    "as JSON in a form": Way(
        "ambiguous_body", b"{" + BIG + b"}", CHAT, (FORM,)
    ),
    "in the path": Way("model_not_allowed", None, "/v1/models/gpt-4o", method="GET"),
    "in the path, escaped": Way("model_not_allowed", None, "/v1/models/gpt%2D4o", method="GET"),
    "in the body of a GET": Way("model_not_allowed", b"{" + BIG + b"}", method="GET"),
    "in an older path": Way("endpoint_not_allowed", b"{}", "/v1/engines/gpt-4o/completions"),
    "in a path with two slashes": Way("endpoint_not_allowed", b"{" + BIG + b"}", "/v1//chat/completions"),
    "in a path with a slash behind": Way("endpoint_not_allowed", b"{" + BIG + b"}", CHAT + "/"),
    "in a path in another case": Way("endpoint_not_allowed", b"{" + BIG + b"}", "/v1/Chat/completions"),
    "by a WebSocket": Way("endpoint_not_allowed", None, "/v1/realtime?model=gpt-4o", method="GET"),
    **{
        f"by the header {name}": Way("model_undetermined", b"{" + MINI + b"}", headers=(JSON, (name, "gpt-4o-mini")))
        for name in (
            "X-Litellm-Model", "x-litellm-tags", "X_PORTKEY_CONFIG", "x-portkey-virtual-key", "Helicone-Target-URL",
            "Helicone-Fallbacks", "x-ms-oai-image-generation-deployment", "azureml-model-deployment", "x-bf-vk",
            "X-Provider", "x-selected-model", "x-tfy-routing-config", "x-model" + "-x" * 40,
        )
    },
    "in the query as a deployment": Way("model_not_allowed", b"{" + MINI + b"}", CHAT + "?deployment=gpt-4o"),
    "in the query as a fallback": Way("model_not_allowed", b"{" + MINI + b"}", CHAT + "?a=b;Fall%62acks=gpt-4o"),
    "in the query in a list": Way("model_not_allowed", b"{" + MINI + b"}", CHAT + "?models[]=gpt-4o"),
    "by a batch": Way("endpoint_not_allowed", b'{"input_file_id":"file-1"}', "/v1/batches"),
}  # fmt: skip

ALLOWED_WAYS = {
    "plainly": b"{" + MINI + b"}",
    "a snapshot": b'{"model":"gpt-4o-mini-2024-07-18"}',
    "with an escape": b'{"\\u006dodel":"gpt-4o\\u002dmini"}',
    "with another in what is said": b"{" + MINI + b',"messages":[{"content":"x","model":"gpt-4o"}]}',
    "in a text": b"{" + MINI + b',"user":"\\"model\\":\\"gpt-4o\\""}',
    "in a schema": b"{" + MINI + b',"tools":[{"function":{"parameters":{"properties":{' + BIG + b"}}}}]}",
    "in metadata inside, and headers of a server": b"{"
    + MINI
    + b',"tools":[{"type":"mcp","headers":{"model":"gpt-4o"}}],"x":{"metadata":{"model":"gpt-4o","Model":1}}}',
    "with others that are allowed": b"{" + MINI + b',"models":["gpt-4o-mini-2024-07-18"],"route":"fallback"}',
    "with a tool that paints": b"{" + MINI + b',"tools":[{"type":"image_generation",' + MINI + b"}],"
    b'"tool_choice":{"type":"image_generation"}}',
    "with a tool to choose from": b"{" + MINI + b',"tool_choice":{"type":"allowed_tools","mode":"auto",'
    b'"tools":[{"type":"image_generation"}]}}',
    "far behind": b"{" + LONG + b"," + MINI + b"}",
    "beside half an emoji": b"{" + MINI + b',"messages":[{"content":"\\ud83d"}]}',
}


@pytest.fixture
def token(token_for, recorder):
    """A token in front of an upstream that keeps what comes."""
    recorder.answers(OK)
    return token_for(recorder.url)


@pytest.fixture
def using():
    """An upstream that answers chats."""
    with UsingUpstream() as upstream:
        yield upstream


def ask_by(url, token, way):
    """One request of this token's; what comes back."""
    headers = (token.bearer, *way.headers)
    if not way.is_chunked:
        return call(url, way.method, way.path, *headers, body=way.body)
    size = 7 if len(way.body) < 1000 else 50_000
    with HandClient(url) as client:
        client.send_request(way.method, way.path, *headers, ("Transfer-Encoding", "chunked"))
        for at in range(0, len(way.body), size):
            piece = way.body[at : at + size]
            client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        client.send(b"0\r\n\r\n")
        return client.read_answer()


@pytest.fixture
def ask(proxy, token):
    """Makes a request of this token's; what comes back."""
    return partial(ask_by, proxy.url, token)


def set_rules(server, token, rules):
    """As an operator does."""
    status, answer = server.manage("PATCH", f"/tokens/{token.id}", {"rules": rules})
    assert status == 200, answer


def test_the_record_of_a_refused_call_names_the_model_that_was_asked_for(proxy, token, ask):
    set_rules(proxy, token, {"models": [ALLOWED]})

    answer = ask(naming(OTHER))

    assert answer.status == 403
    assert proxy.record_of(answer["x-proxy-request-id"])["requested_model"] == OTHER


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_no_other_model_can_be_named(proxy, ask, token, recorder, way):
    set_rules(proxy, token, {"models": [ALLOWED]})

    refused = ask(way)

    error = refused.json["error"]
    assert (error["code"], sorted(error)) == (way.code, ["code", "message", "param", "type"])
    assert refused.status == {"encoded_body": 415, "ambiguous_body": 400}.get(way.code, 403)
    assert refused["x-should-retry"] == "false"
    assert not recorder.has_received()


def test_what_goes_up_five_parsers_read_as_an_allowed_model(proxy, ask, token, recorder):
    set_rules(proxy, token, {"models": [ALLOWED]})
    for body in ALLOWED_WAYS.values():
        assert ask(Way("", body)).status == 200, body

    went_up = [recorder.received().body for _ in ALLOWED_WAYS]

    assert went_up == list(ALLOWED_WAYS.values())
    assert {model for body in went_up for model in models_by_five_parsers(body)} == {
        ALLOWED,
        "gpt-4o-mini-2024-07-18",
    }


def models_by_five_parsers(body: bytes) -> list[str]:
    """Whom a request names, by each of five parsers that reads it. Half an emoji is too little for some."""
    node = "let s='';process.stdin.on('data',d=>s+=d).on('end',()=>console.log(JSON.parse(s).model))"
    perl = "local $/; print JSON::PP->new->utf8->decode(<STDIN>)->{model}"
    models = [json.loads(body)["model"]]
    with suppress(orjson.JSONDecodeError):
        models.append(orjson.loads(body)["model"])
    for command in (["jq", "-r", ".model"], ["node", "-e", node], ["perl", "-MJSON::PP", "-e", perl]):
        done = subprocess.run(command, input=body, capture_output=True, check=False)
        models += [done.stdout.decode().strip()] if done.returncode == 0 else []
    assert len(models) == 5 or b"\\ud83d" in body
    return models


# Endpoints.


@pytest.mark.parametrize(
    "route", sorted({(route.method, route.path, route.body) for route in routes()}), ids=" ".join
)
def test_a_model_rule_alone_opens_exactly_the_usual_endpoints(proxy, ask, token, route):
    method, path, kind = route
    set_rules(proxy, token, {"models": [ALLOWED]})
    usual = {"chat", "completions", "responses", "embeddings", "moderations", "images", "audio", "models"}
    is_other = path.startswith("/v1/audio/voice") or (method, path) == ("DELETE", "/v1/models/{model}")
    passes = path.split("/")[2] in usual and not is_other
    body = {"JSON": b"{" + MINI + b"}", "form": form(ALLOWED_FIELD), "none": b"" if method == "POST" else None}[kind]

    answer = ask(Way("", body, path.replace("{model}", ALLOWED), (FORM if kind == "form" else JSON,), method))

    assert (answer.status == 200) == passes
    assert passes or answer.json["error"]["code"] == "endpoint_not_allowed"


def test_named_endpoints_are_open_and_the_others_shut(proxy, ask, token):
    set_rules(proxy, token, {"endpoints": ["files", "POST realtime/client_secrets"]})

    answers = [ask(Way("", b"{}", path)) for path in ("/v1/files", "/v1/realtime/client_secrets", CHAT)]

    assert [answer.status for answer in answers] == [200, 200, 403]
    assert "It may use POST realtime/client_secrets, files." in answers[2].json["error"]["message"]


def test_with_the_preset_for_inference_nothing_stored_is_reached(proxy, ask, token):
    set_rules(proxy, token, {"preset": "inference"})
    one_chat, one_response = CHAT + "/chatcmpl-1", "/v1/responses/resp_1"
    stored = [("GET", CHAT), ("GET", one_chat), ("DELETE", one_chat), ("GET", one_response), ("DELETE", one_response)]
    stored += [("GET", "/v1/files"), ("POST", "/v1/conversations"), ("DELETE", "/v1/models/ft:x")]
    made = [("POST", CHAT), ("POST", "/v1/responses"), ("POST", "/v1/embeddings"), ("GET", "/v1/models")]

    statuses = [ask(Way("", b"{}", path, method=method)).status for method, path in [*stored, *made]]

    assert statuses == [403] * len(stored) + [200] * len(made)


def test_a_projects_endpoints_may_be_named_otherwise_than_its_tokens(proxy, ask, token):
    set_rules(proxy, token, {"preset": "inference"})
    status, _ = proxy.manage("PATCH", f"/projects/{token.project_id}", {"rules": {"endpoints": ["chat", "files"]}})
    assert status == 200

    answers = [ask(Way("", b"{}", path, method=method)) for method, path in (("POST", CHAT), ("GET", CHAT))]

    assert [answer.status for answer in answers] == [200, 403]
    assert "It may use POST chat/completions." in answers[1].json["error"]["message"]


def test_a_projects_rules_hold_beside_its_tokens(proxy, ask, token):
    set_rules(proxy, token, {"models": ["gpt-4o*"]})
    status, _ = proxy.manage("PATCH", f"/projects/{token.project_id}", {"rules": {"models": ["*-mini"]}})
    assert status == 200

    statuses = [ask(naming(model)).status for model in ("gpt-4o-mini", "gpt-4o", "o4-mini")]

    assert statuses == [200, 403, 403]


def test_a_call_for_no_tier_passes_two_rules_that_share_no_name_and_allow_it(proxy, ask, token):
    set_rules(proxy, token, {"limits": {"service_tier": ["auto", "flex"]}})
    rules = {"limits": {"service_tier": ["default"]}}
    status, _ = proxy.manage("PATCH", f"/projects/{token.project_id}", {"rules": rules})
    assert status == 200

    statuses = [ask(Way("", body)).status for body in (b'{"model":"x"}', b'{"model":"x","service_tier":"flex"}')]

    assert statuses == [200, 400]


# Parameters and tools.

PARAMETERS = {
    "max_output_tokens": ({"max_output_tokens": 100}, {"max_tokens": 100}, {"max_tokens": 101}, "max_tokens"),
    "the newer name": ({"max_output_tokens": 100}, {"max_completion_tokens": 9}, {"max_completion_tokens": 1e9},
                       "max_completion_tokens"),
    "a negative number": ({"max_output_tokens": 100}, {"max_tokens": 0}, {"max_tokens": -1}, "max_tokens"),
    "require_max_output": ({"require_max_output": True}, {"max_tokens": 5}, {}, "max_completion_tokens"),
    "n": ({"n": 1}, {"n": 1}, {"n": 2}, "n"),
    "what is laid over a request": ({"n": 1}, {"extra_body": None}, {"extra_body": {"n": 2}}, "extra_body"),
    "a router's plugins": ({"tools": ["web"]}, {"plugins": [{"id": "web"}]}, {"plugins": [{"id": "x"}]}, "tools"),
    "service_tier": ({"service_tier": ["default", "flex"]}, {"service_tier": "flex"}, {"service_tier": "priority"},
                     "service_tier"),
    "tools": ({"tools": ["function"]}, {"tools": [{"type": "function"}]}, {"tools": [{"type": "web_search"}]},
              "tools"),
    "agents": ({"tools": ["function"]}, {"multi_agent": {"enabled": False}}, {"multi_agent": {"enabled": True}},
               "tools"),
    "no tools": ({"tools": []}, {"tools": []}, {"functions": [{"name": "f"}]}, "tools"),
    "background": ({"background": False}, {"background": False}, {"background": True}, "background"),
    "store": ({"store": False}, {}, {"store": True}, "store"),
    "reasoning_effort": ({"reasoning_effort": ["low"]}, {"reasoning_effort": "low"}, {"reasoning_effort": "high"},
                         "reasoning_effort"),
    "an effort that an item changes": (
        {"reasoning_effort": ["low"]}, {"input": [{"type": "configuration_update", "reasoning": {"effort": "low"}}]},
        {"input": [{"type": "configuration_update", "reasoning": {"effort": "high"}}]}, "reasoning.effort",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("limits", "good", "bad", "param"), PARAMETERS.values(), ids=PARAMETERS)
def test_parameters_are_held_to_the_rules(proxy, ask, token, limits, good, bad, param):
    set_rules(proxy, token, {"limits": limits})

    passed, refused = (ask(Way("", json.dumps({"model": "x"} | members).encode())) for members in (good, bad))

    error = refused.json["error"]
    assert (passed.status, refused.status, error["code"], error["param"]) == (
        200,
        400,
        "parameter_not_allowed",
        param,
    )


def test_an_effort_is_held_to_the_rules_in_a_form(proxy, ask, token, recorder):
    set_rules(proxy, token, {"limits": {"reasoning_effort": ["low"]}})

    def edit(effort):  # as OpenAI's SDK sends it
        named = field(effort, b'form-data; name="svg[reasoning][effort]"')
        return Way("", form(ALLOWED_FIELD, SHORT_FILE, named), "/v1/images/edits", (FORM,))

    passed, refused = ask(edit(b"low")), ask(edit(b"high"))

    assert (passed.status, refused.status, refused.json["error"]["param"]) == (200, 400, "reasoning.effort")
    assert recorder.received().body == edit(b"low").body and not recorder.has_received()


def test_output_is_held_to_the_rules_where_a_session_has_it(proxy, ask, token, recorder):
    secrets, limited = "/v1/realtime/client_secrets", {"max_output_tokens": 100, "require_max_output": True}
    opened = ["POST realtime/client_secrets", "POST realtime/calls", "POST responses/compact", "assistants"]
    set_rules(proxy, token, {"endpoints": opened, "limits": limited})
    form_of = {limit: form(field(b'{"max_output_tokens":%d}' % limit, SESSION_FIELD)) for limit in (100, 101)}

    passed = [
        Way("", b'{"session":{"max_output_tokens":100}}', secrets),
        Way("", b'{"session":{"type":"transcription"}}', secrets),
        Way("", form_of[100], "/v1/realtime/calls", (FORM,)),
        Way("", b'{"model":"x"}', "/v1/responses/compact"),
        Way("", b'{"tool_outputs":[]}', "/v1/threads/t/runs/r/submit_tool_outputs"),
    ]
    refused = [
        Way("", b'{"session":{"max_output_tokens":101}}', secrets),
        Way("", b'{"max_output_tokens":100,"session":{}}', secrets),
        Way("", form_of[101], "/v1/realtime/calls", (FORM,)),
        Way("", b'{"assistant_id":"a"}', "/v1/threads/t/runs"),
    ]

    assert [ask(way).status for way in passed] == [200] * len(passed)
    assert {ask(way).json["error"]["code"] for way in refused} == {"parameter_not_allowed"}
    assert [recorder.received().body for _ in passed] == [way.body for way in passed]
    assert not recorder.has_received()


@pytest.mark.parametrize(
    "path", ["/v1/batches", "/v1/evals/e/runs", "/v1/chatkit/sessions", "/v1/fine_tuning/jobs/j/resume"]
)
def test_what_hides_its_parameters_is_refused_where_rules_ask_for_them(proxy, ask, token, recorder, path):
    open_alone = {"endpoints": ["batches", "evals", "fine_tuning", "POST chatkit/sessions"]}
    set_rules(proxy, token, open_alone)
    passed = ask(Way("", b"{}", path))
    recorder.received()
    set_rules(proxy, token, open_alone | {"limits": {"tools": ["function"]}})

    refused = ask(Way("", b"{}", path))

    assert (passed.status, refused.status, refused.json["error"]["code"]) == (200, 403, "model_undetermined")
    assert not recorder.has_received()


@pytest.mark.parametrize(
    ("session", "code"),
    [
        (b'{"type":"realtime","model":"gpt-realtime","tools":[{"type":"function"}]}', None),
        (b'{"type":"realtime","model":"gpt-realtime","tools":[{"type":"mcp"}]}', "parameter_not_allowed"),
        (b'{"type":"realtime","model":"gpt-realtime","prompt":{"id":"p"}}', "parameter_not_allowed"),
        (b'{"type":"realtime","model":"gpt-4o"}', "model_not_allowed"),
        (b'{"type":"realtime"}', "model_undetermined"),
    ],
)
def test_the_session_in_the_form_of_a_call_is_held_to_the_rules(proxy, ask, token, session, code):
    limits = {"tools": ["function"]}
    set_rules(proxy, token, {"endpoints": ["POST realtime/calls"], "models": ["gpt-realtime"], "limits": limits})
    part = field(session, b'form-data; name="session"', b"Content-Type: application/json\r\n")

    answer = ask(Way("", form(field(b"v=0", b'form-data; name="sdp"'), part), "/v1/realtime/calls", (FORM,)))

    assert (answer.json.get("error") or {"code": None})["code"] == code


def test_a_body_that_is_longer_than_the_rules_have_it_is_refused(proxy, ask, token, recorder):
    set_rules(proxy, token, {"limits": {"max_body_bytes": 100}})
    body = b"{" + MINI + b',"x":"' + b"x" * 100 + b'"}'

    answers = [ask(Way("", body)), ask(Way("", body, is_chunked=True)), ask(naming(ALLOWED))]

    assert [answer.status for answer in answers] == [413, 413, 200]


def test_a_file_that_is_longer_than_the_rules_have_it_is_refused_in_chunks_too(proxy, ask, token, recorder):
    set_rules(proxy, token, {"endpoints": ["files"], "limits": {"max_body_bytes": 500}})
    files = [form(SHORT_FILE), form(field(b"\0" * 1000, b'form-data; name="file"; filename="a.mp3"'))]

    answers = [ask(Way("", file, "/v1/files", (FORM,), is_chunked=True)) for file in files]

    assert [answer.status for answer in answers] == [200, 413]
    assert recorder.received().body == files[0] and not recorder.has_received()


# Addresses.


def test_a_token_may_be_used_from_its_addresses_alone(proxy, token):
    set_rules(proxy, token, {"addresses": ["127.0.0.2"]})
    forged = ("X-Forwarded-For", "127.0.0.2")

    def code_from(source):
        answer = call(proxy.url, "GET", "/v1/models", token.bearer, forged, source=source)
        return None if answer.status == 200 else answer.json["error"]["code"]

    assert [code_from("127.0.0.2"), code_from("127.0.0.3")] == [None, "address_not_allowed"]


def test_behind_trusted_proxies_only_what_they_say_counts(recorder, tmp_path):
    recorder.answers(OK)
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=recorder.url, TRUSTED_PROXIES="127.0.0.1,::1") as proxy:
        token = proxy.issue_token()
        set_rules(proxy, token, {"addresses": ["203.0.113.0/24", "2001:db8::/32"]})

        def passes(forwarded):
            headers = [("X-Forwarded-For", forwarded)] if forwarded else []
            return call(proxy.url, "GET", "/v1/models", token.bearer, *headers).status == 200

        good = ["203.0.113.7", "198.51.100.1, 203.0.113.7", "2001:db8::7", "::ffff:203.0.113.7", "203.0.113.7:1234"]
        bad = ["203.0.113.7, 198.51.100.1", "198.51.100.1", "203.0.113.7, x", "::ffff:198.51.100.1", ""]
        assert (list(map(passes, good)), list(map(passes, bad))) == ([True] * 5, [False] * 5)


@needs_nginx
@pytest.mark.parametrize("trusted", ["127.0.0.1", None])
def test_behind_nginx_only_what_it_says_counts(recorder, tmp_path, trusted):
    recorder.answers(OK)
    four, six = free_port(), free_port()
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=recorder.url, TRUSTED_PROXIES=trusted) as proxy:
        token = proxy.issue_token()
        set_rules(proxy, token, {"addresses": ["127.0.0.2", "127.0.0.9", "::1"]})
        place = (
            f"location / {{ proxy_pass {proxy.url}; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }}"
        )
        # A socket for both kinds has addresses of IPv4 written as IPv6.
        servers = f"server {{ listen 127.0.0.1:{four}; listen [::]:{six} ipv6only=off; {place} }}"

        def passes(host, source=None, forged=None):
            headers = [("X-Forwarded-For", forged)] if forged else []
            answer = call(f"http://{host}", "GET", "/v1/models", token.bearer, *headers, source=source)
            assert answer.status in (200, 403), answer.body
            return answer.status == 200

        def passes_by_six(forged):
            client = http.client.HTTPConnection("::1", six, timeout=20)
            client.request("GET", "/v1/models", headers=dict([token.bearer, ("X-Forwarded-For", forged)]))
            status = client.getresponse().status
            client.close()
            return status == 200

        with Nginx(tmp_path, four, servers):
            mapped = f"127.0.0.1:{six}"
            asked = [
                passes(f"127.0.0.1:{four}", "127.0.0.2"),
                passes(mapped, "127.0.0.2"),
                passes_by_six("127.0.0.3"),
                passes(f"127.0.0.1:{four}", "127.0.0.3", "127.0.0.2"),
                passes(mapped, "127.0.0.3", "127.0.0.2, ::1"),
                passes(f"127.0.0.1:{four}", "127.0.0.3", "::1"),
                passes(f"127.0.0.1:{four}", "127.0.0.3"),
                # Past nginx nobody is trusted to say for whom they ask, wherever they come from.
                passes(proxy.url.partition("://")[2], "127.0.0.3", "127.0.0.2"),
                passes(proxy.url.partition("://")[2], "127.0.0.9", "127.0.0.3"),
            ]

        assert asked == [trusted is not None] * 3 + [False, False, False, False, False, True]


def test_a_form_as_dotnet_sends_it_passes(proxy, ask, token, recorder):
    set_rules(proxy, token, {"models": [ALLOWED]})
    recorder.answers(OK)
    file = b"form-data; name=file; filename=a.mp3; filename*=utf-8''a.mp3"
    body = form(field(b"gpt-4o-mini", b"form-data; name=model", b"Content-Type: text/plain; charset=utf-8\r\n"))
    body = body.removesuffix(b"--b--\r\n") + form(field(b"abc", file))

    assert ask(Way("", body, AUDIO, (FORM,))).status == 200
    assert ask(Way("", body.replace(b"4o-mini", b"4o"), AUDIO, (FORM,))).json["error"]["code"] == "model_not_allowed"
    assert recorder.received().body == body


# Large bodies.


def test_a_picture_is_edited_by_its_mask(proxy, ask, token, recorder):
    set_rules(proxy, token, {"models": [ALLOWED]})
    pictures = [field(b"\x89PNG", b'form-data; name="%b"; filename="a.png"' % name) for name in (b"image[]", b"mask")]
    body = form(ALLOWED_FIELD, *pictures)

    assert ask(Way("", body, "/v1/images/edits", (FORM,))).status == 200
    assert recorder.received().body == body


def test_a_spool_that_takes_nothing_is_told_and_nothing_goes_up(recorder, tmp_path):
    recorder.answers(OK)
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=recorder.url) as proxy:
        token = proxy.issue_token()
        set_rules(proxy, token, {"models": [ALLOWED]})
        (proxy.data_dir / "tmp").write_text("no directory")

        refused, passed = (
            call(proxy.url, "POST", CHAT, token.bearer, JSON, body=body)
            for body in (b"{" + MINI + b"," + LONG + b"}", b"{" + MINI + b"}")
        )

        assert (refused.status, refused.json["error"]["code"]) == (503, "spool_unavailable")
        assert passed.status == 200
        assert recorder.received().body == b"{" + MINI + b"}" and not recorder.has_received()


# What is told of calls.


@pytest.mark.parametrize("rules", [{"models": [ALLOWED]}, {"models": [ALLOWED], "mode": "report"}, None])
def test_the_list_of_models_has_those_that_are_allowed(proxy, ask, token, recorder, rules):
    set_rules(proxy, token, rules)
    told = b'{"object": "list", "data": [{"id": "gpt-4o"}, {"id": "gpt-4o-mini", "created": 1}]}'
    recorder.answers(OK.replace(b"2\r\n\r\n{}", b"%d\r\n\r\n%s" % (len(told), told)))

    answer = ask(Way("", None, "/v1/models", (("Accept-Encoding", "gzip"),), "GET"))

    if rules and "mode" not in rules:
        assert answer.json == {"object": "list", "data": [{"id": "gpt-4o-mini", "created": 1}]}
        assert recorder.received().all("accept-encoding") == ["identity"]
    else:
        assert answer.body == told
        assert recorder.received().all("accept-encoding") == ["gzip"]


def test_no_piece_of_the_list_of_models_is_asked_for_and_none_that_cannot_be_read_comes(proxy, ask, token, recorder):
    set_rules(proxy, token, {"models": [ALLOWED]})
    told = gzip.compress(b'{"object": "list", "data": [{"id": "gpt-4o"}]}')
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    )
    recorder.answers(head % len(told) + told)

    answer = ask(Way("", None, "/v1/models", (("Range", "bytes=20-"), ("If-None-Match", '"x"')), "GET"))

    assert answer.json == {"object": "list", "data": []}
    asked = recorder.received()
    assert asked.all("range") == asked.all("if-none-match") == []


def test_a_model_that_responds_uninvited_is_told_in_the_record(proxy, ask, token, recorder):
    set_rules(proxy, token, {"models": [ALLOWED]})
    before = counted(proxy)

    for model in (b"gpt-4o-mini-2024-07-18", b"gpt-4o"):
        told = b'{"object":"chat.completion","model":"%s"}' % model
        recorder.answers(OK.replace(b"2\r\n\r\n{}", b"%d\r\n\r\n%s" % (len(told), told)))
        assert ask(naming(ALLOWED)).status == 200

    records = proxy.wait_for_records(2, token)
    assert [record.get("model_mismatch") for record in records] == [None, True]
    assert counted(proxy) == before + 1


def counted(server):
    """Responses of uninvited models so far."""
    [line] = [line for line in server.metrics().splitlines() if line.startswith("llmproxy_model_mismatches_total ")]
    return float(line.split()[1])


# First report, then enforce.

TWENTY = [*list(WAYS.values())[::5], *(Way("", body) for body in ALLOWED_WAYS.values())]


def test_what_is_announced_is_what_is_refused(proxy, ask, token, recorder):
    rules = {"models": [ALLOWED], "limits": {"tools": ["function"], "max_body_bytes": 250_000}}
    set_rules(proxy, token, rules | {"mode": "report"})
    ways = [way for way in TWENTY if "realtime" not in way.path and len(way.body or b"") < 1_000_000]

    reported = [ask(way) for way in ways]
    went_up = [recorder.received().body for _ in ways]
    set_rules(proxy, token, rules | {"mode": "enforce"})
    enforced = [ask(way) for way in ways]

    # All were passed on as they came.
    assert {answer.status for answer in reported} == {200}
    assert went_up == [way.body or b"" for way in ways]
    announced = [proxy.record_of(answer["x-proxy-request-id"]).get("would_refuse") for answer in reported]
    refused = [None if answer.status == 200 else answer.json["error"]["code"] for answer in enforced]
    assert announced == refused
    assert 10 < len(announced) - announced.count(None) < len(announced)

    def summed():
        _, answer = proxy.manage("GET", f"/usage?group_by=token&project_id={token.project_id}")
        return answer["total"]["would_refuse"] == len(announced) - announced.count(None)

    wait_for(summed)


def test_report_beside_enforced_rules_only_notes_what_it_adds(proxy, ask, token):
    set_rules(proxy, token, {"models": ["gpt-4o*"]})
    status, _ = proxy.manage(
        "PATCH", f"/projects/{token.project_id}", {"rules": {"models": ["gpt-4o-mini"], "mode": "report"}}
    )
    assert status == 200

    answers = [ask(naming(model)) for model in ("o3", "gpt-4o", "gpt-4o-mini")]

    assert [answer.status for answer in answers] == [403, 200, 200]
    told = [proxy.record_of(answer["x-proxy-request-id"]).get("would_refuse") for answer in answers]
    assert told == [None, "model_not_allowed", None]


def test_report_lets_pass_what_is_too_long_to_be_read(recorder, tmp_path):
    recorder.answers(OK)
    settings = {"UPSTREAM_URL": recorder.url, "RULED_BODY_BYTES": "100000"}
    with Server(DEPLOYED, tmp_path / "data", **settings) as proxy:
        token = proxy.issue_token()
        set_rules(proxy, token, {"models": [ALLOWED], "mode": "report"})
        body = b"{" + MINI + b"," + LONG + b"}"

        for is_chunked in (False, True):
            answer = ask_by(proxy.url, token, Way("", body, is_chunked=is_chunked))

            assert (answer.status, recorder.received().body) == (200, body)
            assert proxy.record_of(answer["x-proxy-request-id"])["would_refuse"] == "request_too_large"


# Changes.


def test_a_rule_holds_from_the_answer_to_its_change_on_in_every_worker(using, tmp_path):
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=using.url, WEB_CONCURRENCY="4") as proxy:
        change_under_load(proxy, proxy.issue_token())


def change_under_load(proxy, token):
    """Forbid a model that sixteen callers ask for all the time; nobody who asks after the answer may be admitted."""
    set_rules(proxy, token, {"models": ["gpt-4o"]})
    status, _ = proxy.manage("PATCH", f"/tokens/{token.id}", {"rate_limit": 10**6})
    assert status == 200
    is_over = threading.Event()
    admitted: list[float] = []
    refused = 0

    def keep_asking(_):
        nonlocal refused
        with HandClient(proxy.url) as client:
            while not is_over.is_set():
                began = time.monotonic()
                if client.call("POST", CHAT, token.bearer, JSON, body=asking("gpt-4o")).status == 200:
                    admitted.append(began)
                else:
                    refused += 1

    with ThreadPoolExecutor(16) as pool:
        asking_all = pool.map(keep_asking, range(16))
        wait_for(lambda: len(admitted) > 100)
        set_rules(proxy, token, {"models": [ALLOWED]})
        changed_at = time.monotonic()
        had_been = len(admitted)
        wait_for(lambda: refused > 100)
        is_over.set()
        list(asking_all)

    assert had_been > 100
    assert [began for began in admitted if began > changed_at] == []
