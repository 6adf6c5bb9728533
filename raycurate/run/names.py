"""Names that become the names of files: labels that users give, and text that programs turn into one."""

from __future__ import annotations

import hashlib
import unicodedata

from raycurate.errors import UserError

LONGEST = 100
LONGEST_BYTES = 200
"""Of a label: with the name of its noun it stays within the 255 bytes of a file name, whatever its script."""
MARKS = "-_.=+"


def plain_label(text: str) -> str:
    """A label in its composed form (NFC), so that the same word typed on two systems is one label.

    Raises:
        UserError: anything but letters and digits of any script and the marks `-_.=+`, a mark other than `_` at the
            start, or a name that is too long.
    """
    label = unicodedata.normalize("NFC", text)
    bad = next((char for char in label if not (_is_letter(char) or char in MARKS)), None)
    if not label or bad is not None or not (_is_letter(label[0]) or label[0] == "_"):
        what = f"{bad!r} is not allowed" if bad is not None else "it starts with a mark" if label else "it is empty"
        raise UserError(
            f"label {text!r} is not a plain name: {what}. Use letters and digits of any script and {' '.join(MARKS)}, "
            "beginning with a letter, a digit or '_'"
        )
    if len(label) > LONGEST or len(label.encode()) > LONGEST_BYTES:
        raise UserError(
            f"label '{label[:40]}...' has {len(label)} characters ({len(label.encode())} bytes); at most {LONGEST} "
            f"({LONGEST_BYTES} bytes) fit into the name of a file"
        )
    return label


def as_label(text: str) -> str:
    """A label for any text, short enough to add to: itself where it is one, else what may stay and a hash of all."""
    composed = unicodedata.normalize("NFC", text)
    kept = "".join(char if _is_letter(char) or char in MARKS else "-" for char in composed)
    kept = kept.lstrip(MARKS.replace("_", ""))
    if kept == text and 0 < len(kept) <= LONGEST // 2:
        return kept
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{kept[:40] or 'name'}-{digest}"


def _is_letter(char: str) -> bool:
    """Letters, digits, and the marks that scripts such as Devanagari write words with."""
    return char.isalnum() or unicodedata.category(char) in ("Mn", "Mc")
