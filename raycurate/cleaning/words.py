"""A conversation's words in forms that can be compared: a hash of all of them, and its n-grams of words.

    plain(text) = NFC(casefold(NFD(text without <image> marks))), runs of white space as one space
    text hash   = blake2b-128 of the plain turns with their roles
    grams(text) = {blake2b-64 of n neighbouring words}; a text of fewer words is one gram, an empty one none
    resemblance = |A & B| / |A | B| of two sets of grams                                              Broder 1997

Case, white space, composed or decomposed accents and the place of an image mark make no difference; punctuation does.
Cost: about 1 microsecond a word. Limits: a gram of Chinese or Japanese text, which has no spaces, is a whole phrase.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycurate.samples.schema import IMAGE_MARK

GRAM_WORDS = 3
Turn = Mapping[str, Any]


def plain(text: str) -> str:
    """The text without what makes no difference."""
    apart = unicodedata.normalize("NFD", text.replace(IMAGE_MARK, " ")).casefold()
    return " ".join(unicodedata.normalize("NFC", apart).split())


def text_hash(turns: Sequence[Turn]) -> bytes:
    """16 bytes that are the same for conversations of the same plain turns."""
    state = hashlib.blake2b(digest_size=16)
    for turn in turns:
        data = plain(turn["text"]).encode("utf-8", "surrogatepass")
        state.update(f"{turn['role']}:{len(data)}:".encode())
        state.update(data)
    return state.digest()


def grams(texts: Sequence[str], words: int = GRAM_WORDS) -> NDArray[np.uint64]:
    """The hashes of all n-grams of some texts, ascending and each once, [G]; no gram reaches over two texts."""
    found: set[bytes] = set()
    for text in texts:
        parts = plain(text).split()
        for start in range(max(1, len(parts) - words + 1) if parts else 0):
            joined = " ".join(parts[start : start + words])
            found.add(hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=8).digest())
    return np.sort(np.frombuffer(b"".join(found), dtype="<u8").astype(np.uint64))


def asked_and_answered(turns: Sequence[Turn]) -> tuple[list[str], list[str]]:
    """The texts of the user and the system, and those of the assistant."""
    asked = [turn["text"] for turn in turns if turn["role"] != "assistant"]
    return asked, [turn["text"] for turn in turns if turn["role"] == "assistant"]
