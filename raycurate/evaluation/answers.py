"""Short answers: exact match, VQA soft accuracy, ChartQA's relaxed accuracy. All are means of row scores in 0..1.

- Exact match, as CoTBal scores it: strip, lower, drop one trailing "."; right if equal to any reference. It is strict:
  "The answer is (B)." is not "B"; the metric `choice` reads an option's letter out of such a sentence.
- VQA soft accuracy (Antol et al. 2015): with n human answers, the mean over the n ways to leave one out of
  min(1, matches / 3). For n = 10 and m matches that is 0, .3, .6, .9, 1, 1, ... Both sides are normalised.
  With fewer than four answers the published 3 could never be reached, so it is min(3, n - 1) there, and a single
  answer is right or wrong.
- Relaxed accuracy (Masry et al. 2022): numbers within 5 % of the reference, other texts equal without case.

Letters are compared composed (NFC) and full-width forms as plain ones (`text.py`): ASCII answers are not touched.

The normalisation of VQA follows the published evaluation: the marks ;/[]"{}()=+\\_-><@`,?! vanish where one stands
beside a space (or where the text has a comma between digits) and become a space elsewhere; a period that no
digit follows vanishes; number words up to ten become digits; articles vanish; contractions get their apostrophe.
Limits: English only; the official script skips it for rows whose ten answers agree, here every row has it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from raycurate.evaluation.base import Meta, Scores, mean_of_rows
from raycurate.evaluation.text import plain_text

RELAXED_TOLERANCE = 0.05
_FULL_AGREEMENT = 3
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
_LOOSE_PERIOD = re.compile(r"\.(?!\d)")
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"} | {
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
# Words whose spelling without apostrophes is no other common word ("its" and "well" are left alone).
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll
somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {word.replace("'", ""): word for word in _CONTRACTED.split()}


def exact_match(predictions: Sequence[str], references: Sequence[Sequence[str]], _meta: Sequence[Meta]) -> Scores:
    """Return the part of rows whose answer equals a reference after strip, lower and one trailing period."""
    hits = [
        float(_plain(prediction) in map(_plain, answers))
        for prediction, answers in zip(predictions, references, strict=True)
    ]
    return mean_of_rows("exact_match", hits)


def vqa_accuracy(predictions: Sequence[str], references: Sequence[Sequence[str]], _meta: Sequence[Meta]) -> Scores:
    """Return the mean VQA soft accuracy; every reference is one person's answer, repeated answers included."""
    rows = []
    for prediction, answers in zip(predictions, references, strict=True):
        wanted = normalize_answer(prediction)
        rows.append(soft_accuracy(sum(normalize_answer(answer) == wanted for answer in answers), len(answers)))
    return mean_of_rows("vqa_accuracy", rows)


def relaxed_accuracy(predictions: Sequence[str], references: Sequence[Sequence[str]], _meta: Sequence[Meta]) -> Scores:
    """Return the part of rows within 5 % of a reference, or equal to it where either is no number."""
    hits = [
        float(any(_relaxed_equal(plain_text(prediction).strip(), plain_text(answer).strip()) for answer in answers))
        for prediction, answers in zip(predictions, references, strict=True)
    ]
    return mean_of_rows("relaxed_accuracy", hits)


def soft_accuracy(matches: int, answers: int) -> float:
    """Return the leave-one-out mean of min(1, matches / 3) in closed form: `matches` of `answers` people agree."""
    if answers == 1:
        return float(matches)
    needed = min(_FULL_AGREEMENT, answers - 1)
    without_a_match, without_another = min(needed, max(0, matches - 1)), min(needed, matches)
    return (matches * without_a_match + (answers - matches) * without_another) / (answers * needed)


def normalize_answer(text: str) -> str:
    """Return an answer as the VQA evaluation compares it: lower case, without marks, articles and number words."""
    text = " ".join(plain_text(text).lower().split())
    vanish = _DIGIT_COMMA.search(text) is not None
    cleaned = text
    for mark in _MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if vanish or beside_space else " ")
    cleaned = _LOOSE_PERIOD.sub("", cleaned)
    words = (_NUMBERS.get(word, word) for word in cleaned.split())
    return " ".join(_CONTRACTIONS.get(word.replace("'", ""), word) for word in words if word not in _ARTICLES)


def _plain(text: str) -> str:
    return plain_text(text).strip().lower().removesuffix(".")


def _relaxed_equal(prediction: str, target: str) -> bool:
    given, wanted = _number(prediction), _number(target)
    if given is not None and wanted is not None and wanted != 0:
        return abs(given - wanted) / abs(wanted) <= RELAXED_TOLERANCE
    return prediction.lower() == target.lower()


def _number(text: str) -> float | None:
    percent = text.endswith("%")
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return value / 100 if percent else value
