import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.keyring import KeyRing, SealBroken, key_id

OLD, NEW, OTHER = b"o" * 32, b"n" * 32, b"x" * 32
PLAIN = "sk-planted-upstream-key"


def test_what_is_sealed_opens_for_its_row() -> None:
    ring = KeyRing([NEW])

    assert ring.open(ring.seal(PLAIN, row_id="row"), row_id="row") == PLAIN


def test_a_seal_shows_neither_the_key_nor_that_two_are_equal() -> None:
    ring = KeyRing([NEW])
    first, second = ring.seal(PLAIN, row_id="row"), ring.seal(PLAIN, row_id="row")

    assert first != second
    assert PLAIN not in first
    assert base64.b64encode(PLAIN.encode()).decode()[:8] not in first


def test_a_ring_opens_what_an_older_key_sealed_and_seals_with_the_first() -> None:
    old = KeyRing([OLD]).seal(PLAIN, row_id="row")
    ring = KeyRing([NEW, OLD])
    new = ring.seal(PLAIN, row_id="row")

    assert (ring.open(old, row_id="row"), ring.open(new, row_id="row")) == (PLAIN, PLAIN)
    assert (ring.is_current(old), ring.is_current(new)) == (False, True)
    assert new.split(".")[:2] == ["v2", key_id(NEW)]


def test_a_key_that_is_not_on_the_ring_does_not_open() -> None:
    with pytest.raises(SealBroken, match="not on the ring"):
        KeyRing([NEW]).open(KeyRing([OTHER]).seal(PLAIN, row_id="row"), row_id="row")


@pytest.mark.parametrize("row", ["", "other", "row ", "ROW"])
def test_a_seal_that_was_copied_to_another_row_does_not_open(row: str) -> None:
    ring = KeyRing([NEW])

    with pytest.raises(SealBroken):
        ring.open(ring.seal(PLAIN, row_id="row"), row_id=row)


ORIGIN = "https://api.openai.com:443"


@pytest.mark.parametrize(
    "origin", ["", "https://evil.test:443", "http://api.openai.com:443", "https://api.openai.com:8443"]
)
def test_a_seal_does_not_open_for_another_upstream(origin: str) -> None:
    ring = KeyRing([NEW])
    sealed = ring.seal(PLAIN, row_id="row", origin=ORIGIN)

    assert ring.open(sealed, row_id="row", origin=ORIGIN) == PLAIN
    with pytest.raises(SealBroken, match="base_url"):
        ring.open(sealed, row_id="row", origin=origin)


def test_a_seal_of_the_old_form_opens_for_any_upstream_and_wants_rotation() -> None:
    ring = KeyRing([NEW])
    sealed = ring.seal_unbound(PLAIN, row_id="row")

    assert {ring.open(sealed, row_id="row", origin=origin) for origin in ("", ORIGIN)} == {PLAIN}
    assert sealed.startswith(f"v1.{key_id(NEW)}.") and not ring.is_current(sealed)
    with pytest.raises(SealBroken):
        ring.open(sealed, row_id="other")


@pytest.mark.parametrize("form", ["v1", "v2"])
def test_a_seal_of_one_form_does_not_open_as_the_other(form: str) -> None:
    ring = KeyRing([NEW])
    sealed = ring.seal_unbound(PLAIN, row_id="row") if form == "v2" else ring.seal(PLAIN, row_id="row")

    with pytest.raises(SealBroken):
        ring.open(f"{form}{sealed[2:]}", row_id="row")


def test_a_ring_needs_a_key() -> None:
    with pytest.raises(ValueError, match="at least one"):
        KeyRing([])


@pytest.mark.parametrize(
    "sealed",
    [
        "", ".", "..", "...", "v1", "v1.", f"v1.{key_id(NEW)}", f"v1.{key_id(NEW)}.", f"v1.{key_id(NEW)}.AAAA",
        "v1..AAAA", f"v3.{key_id(NEW)}.{'A' * 64}", f"v2.{key_id(NEW)}.{'A' * 64}",
        f"v1.{key_id(NEW)}.\xe9", f"v1.{key_id(NEW)}.A", PLAIN,
    ],
)  # fmt: skip
def test_what_is_no_seal_is_a_broken_seal(sealed: str) -> None:
    with pytest.raises(SealBroken):
        KeyRing([NEW]).open(sealed, row_id="row")


@given(st.data())
def test_a_seal_that_was_altered_never_opens_to_something_else(data: st.DataObject) -> None:
    ring = KeyRing([NEW])
    sealed = ring.seal(PLAIN, row_id="row")
    at = data.draw(st.integers(0, len(sealed) - 1))
    altered = sealed[:at] + data.draw(st.text(max_size=3)) + sealed[at + data.draw(st.integers(0, 30)) :]

    try:
        assert ring.open(altered, row_id="row") == PLAIN
    except SealBroken as broken:
        assert "planted" not in str(broken)  # noqa: PT017


@given(st.text(), st.text())
def test_any_text_survives_and_any_garbage_is_a_broken_seal(text: str, row: str) -> None:
    ring = KeyRing([NEW])

    assert ring.open(ring.seal(text, row_id=row), row_id=row) == text
    with pytest.raises(SealBroken):
        ring.open(text, row_id=row)


@pytest.mark.parametrize("plain", ["sk-planted-key", "planted0.AAAA.AAAA", "sk-plant.planted0.AAAA"])
def test_the_message_quotes_nothing_of_a_key_that_lies_there_unsealed(plain: str) -> None:
    """Somebody may have written a plain key into the row by hand."""
    with pytest.raises(SealBroken) as broken:
        KeyRing([NEW]).open(plain, row_id="row")

    assert "plant" not in str(broken.value)
