"""Texts of two keyboards compared: composed letters, and full-width forms as the plain ones."""

from __future__ import annotations

import unicodedata

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " ", 0x3002: ".", 0xFF61: "."}


def plain_text(text: str) -> str:
    """The text in its composed form (NFC), full-width letters, digits and marks as ASCII, the period `\u3002` as `.`.

    ASCII comes back as it is, so published numbers do not change.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text).translate(_FULL_WIDTH)
