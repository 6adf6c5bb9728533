"""Yes-or-no benchmarks: POPE's F1 and MME's accuracy plus accuracy+.

- POPE (Li et al. 2023), read as LLaVA's script reads it: the first sentence, without commas; any of the words
  "No", "no", "not" means no, everything else yes (an empty answer too). F1 has yes as the positive class and comes
  from scikit-learn. Where `meta` names a `category` (random, popular, adversarial), the headline is the mean of the
  categories' F1, as LLaVA and COINCIDE report it. lmms-eval reads answers more strictly: the numbers differ.
- MME (Fu et al. 2023), read as its own script reads it: "yes" or "no" within the first four characters, else wrong.
  Every image has two questions; a category scores 100 x (accuracy + accuracy+), where accuracy+ is the part of
  images with both right: at most 200. `perception` sums ten categories (2000), `cognition` four (800); each is
  given only if all of its categories are there. `percent` is the mean category / 2 (0..100), the same as total / 28.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from raycurate.errors import UserError
from raycurate.evaluation.base import Meta, Scores, load_library, mean
from raycurate.evaluation.text import plain_text

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_QUESTIONS_PER_IMAGE = 2
_DENIALS = frozenset(("No", "no", "not"))


def pope(predictions: Sequence[str], references: Sequence[Sequence[str]], meta: Sequence[Meta]) -> Scores:
    """Return `f1` (the headline), accuracy, precision, recall and yes_ratio, each 0..1, and F1 by category.

    Raises:
        UserError: a reference is neither yes nor no, only some rows have a category, or scikit-learn is missing.
    """
    given = [pope_says_yes(text) for text in predictions]
    right = [_is_yes(row, answers) for row, answers in enumerate(references)]
    groups = _by_category(meta)
    by_category = {name: _f1(_at(right, rows), _at(given, rows)) for name, rows in groups.items()}
    hits = [float(one == two) for one, two in zip(given, right, strict=True)]
    both, said, true = sum(one and two for one, two in zip(given, right, strict=True)), sum(given), sum(right)
    values = {
        "f1": mean(list(by_category.values())) if by_category else _f1(right, given),
        "accuracy": mean(hits),
        "precision": both / said if said else 0.0,
        "recall": both / true if true else 0.0,
        "yes_ratio": said / len(given),
    }
    values |= {f"f1_{name}": score for name, score in by_category.items()}
    return Scores(headline="f1", values=values, rows={"accuracy": hits})


def mme(predictions: Sequence[str], references: Sequence[Sequence[str]], meta: Sequence[Meta]) -> Scores:
    """Return MME's sums, `percent` and every category (0..200).

    The headline is `perception` (0..2000) if all ten categories are there, else `percent` (0..100).

    Raises:
        UserError: a reference is neither yes nor no, or an image of a category does not have two questions.
    """
    hits = [
        float(mme_says_yes(text) is _is_yes(row, answers))
        for row, (text, answers) in enumerate(zip(predictions, references, strict=True))
    ]
    categories: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for hit, about in zip(hits, meta, strict=True):
        categories[str(about["category"])][str(about["image"])].append(hit)
    by_category = {name: _mme_category(name, images) for name, images in sorted(categories.items())}
    values = {"percent": mean(list(by_category.values())) / 2}
    for name, members in (("perception", PERCEPTION), ("cognition", COGNITION), ("total", PERCEPTION + COGNITION)):
        if by_category.keys() >= set(members):
            values[name] = sum(by_category[member] for member in members)
    headline = "perception" if "perception" in values else "percent"
    values |= {f"category_{name}": score for name, score in by_category.items()}
    return Scores(headline=headline, values=values, rows={"accuracy": hits})


def pope_says_yes(text: str) -> bool:
    """Return whether LLaVA's POPE script reads `text` as yes."""
    return _DENIALS.isdisjoint(plain_text(text).split(".")[0].replace(",", "").split())


def mme_says_yes(text: str) -> bool | None:
    """Return whether MME's script reads `text` as yes (True), no (False) or neither (None)."""
    start = plain_text(text).strip().lower()[:4]
    return True if "yes" in start else False if "no" in start else None


def neither_yes_nor_no(references: Sequence[str], _meta: Meta) -> str | None:
    """Why these metrics cannot take a row's references, None where they can."""
    if len(references) == 1 and _plain(references[0]) in ("yes", "no"):
        return None
    return f"{[text[:80] for text in references]} is not one answer, yes or no"


def _plain(text: str) -> str:
    return plain_text(text).strip().lower().removesuffix(".")


def _is_yes(row: int, answers: Sequence[str]) -> bool:
    answer = _plain(answers[0])
    if neither_yes_nor_no(answers, {}) is not None:
        raise UserError(f"references of row {row} are {list(answers)!r}; this metric needs one, yes or no")
    return answer == "yes"


def _by_category(meta: Sequence[Meta]) -> dict[str, list[int]]:
    named = ["category" in about for about in meta]
    if any(named) and not all(named):
        raise UserError(
            f"row {named.index(False)} has no meta['category'] but others have; name it in all rows or none"
        )
    groups: dict[str, list[int]] = defaultdict(list)
    for row, about in enumerate(meta if any(named) else ()):
        groups[str(about["category"])].append(row)
    return dict(sorted(groups.items()))


def _at(values: Sequence[bool], rows: Iterable[int]) -> list[bool]:
    return [values[row] for row in rows]


def _f1(right: Sequence[bool], given: Sequence[bool]) -> float:
    return float(load_library("sklearn.metrics", "scikit-learn").f1_score(right, given, zero_division=0.0))


def _mme_category(name: str, images: dict[str, list[float]]) -> float:
    for image, hits in images.items():
        if len(hits) != _QUESTIONS_PER_IMAGE:
            raise UserError(f"MME image '{image}' of category '{name}' has {len(hits)} questions; it must have two")
    accuracy = mean([hit for hits in images.values() for hit in hits])
    return 100 * (accuracy + mean([min(hits) for hits in images.values()]))
