"""Codings are undone at every split, in bounded memory, and a bomb ends the decoding."""

import gzip
import random
import tracemalloc
import zlib

import brotli
import pytest
from backports import zstd

from llmproxy.observe import decoding
from llmproxy.observe.decoding import DecodingStopped, body_decoder, is_identity


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


CODED = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "br": brotli.compress,
    "zstd": zstd.compress,
    "gzip, br": lambda data: brotli.compress(gzip.compress(data)),
    "zstd , GZIP": lambda data: gzip.compress(zstd.compress(data)),
    "identity, gzip": gzip.compress,
}
TEXT = 'Tokens wither, calls pass. Über 🌿 {}[]"\\\n'.encode() * 9


@pytest.fixture(params=CODED)
def coding(request):
    return request.param


def decoded(content_encoding, chunks):
    decoder = body_decoder(content_encoding)
    return b"".join(piece for chunk in chunks for piece in decoder.decode(chunk))


def test_a_whole_body_is_decoded(coding):
    assert decoded(coding, [CODED[coding](TEXT)]) == TEXT


def test_a_body_is_decoded_byte_by_byte(coding):
    body = CODED[coding](TEXT)

    assert decoded(coding, [body[i : i + 1] for i in range(len(body))]) == TEXT


def test_a_body_is_decoded_at_every_split(coding):
    body = CODED[coding](TEXT)

    for at in range(len(body)):
        assert decoded(coding, [body[:at], body[at:]]) == TEXT


def test_a_large_body_comes_in_small_pieces(coding):
    data = random.Random(0).randbytes(300_000) * 4
    decoder = body_decoder(coding)

    pieces = list(decoder.decode(CODED[coding](data)))

    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= 2 * decoding.PIECE_BYTES


def test_what_has_arrived_of_a_body_is_known_at_once_when_the_server_flushes():
    compressor = zlib.compressobj(wbits=31)
    decoder = body_decoder("gzip")

    for event in (b"data: one\n\n", b"data: two\n\n"):
        sent = compressor.compress(event) + compressor.flush(zlib.Z_SYNC_FLUSH)
        assert b"".join(decoder.decode(sent)) == event


@pytest.mark.parametrize(("name", "compress"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
def test_several_members_are_one_body_and_what_follows_is_ignored(name, compress):
    body = compress(b"one ") + compress(b"") + compress(b"two") + b"\0\0padding"

    assert decoded(name, [body]) == b"one two"
    assert decoded(name, [body[i : i + 1] for i in range(len(body))]) == b"one two"


@pytest.mark.parametrize("name", ["deflate", "br"])
def test_what_follows_the_end_is_ignored(name):
    body = CODED[name](b"one")

    assert decoded(name, [body, b"padding", b"more"]) == b"one"


BOMB_BYTES = 300_000_000


def zeros(make_compressor):
    compressor = make_compressor()
    block = b"\0" * 1_000_000
    return b"".join(compressor.compress(block) for _ in range(BOMB_BYTES // len(block))) + compressor.flush()


BOMBS = {
    "gzip": lambda: zeros(lambda: zlib.compressobj(wbits=31, level=1)),
    "deflate": lambda: zeros(zlib.compressobj),
    "zstd": lambda: zeros(zstd.ZstdCompressor),
    "br": lambda: brotli.compress(b"\0" * BOMB_BYTES, quality=1),
}


def unfolded_until_stopped(name, bomb):
    seen = 0
    try:
        for piece in body_decoder(name).decode(bomb):
            seen += len(piece)
    except DecodingStopped:
        return seen
    raise AssertionError("decoded to the end")


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_stops_the_decoding_before_it_fills_the_memory(name):
    bomb = BOMBS[name]()

    tracemalloc.start()
    try:
        seen = unfolded_until_stopped(name, bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2_000_000
    assert seen <= decoding.FREE_BYTES + decoding.MAX_RATIO * len(bomb)
    assert seen < BOMB_BYTES / 4


def test_a_bomb_inside_a_bomb_is_counted_where_it_unfolds():
    inner = gzip.compress(gzip.compress(b"\0" * BOMB_BYTES, compresslevel=1), compresslevel=1)

    with pytest.raises(DecodingStopped):
        decoded("gzip, gzip, gzip", [gzip.compress(inner)])


def test_a_zstd_frame_with_a_giant_window_is_refused():
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.checksum_flag: 1}
    compressor = zstd.ZstdCompressor(options=options)
    body = compressor.compress(b"x" * 10_000, mode=zstd.ZstdCompressor.FLUSH_BLOCK) + compressor.flush()

    with pytest.raises(zstd.ZstdError):
        decoded("zstd", [body])


def test_a_long_stream_of_well_compressed_events_is_no_bomb():
    compressor = zlib.compressobj(wbits=31)
    event = b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":" word"}}]}\n\n' * 4
    decoder = body_decoder("gzip")
    seen = 0

    for _ in range(40_000):
        sent = compressor.compress(event) + compressor.flush(zlib.Z_SYNC_FLUSH)
        seen += sum(map(len, decoder.decode(sent)))

    assert seen == 40_000 * len(event) > decoding.FREE_BYTES


@pytest.mark.parametrize("name", ["compress", "aes128gcm", "gzip, unheard-of", "gzip, gzip, gzip, gzip, gzip"])
def test_a_coding_we_cannot_undo_has_no_decoder(name):
    assert body_decoder(name) is None


@pytest.mark.parametrize(
    ("content_encoding", "identity"),
    [(None, True), ("", True), ("identity", True), (" Identity ", True), ("gzip", False), ("identity, gzip", False)],
)
def test_identity_is_told_from_a_coding(content_encoding, identity):
    assert is_identity(content_encoding) is identity
