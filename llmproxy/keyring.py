"""
The key ring that seals upstream API keys at rest.

Format of a sealed key, as text: ``v2.<key id>.<nonce and ciphertext in URL-safe base64>``. The key id is
made of SHA-256 over the encryption key, so any ring that holds the key finds it. AES-256-GCM with the row's
id and the upstream's origin as associated data: a ciphertext copied to another row does not open, nor does one whose
row says that it is for another upstream.

The old form, ``v1.…``, is bound to its row alone. It opens, and is made where nodes of an older version, which open
no other, share the database.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

BOUND, UNBOUND = "v2", "v1"
# A seal begins with its form and the name of its key.
SEAL_NAME_LENGTH = len("v2.01234567")
NONCE_BYTES = 12
KEY_BYTES = 32


class SealBroken(Exception):
    """A sealed key cannot be opened: unknown encryption key, another row's, or altered."""


def keys_of(text: str) -> tuple[bytes, ...]:
    """The encryption keys that a text lists between commas, in base64 of either alphabet. Otherwise ValueError."""
    try:
        parts = [part.strip() for part in text.split(",")]
        keys = tuple(base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True) for part in parts)
    except ValueError:
        keys = (b"",)
    if any(len(key) != KEY_BYTES for key in keys):
        raise ValueError(
            f"must be {KEY_BYTES} random bytes in base64 (openssl rand -base64 32), the current key first, older ones"
            " after commas"
        )
    return keys


class KeyRing:
    """
    Seals with the first key, opens with any.

    Args:
        keys: 32 bytes each, the current one first. Empty raises ValueError.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise ValueError("a key ring needs at least one encryption key")
        self._current_id = key_id(keys[0])
        self._ciphers = {key_id(key): AESGCM(key) for key in keys}

    def seal(self, plain: str, *, row_id: str, origin: str = "") -> str:
        """
        `plain` encrypted under the current key, and bound.

        Args:
            row_id: Whose it is.
            origin: The only upstream that it is for, as `urls.seal_origin` has it.
        """
        return self._seal(BOUND, plain, _bound_to(BOUND, row_id, origin))

    def seal_unbound(self, plain: str, *, row_id: str) -> str:
        """The same in the old form, which is for any upstream."""
        return self._seal(UNBOUND, plain, _bound_to(UNBOUND, row_id, ""))

    def _seal(self, form: str, plain: str, bound_to: bytes) -> str:
        nonce = os.urandom(NONCE_BYTES)
        box = nonce + self._ciphers[self._current_id].encrypt(nonce, plain.encode(), bound_to)
        return f"{form}.{self._current_id}.{base64.urlsafe_b64encode(box).decode()}"

    def open(self, sealed: str, *, row_id: str, origin: str = "") -> str:
        """
        What was sealed for `row_id`, and in the new form for `origin`.

        Raises:
            SealBroken: with no part of the key in its message.
        """
        try:
            form, name, text = sealed.split(".")
            box = base64.urlsafe_b64decode(text)
            if form not in (BOUND, UNBOUND):
                raise SealBroken("sealed key has an unknown version")
            bound_to = _bound_to(form, row_id, origin)
            plain = self._ciphers[name].decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], bound_to)
        except KeyError:
            raise SealBroken(f"encryption key {name[:8]!r} is not on the ring") from None
        except (ValueError, binascii.Error, InvalidTag):
            raise SealBroken("sealed key is damaged, or belongs to another row or base_url") from None
        return plain.decode()

    @property
    def names(self) -> list[str]:
        """The public names of its keys, the current one first."""
        return list(self._ciphers)

    def has(self, name: str) -> bool:
        """Whether an encryption key is on the ring."""
        return name in self._ciphers

    def is_current_key(self, name: str) -> bool:
        """Whether it is the one to seal with."""
        return name == self._current_id

    def is_current(self, sealed: str) -> bool:
        """True when `sealed` needs no rotation."""
        return sealed.startswith(f"{BOUND}.{self._current_id}.")


def _bound_to(form: str, row_id: str, origin: str) -> bytes:
    # An id has no newline, and an origin none either.
    return f"{row_id}\n{origin}".encode() if form == BOUND else row_id.encode()


def key_id(key: bytes) -> str:
    """The public name of an encryption key: eight hex digits that say nothing about it."""
    return hashlib.sha256(b"llm-proxy key id" + key).hexdigest()[:8]
