"""What a response tells of its price besides tokens, the same out of small documents and large ones."""

import json

import pytest

from llmproxy.observe.usage import observe

SEARCH = {"type": "web_search_call", "action": {"type": "search", "query": "q"}}
OPENED = {"type": "web_search_call", "action": {"type": "open_page", "url": "u"}}
FOUND = {"type": "web_search_call", "action": {"type": "find_in_page", "pattern": "p"}}
MESSAGE = {"type": "message", "content": [{"type": "output_text", "text": '{"type":"file_search_call"}'}]}
RAN = {"type": "code_interpreter_call", "container_id": "cntr_1"}


def response(output, **members):
    return {"object": "response", "model": "gpt-5", "output": output, "usage": {"input_tokens": 1}} | members


def told(document, *, padding=0, step=None, stream=False, endpoint="/v1/responses"):
    """Metadata and tier of a document, made so much longer and fed in such steps."""
    document = dict(document)
    if padding:
        document = {"instructions": 'é\\" ' * (padding // 5)} | document
    body = json.dumps(document, ensure_ascii=False).encode()
    if stream:
        body = b'data: {"type":"response.completed","response":' + body + b"}\n\n"
    observer = observe(
        endpoint,
        status=200,
        content_type="text/event-stream" if stream else "application/json",
        content_encoding=None,
    )
    step = step or len(body)
    for start in range(0, len(body), step):
        observer.feed(body[start : start + step])
    observer.finish()
    return observer.facts.metadata(), observer.facts.service_tier


SIZES = pytest.mark.parametrize(
    ("padding", "step", "stream"),
    [
        (0, None, False), (0, 7, True), (100_000, None, False), (100_000, 3, False), (100_000, 97, False),
        (2_000_000, 65_536, True),
    ],
)  # fmt: skip


@SIZES
@pytest.mark.parametrize(
    ("document", "calls"),
    [
        (response([SEARCH, MESSAGE, SEARCH, SEARCH]), {"web_search": 3}),
        (response([SEARCH, OPENED, FOUND, SEARCH]), {"web_search": 2}),
        (response([OPENED]), None),
        (response([{"type": "web_search_call"}]), {"web_search": 1}),
        (response([SEARCH], tools=[{"type": "web_search_preview_2025_03_11"}]), {"web_search_preview": 1}),
        (response([{"type": "file_search_call"}, {"type": "function_call"}]), {"file_search": 1, "function": 1}),
        (response([RAN, RAN], tools=[{"container": {"type": "auto"}}]), {"code_interpreter": 2, "container": 1}),
        (
            response(
                [RAN, {**RAN, "container_id": "cntr_2"}],
                tools=[{"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "4g"}}],
            ),
            {"code_interpreter": 2, "container_4g": 2},
        ),
        (response([RAN], tools=[{"type": "code_interpreter", "container": "cntr_1"}]), {"code_interpreter": 1}),
        (response([MESSAGE]), None),
        (response([]), None),
    ],
)
def test_calls_of_tools_are_counted_by_what_is_billed(document, calls, padding, step, stream):
    metadata, _ = told(document, padding=padding, step=step, stream=stream)

    assert metadata.get("tool_calls") == calls


@pytest.mark.parametrize("kind", ["web_search", "web_search_preview"])
def test_tools_are_known_however_many_there_are(kind):
    functions = [{"type": "function", "name": f"f{number}", "description": "d" * 500} for number in range(50)]
    auto = {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["f" * 200], "memory_limit": "16g"}}
    document = response([SEARCH, RAN, OPENED, SEARCH], tools=[*functions, {"type": kind}, auto])

    for padding, step in ((0, None), (70_000, None), (70_000, 11)):
        assert told(document, padding=padding, step=step)[0]["tool_calls"] == {
            "code_interpreter": 1,
            kind: 2,
            "container_16g": 1,
        }


@pytest.mark.parametrize("output", ["text", {"web_search_call": 3}, [1, None, "x_call"], [{"type": 5, "action": []}]])
def test_an_output_of_another_shape_tells_nothing(output):
    assert "tool_calls" not in told(response(output))[0]


def test_names_of_tools_are_short_words_and_few():
    items = [{"type": f"{name}_call"} for name in ("sk-planted", "A", "x" * 60, "", *map("tool{}".format, range(40)))]

    calls = told(response(items))[0]["tool_calls"]

    assert len(calls) == 16
    assert set(calls) < {f"tool{number}" for number in range(40)}


@SIZES
def test_tier_and_window_are_told(padding, step, stream):
    document = response([], service_tier="flex", background_options={"completion_window": "24h"})

    metadata, tier = told(document, padding=padding, step=step, stream=stream)

    assert (metadata["completion_window"], tier) == ("24h", "flex")


@pytest.mark.parametrize("tier", [None, 5, "", "two words", "x" * 50, ["flex"]])
def test_what_is_no_word_is_no_tier(tier):
    assert told(response([], service_tier=tier))[1] is None


def test_a_video_tells_its_length_and_size():
    video = {"object": "video", "model": "sora-2", "seconds": "8", "size": "1280x720", "created_at": 1}

    metadata, _ = told(video, endpoint="/v1/videos")

    assert metadata == {"model": "sora-2", "seconds": 8, "size": "1280x720", "created": 1}


@pytest.mark.parametrize("seconds", [None, "8.5", -1, True, "٣", "9" * 30, 2**60])
def test_a_length_that_is_no_count_is_not_told(seconds):
    assert "seconds" not in told({"object": "video", "model": "sora-2", "seconds": seconds})[0]


def test_images_tell_size_and_quality_behind_their_bytes():
    images = {"data": [{"b64_json": "A" * 300_000}], "size": "1024x1536", "quality": "high", "created": 5}

    assert told(images, endpoint="/v1/images/generations", step=65_536)[0] == {
        "size": "1024x1536",
        "quality": "high",
        "created": 5,
    }
