"""Rows for people."""

from llmproxy.limits.price_file import read_overlay
from llmproxy.limits.price_words import describe
from llmproxy.limits.prices import Prices


def lines_of(prices: Prices, model: str, project: str | None = None) -> list[str]:
    return describe(prices.find(model, project)).splitlines()


def test_a_chat_model_is_shown_with_every_tier_and_window(prices):
    assert lines_of(prices, "gpt-5.4-2026-03-05") == [
        "gpt-5.4",
        "  from the sheet: genai-prices 0.2.3, 2026-10-12",
        "  reads 1,050,000 tokens and writes 128,000 at most, and reasons",
        "                               in  cached    out   $ per million LLM tokens",
        "  default                    2.50    0.25  15.00",
        "  default, above 272,000 in  5.00    0.50  22.50",
        "  flex                       1.25    0.13   7.50",
        "  flex, above 272,000 in     2.50    0.25  11.25",
        "  batch                      1.25    0.13   7.50",
        "  batch, above 272,000 in    2.50    0.25  11.25",
        "  priority                   5.00    0.50  30.00",
        "  tools, a use: web_search $0.01, web_search_preview $0.01, file_search $0.0025, container $0.03, "
        "container_4g $0.12, container_16g $0.48, container_64g $1.92",
    ]


def test_sound_and_images_have_columns_where_they_cost_something_else(prices):
    header, default = lines_of(prices, "gpt-realtime")[3:5]

    assert header.split()[:7] == ["in", "cached", "out", "audio_in", "audio_out", "image_in", "image_cached"]
    assert default.split()[1:] == ["4.00", "0.40", "16.00", "32.00", "64.00", "5.00", "0.50"]


def test_other_units_are_shown_by_what_they_are(prices):
    assert lines_of(prices, "whisper-1")[2:] == ["  default: a minute of sound $0.006"]
    assert lines_of(prices, "tts-1-hd")[2:] == ["  default: a million characters $30.00"]
    assert lines_of(prices, "sora-2")[2:] == [
        "  default: a second of video 720x1280 $0.10",
        "  default: a second of video 1280x720 $0.10",
        "  batch: a second of video 720x1280 $0.05",
        "  batch: a second of video 1280x720 $0.05",
    ]
    assert "  default: an image low 1024x1024 $0.011, 1024x1536 $0.016, 1536x1024 $0.016" in lines_of(
        prices, "gpt-image-1"
    )
    assert "  each call: $0.025" in lines_of(prices, "gpt-4o-search-preview")


def test_an_operators_row_says_so_and_what_it_leaves_out(sheet):
    overlay = read_overlay('[project."edge models".model."llama3"]\nin = 0.10\nimage = 2')

    assert lines_of(Prices(sheet, overlay), "llama3", "edge models") == [
        "llama3",
        '  from PRICES_FILE, project "edge models": no source, no date',
        "             in   out   $ per million LLM tokens",
        "  default  0.10  none",
        "  default: an image of any kind of any kind $2.00",
    ]
