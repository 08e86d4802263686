"""Forms: what clients send is read, and what parsers read differently is refused."""

import random
from itertools import pairwise

import pytest
import requests
from werkzeug.sansio import multipart

from llmproxy.errors import AmbiguousBody
from llmproxy.limits.body.form import MOST_PARTS, boundary_of, scan_form

FIELDS = {"model": "gpt-4o-transcribe", "n": "2", "stream": "true", "prompt": "say é", "language": "nl"}
FILES = {
    "file": ("ü.mp3", b"\r\n--" * 1000 + bytes(range(256)), "audio/mpeg"),
    "image[]": ("a.png", b"\x89PNG" * 5, "image/png"),
    "mask": ("m.png", b"\x89PNG" * 2, "image/png"),
}


def form(fields=FIELDS, files=FILES):
    request = requests.Request("POST", "http://x/", data=fields, files=files).prepare()
    return request.body, boundary_of(request.headers["content-type"])


def raw(*parts: bytes, end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + end


def field(name: str, value: str, *headers: str) -> bytes:
    lines = [f'Content-Disposition: form-data; name="{name}"', *headers]
    return "\r\n".join([*lines, "", value]).encode()


MODEL = field("model", "m")


def test_a_form_as_clients_send_it_is_read():
    body, boundary = form()

    reading = scan_form([body], boundary)

    assert reading.members == {"model": "gpt-4o-transcribe", "n": 2, "stream": True, "language": "nl"}
    assert reading.models == {"gpt-4o-transcribe"}
    assert reading.parts.audio_chars == len(FILES["file"][1])
    assert (reading.parts.inline, reading.parts.inline_chars) == (2, 28)


@pytest.mark.parametrize("seed", range(20))
def test_a_form_in_pieces_is_read_as_the_whole(seed):
    body, boundary = form()
    chosen = random.Random(seed)
    edges = [0, *sorted(chosen.choices(range(len(body) + 1), k=chosen.choice([1, 5, 500]))), len(body)]

    assert scan_form([body[a:b] for a, b in pairwise(edges)], boundary) == scan_form([body], boundary)


def test_a_form_byte_by_byte_is_read_as_the_whole():
    body, boundary = form()

    assert scan_form([body[at : at + 1] for at in range(len(body))], boundary) == scan_form([body], boundary)


SESSION = field(
    "session", '{"model": "r", "prompt": {"id": "p"}, "tools": [{"type": "mcp"}]}', "Content-Type: application/json"
)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_the_session_of_a_call_is_read_as_a_body_is(size):
    body = raw(field("sdp", "v=0\r\n"), SESSION)

    reading = scan_form([body[at : at + size] for at in range(0, len(body), size)], b"b")

    assert reading.members == {"sdp": "v=0\r\n", "session": {"model": "r", "tools": [{"type": "mcp"}]}}
    assert (reading.models, reading.has_stored_prompt) == ({"r"}, True)


@pytest.mark.parametrize(
    "value", ["", "x", "[]", '{"model":"r"', '{"model":"r","model":"s"}', '{"tools":[],"Tools":[]}']
)
def test_a_session_that_is_no_object_or_ambiguous_is_refused(value):
    with pytest.raises(AmbiguousBody):
        scan_form([raw(field("session", value))], b"b")


def test_a_model_is_found_before_and_behind_a_file():
    file = b'Content-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + b"\0" * 2_000_000

    for parts in ([MODEL, file], [file, MODEL]):
        body = raw(*parts)
        reading = scan_form((body[at : at + 65536] for at in range(0, len(body), 65536)), b"b")
        assert reading.models == {"m"}
        assert reading.parts.audio_chars == 2_000_000


# What clients write behind `name="file"`.
FILE_NAMES = [
    'filename="a.mp3"',
    "filename=a.mp3; filename*=utf-8''a.mp3",
    "filename=\"=?utf-8?B?YQ==?=\"; filename*=utf-8''%C3%BC",
    'filename="C:\\fakepath\\a.mp3"',
    'filename="a \\"b\\".mp3"',
    'filename="a; b=c.mp3"',
    "filename*=UTF-8''a.mp3",
]


@pytest.mark.parametrize("file_name", FILE_NAMES)
@pytest.mark.parametrize("names", [('"file"', '"model"'), ("file", "model")], ids=["quoted", "as .NET has them"])
def test_a_file_may_be_called_as_it_likes(file_name, names):
    file = f"Content-Disposition: form-data; name={names[0]}; {file_name}\r\n\r\nabc".encode()
    model = f"Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name={names[1]}\r\n\r\nm"

    reading = scan_form([raw(model.encode(), file)], b"b")

    assert (reading.models, reading.parts.audio_chars) == ({"m"}, 3)


AMBIGUOUS = {
    "two models": raw(MODEL, field("model", "gpt-5")),
    "a model with a file's name": raw(b'Content-Disposition: form-data; name="model"; filename="x"\r\n\r\nm'),
    "a model in capitals": raw(field("Model", "gpt-5"), MODEL),
    "a model in a list": raw(field("model[]", "gpt-5"), MODEL),
    "a model with a key": raw(field("model[0]", "gpt-5"), MODEL),
    "a model that is a number": raw(field("model", "5")),
    "a line feed alone": raw(MODEL).replace(b"\r\n", b"\n"),
    "a carriage return alone": raw(MODEL).replace(b"\r\n", b"\r"),
    "a boundary behind a line feed": raw(
        MODEL, field("x", 'y\n--b\nContent-Disposition: form-data; name="model"\n\nz')
    ),
    "an end behind a line feed": raw(MODEL, field("x", "y\n--b--\n"), field("y", "z")),
    "a boundary within a value": raw(MODEL, field("x", "y --b z")),
    "a boundary with a space": raw(MODEL).replace(b"--b--", b"--b --"),
    "a boundary that goes on": raw(MODEL, end=b"--bc--\r\n"),
    "text before": b"x\r\n" + raw(MODEL),
    "a line before": b"\r\n" + raw(MODEL),
    "text behind": raw(MODEL) + b"x",
    "a form behind": raw(MODEL) + raw(field("model", "gpt-5")),
    "no end": raw(MODEL, end=b""),
    "half an end": raw(MODEL, end=b"--b-"),
    "no boundary": b"model=m",
    "nothing": b"",
    "no blank line": b"--b\r\n" + MODEL.replace(b"\r\n\r\n", b"\r\n") + b"\r\n--b--\r\n",
    "no headers": raw(b"\r\nx"),
    "no name": raw(b"Content-Disposition: form-data\r\n\r\nm"),
    "two names": raw(b'Content-Disposition: form-data; name="x"; name="model"\r\n\r\nm'),
    "a model in another character set": raw(field("model", "m", "Content-Type: text/plain; charset=utf-7")),
    "a form in a part": raw(field("x", "m", "Content-Type: multipart/mixed; boundary=c")),
    "a name without quotes that goes on": raw(b"Content-Disposition: form-data; name=mod el\r\n\r\nm"),
    "two names without quotes": raw(b"Content-Disposition: form-data; name=x; name=model\r\n\r\nm"),
    "a file's name without quotes that goes on": raw(
        b"Content-Disposition: form-data; name=x; filename=a b; name=model\r\n\r\nm"
    ),
    "a name within a file's name with a quote": raw(
        b'Content-Disposition: form-data; name="x"; filename="a\\"; name=model; b=\\""\r\n\r\nm'
    ),
    "a file's name that may not end": raw(
        b'Content-Disposition: form-data; name="x"; filename="a\\"; filename*=utf-8\'\'b\r\n\r\nm'
    ),
    "an encoded name": raw(b"Content-Disposition: form-data; name*=utf-8''model\r\n\r\nm"),
    "a name with an escape": raw(field("mod\\el", "m")),
    "a name with a percent sign": raw(field("mode%6c", "m")),
    "a name behind a file's name with a quote": raw(
        b'Content-Disposition: form-data; name="x"; filename="a\\"; name="model"\r\n\r\nm'
    ),
    "two dispositions": raw(b'Content-Disposition: form-data; name="x"\r\n' + MODEL),
    "a folded header": raw(b'Content-Disposition: form-data;\r\n name="model"\r\n\r\nm'),
    "a space before the colon": raw(MODEL.replace(b"Disposition:", b"Disposition :")),
    "a header without colon": raw(field("x", "y", "model")),
    "a control character in a header": raw(field("x", "y", "X: a\0b")),
    "an encoded value": raw(field("model", "bQ==", "Content-Transfer-Encoding: base64")),
    "a quoted-printable value": raw(field("model", "=6d", "Content-Transfer-Encoding: quoted-printable")),
    "a character set for all": raw(field("_charset_", "utf-16"), MODEL),
    "a model that is not UTF-8": raw(MODEL + b"\xff"),
    "a header that is not UTF-8": raw(b'Content-Disposition: form-data; name="\xff"\r\n\r\nm'),
    "endless headers": b"--b\r\n" + b"X: " + b"a" * 20_000,
    "too many parts": raw(*[field("x", "y")] * (MOST_PARTS + 1)),
}


@pytest.mark.parametrize("body", AMBIGUOUS.values(), ids=AMBIGUOUS)
@pytest.mark.parametrize("piece", [10**9, 1], ids=["whole", "bytes"])
def test_what_another_reader_may_read_otherwise_is_refused(body, piece):
    with pytest.raises(AmbiguousBody):
        scan_form((body[at : at + piece] for at in range(0, len(body), piece)), b"b")


def test_what_werkzeug_reads_in_a_form_is_read_here():
    body, boundary = form()
    decoder, seen, name = multipart.MultipartDecoder(boundary), {}, ""
    decoder.receive_data(body)
    decoder.receive_data(None)
    while not isinstance(event := decoder.next_event(), multipart.Epilogue):
        if isinstance(event, multipart.Field):
            name = event.name
        elif isinstance(event, multipart.Data):
            seen[name] = seen.get(name, b"") + event.data

    assert scan_form([body], boundary).members["model"] == seen["model"].decode()


@pytest.mark.parametrize(
    ("name", "value", "models"),
    [
        ("svg[model]", "a", {"a"}),
        ("svg.model", "a", {"a"}),
        ("fallbacks[]", "a", {"a"}),
        ("svg", '{"model": "a"}', {"a"}),
        ("x", '[{"model": "a"}, {"models": ["b"]}]', {"a", "b"}),
        ("session", '{"instructions": "' + "x" * 50_000 + '", "model": "a"}', {"a"}),
        ("prompt", '{"model": "a"}', set()),
        ("metadata[model]", "a", set()),
        ("user", '[bot] {"model": "a"}', set()),
        ("chunking_strategy", '{"type": "server_vad"}', set()),
    ],
)
def test_a_model_is_found_in_what_a_field_has_inside(name, value, models):
    assert scan_form([raw(MODEL, field(name, value))], b"b").models == {"m"} | models


@pytest.mark.parametrize(
    "parts",
    [
        [field("svg[Model]", "a")],
        [field("svg[model]", "a"), field("svg[model]", "b")],
        [field("svg", '{"model": "a", "x": NaN}')],
        [field("svg", '\ufeff{"model": "a"}')],
        [field("svg", '{"model": "a", "model": "b"}')],
        [field("svg", '{"model": "a", "x": "' + "x" * 1000 + '"}')],
        [field("session[model]", "a")],
        [field("svg[reasoning][effort]", "low"), field("svg[reasoning][effort]", "high")],
        [field("svg", '{"reasoning": 1}'), field("svg[reasoning]", "high")],
        [field("svg[reasoning][effort]", "low"), field("svg[reasoning]", "high")],
        [field("svg[reasoning]", "low"), field("svg.reasoning[effort]", "high")],
    ],
)
def test_an_object_in_a_form_is_read_in_one_way_alone(parts):
    with pytest.raises(AmbiguousBody):
        scan_form([raw(MODEL, *parts)], b"b")


def test_what_brackets_and_dots_name_stands_where_json_has_it():
    parts = [field("svg[reasoning][effort]", "high"), field("svg.model", "a"), field("include[]", "x")]
    parts += [field("include[]", "y"), field("chunking_strategy[type]", "server_vad"), field("x[metadata][n]", "1")]

    assert scan_form([raw(*parts)], b"b").members == {
        "svg": {"reasoning": {"effort": "high"}, "model": "a"},
        "include": {"": "y"},
        "chunking_strategy": {"type": "server_vad"},
        "x[metadata][n]": 1,
    }


def test_long_fields_are_cut():
    assert len(scan_form([raw(field("user", "a" * 5000))], b"b").members["user"]) == 1000


def test_an_empty_field_is_empty_text():
    assert scan_form([raw(field("language", ""))], b"b").members == {"language": ""}


def test_the_reader_pauses_after_each_piece():
    pauses = []

    scan_form([raw(MODEL)[:5], raw(MODEL)[5:]], b"b", lambda: pauses.append(1))

    assert len(pauses) == 2


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ("Multipart/Form-Data;boundary=abc", b"abc"),
        ('multipart/form-data; boundary="--=_odd boundary?(1)"', b"--=_odd boundary?(1)"),
        ("multipart/form-data; charset=utf-8; boundary=a'b", b"a'b"),
        ("application/json", None),
        ("", None),
    ],
)
def test_the_boundary_is_the_content_types(content_type, boundary):
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=a; boundary=b",
        'multipart/form-data; boundary="a', 'multipart/form-data; boundary="a\\"b"', "multipart/mixed; boundary=a",
        "multipart/form-data; boundary=a b", "multipart/form-data; boundary*=utf-8''a",
        "multipart/form-data boundary=a",
        "multipart/form-data; boundary=" + "a" * 71, "multipart/form-data; x=y; boundary=a",
    ],
)  # fmt: skip
def test_a_content_type_that_is_read_in_more_than_one_way_is_refused(content_type):
    with pytest.raises(AmbiguousBody):
        boundary_of(content_type)
