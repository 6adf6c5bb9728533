"""Answers of a test set to scores: grouped by task, each task given to its metrics.

A task's numbers are named after the metric (`exact_match`); what a metric gives beside its headline is named
`metric.name` (`iou.mean_iou`). The same names are used for the numbers per row.

`annotations` give what a conversation cannot hold: several right answers, or a category (MME, POPE). Without them a
question's reference is the answer in the row, and its meta names its first image.

Cost: linear in the text; a test set's answers are held in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raycurate.errors import UserError
from raycurate.evaluation.base import Metric
from raycurate.evaluation.tasks import fits_of

AnnotationKey = tuple[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """What a question has beside its row: right answers (None: the row's own) and meta."""

    references: tuple[str, ...] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class SetScores:
    """Scores of a test set.

    Attributes:
        tasks: task -> name -> number.
        headlines: task -> metric -> whether higher is better; a metric's name is also its headline number's.
        rows: name -> number, per answer in the order given.
        references: right answers, per answer in the order given.
        notes: metrics that were guessed and could not take their task's rows.
    """

    tasks: dict[str, dict[str, float]]
    headlines: dict[str, dict[str, bool]]
    rows: list[dict[str, float]]
    references: list[tuple[str, ...]]
    notes: list[str] = field(default_factory=list)


def score_answers(
    answers: Sequence[Mapping[str, Any]],
    overrides: Mapping[str, str | Iterable[str]] | None = None,
    annotations: Mapping[AnnotationKey, Annotation] | None = None,
) -> SetScores:
    """Score rows with `task`, `prediction`, `reference`, `source_id`, `turn` and `image`.

    Raises:
        UserError: no answers, unknown metrics or tasks, annotations that fit no row, or what a metric refuses.
    """
    if not answers:
        raise UserError("there are no answers to score: every test row was rejected, or there was none")
    known = annotations or {}
    found = [known.get((row["source_id"], row["turn"]), Annotation()) for row in answers]
    if known and all(each.references is None and not each.meta for each in found):
        example = next(iter(known))
        raise UserError(f"no annotation fits a test row; ids are {example[0]!r}, ..., rows {answers[0]['source_id']!r}")
    references = [a.references or (row["reference"],) for a, row in zip(found, answers, strict=True)]
    members: dict[str, list[int]] = {}
    for number, row in enumerate(answers):
        members.setdefault(row["task"], []).append(number)
    rows: list[dict[str, float]] = [{} for _ in answers]
    tasks: dict[str, dict[str, float]] = {}
    fits = fits_of(sorted(members), overrides)
    metas = [{"image": row["image"], **a.meta} for a, row in zip(found, answers, strict=True)]
    for row, own_references, meta in zip(answers, references, metas, strict=True):
        fits[row["task"]].see(own_references, meta)
    metrics = {task: fit.fitting() for task, fit in fits.items()}
    for task, chosen in metrics.items():
        own = members[task]
        tasks[task] = {}
        for metric in chosen:
            try:
                scores = metric.compute(
                    [answers[i]["prediction"] for i in own], [references[i] for i in own], [metas[i] for i in own]
                )
            except UserError as error:
                raise UserError(f"task '{task}': {error}. Another metric: --metrics '{task}=METRIC'") from error
            names = _names(metric, scores.headline)
            tasks[task] |= {names(name): value for name, value in scores.values.items()}
            for name, values in scores.rows.items():
                for i, value in zip(own, values, strict=True):
                    rows[i][names(name)] = float(value)
    headlines = {task: {metric.name: metric.higher_is_better for metric in own} for task, own in metrics.items()}
    notes = [fit.note for fit in fits.values() if fit.note is not None]
    return SetScores(tasks=tasks, headlines=headlines, rows=rows, references=references, notes=notes)


def _names(metric: Metric, headline: str) -> Any:
    return lambda name: metric.name if name == headline else f"{metric.name}.{name}"


def parse_annotations(text: str, where: str) -> dict[AnnotationKey, Annotation]:
    """Annotations of JSON lines `{"id": ..., "turn": 0, "references": [...], "meta": {...}}`.

    Raises:
        UserError: a line that is not of that form, or an id and turn twice, with its number.
    """
    found: dict[AnnotationKey, Annotation] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            key = (str(value["id"]), int(value.get("turn", 0)))
            references = value.get("references")
            if references is not None and (not references or not all(isinstance(r, str) for r in references)):
                raise ValueError("references must be a list of at least one text")
            meta = dict(value.get("meta") or {})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f'{where}, line {number}: {error}. Give {{"id": ..., "references": [...], "meta": {{...}}}}'
            ) from None
        if key in found:
            raise UserError(f"{where}, line {number}: id {key[0]!r}, turn {key[1]}, is there twice")
        found[key] = Annotation(references=None if references is None else tuple(references), meta=meta)
    return found
