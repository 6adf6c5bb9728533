"""Multiple choice: the letter of the option that an answer names, however it says so.

The first of these that an answer fits gives its letter, in either case where a mark or bracket stands by it:

1. the answer is the letter alone, with brackets or a mark: `B`, `(b)`, `B.`, `[B]`
2. it begins with the letter and a mark: `B. a dog`, `(B) a dog`, `b) a dog`, `B: a dog`
3. it says "answer is", "answer:", "option" or "choice" and the letter; the last such phrase counts
4. every bracketed letter in it is the same one: `I take (B).`
5. one capital letter stands alone, and no other does, `A` and `I` left out, which are words: `It must be B`

Anything else names no option: wrong, and counted in `parsed`. `exact_match` is the strict metric: it reads nothing out
of a sentence. Options are the letters A to Z. Cost: linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from raycurate.errors import UserError
from raycurate.evaluation.base import Meta, Scores, mean
from raycurate.evaluation.text import plain_text

_ALONE = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\].:,]*")
_FIRST = re.compile(r"(?:[(\[]\s*([A-Za-z])\s*[)\]]|([A-Za-z])[).:,](?=\s|$))(?!\s*(?:or|and)\b)", re.IGNORECASE)
_SAID = re.compile(
    r"(?:answer|option|choice)(?:\s+(?:is|would be|should be))?\s*:?\s*"
    r"(?:(?:the\s+)?(?:option|choice)\s+)?[*\"'(\[]*([A-Za-z])(?![A-Za-z'])",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"[(\[]\s*([A-Za-z])\s*[)\]]")
_CAPITAL = re.compile(r"(?<![A-Za-z'])([B-HJ-Z])(?![A-Za-z'])")


def choice(predictions: Sequence[str], references: Sequence[Sequence[str]], _meta: Sequence[Meta]) -> Scores:
    """Return `accuracy` (the headline), the part of rows that name a right option, and `parsed`, that name any.

    Raises:
        UserError: a reference that names no option.
    """
    hits, parsed = [], []
    for row, (prediction, answers) in enumerate(zip(predictions, references, strict=True)):
        right = {option_of(answer) for answer in answers}
        if None in right:
            raise UserError(f"reference of row {row} is {answers[0][:80]!r}; it must name an option, such as B or (B)")
        given = option_of(prediction)
        parsed.append(float(given is not None))
        hits.append(float(given in right))
    values = {"accuracy": mean(hits), "parsed": mean(parsed)}
    return Scores(headline="accuracy", values=values, rows={"accuracy": hits})


def option_of(text: str) -> str | None:
    """Return the capital letter of the option that `text` names, None where it names none or several."""
    text = plain_text(text).strip().strip("*\"' \n")
    if found := _ALONE.fullmatch(text):
        return found[1].upper()
    if found := _FIRST.match(text):
        return (found[1] or found[2]).upper()
    for letters in (_SAID.findall(text)[-1:], _BRACKETED.findall(text), _CAPITAL.findall(text)):
        named = {letter.upper() for letter in letters}
        if named:
            return named.pop() if len(named) == 1 else None
    return None


def no_option(references: Sequence[str], _meta: Meta) -> str | None:
    """Why the metric cannot take a row's references, None where it can."""
    bad = next((text for text in references if option_of(text) is None), None)
    return None if bad is None else f"{bad[:80]!r} names no option, such as B or (B)"
