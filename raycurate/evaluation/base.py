"""What a metric is: all predictions of one task in, a few named numbers out.

A metric sees a whole task at once, because CIDEr's document frequencies, GLEU's counts and MME's pairs are
properties of the task and not of a row. Where a number per row exists it is given too, in the order of the input.
Every mean is an exactly rounded sum (`math.fsum`), so that the order of the rows cannot change a digit.

Cost: linear in the text of the task; everything is held in memory (a test split, not a training set).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raycurate.errors import UserError

Meta = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The numbers of one task.

    Attributes:
        headline: the key of `values` that a scoreboard shows.
        values: number by name, in the metric's unit; all finite.
        rows: number per row by name, each as long as the task and in its order; empty where rows have none.
    """

    headline: str
    values: Mapping[str, float]
    rows: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """Return the headline number."""
        return self.values[self.headline]


ScoreFunction = Callable[[Sequence[str], Sequence[Sequence[str]], Sequence[Meta]], Scores]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A named way to score one task.

    Attributes:
        name: as in `METRICS`.
        unit: what the headline number means, with its range.
        score: the function of (predictions, references per row, meta per row).
        higher_is_better: the direction of the headline number.
        needs: the keys that `meta` must hold in every row.
        misfit: why a row's references (and its meta) cannot be scored by it; None: all can.
    """

    name: str
    unit: str
    score: ScoreFunction
    higher_is_better: bool = True
    needs: tuple[str, ...] = ()
    misfit: Callable[[Sequence[str], Meta], str | None] | None = None

    def why_not(self, references: Sequence[str], meta: Meta) -> str | None:
        """Why the metric cannot take a row, before anything is answered; None where it can."""
        if missing := [key for key in self.needs if key not in meta]:
            return f"the row has no meta['{missing[0]}'] (--set annotations=FILE gives it)"
        return None if self.misfit is None else self.misfit(references, meta)

    def compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        meta: Sequence[Meta] | None = None,
    ) -> Scores:
        """Score one task: N predictions, N lists of at least one right answer, and N mappings or none.

        Raises:
            UserError: no rows, lengths that differ, a value that is not text, a row without a reference or without
                a needed key of `meta`, or a result that is not finite.
        """
        rows_meta = [{} for _ in predictions] if meta is None else meta
        self._check_rows(predictions, references, rows_meta)
        scores = self.score(predictions, references, rows_meta)
        self._check_scores(scores, len(predictions))
        return scores

    def _check_rows(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], meta: Sequence[Meta]
    ) -> None:
        lengths = {"predictions": len(predictions), "references": len(references), "meta": len(meta)}
        if len(set(lengths.values())) > 1 or not predictions:
            found = ", ".join(f"{count} {name}" for name, count in lengths.items())
            raise UserError(f"metric '{self.name}' needs as many of each, and at least one row; got {found}")
        for row, (prediction, answers, about) in enumerate(zip(predictions, references, meta, strict=True)):
            if not isinstance(prediction, str):
                raise UserError(f"prediction of row {row} is a {type(prediction).__name__}; it must be text")
            if isinstance(answers, str) or not answers or not all(isinstance(answer, str) for answer in answers):
                raise UserError(f"references of row {row} are {answers!r}; give a list of at least one text")
            for key in self.needs:
                if key not in about:
                    raise UserError(f"metric '{self.name}' needs meta['{key}'] in every row; row {row} has none")

    def _check_scores(self, scores: Scores, count: int) -> None:
        if scores.headline not in scores.values:
            raise UserError(f"metric '{self.name}' gave no value for its headline '{scores.headline}'")
        for name, value in scores.values.items():
            if not math.isfinite(value):
                raise UserError(f"metric '{self.name}' gave {value} for '{name}'; it must be a finite number")
        for name, values in scores.rows.items():
            if len(values) != count:
                raise UserError(f"metric '{self.name}' gave {len(values)} row values of '{name}' for {count} rows")


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one number, independent of their order."""
    return math.fsum(values) / len(values)


def mean_of_rows(name: str, values: Sequence[float]) -> Scores:
    """Return the scores of a metric that is the mean of its rows."""
    return Scores(headline=name, values={name: mean(values)}, rows={name: values})


def load_library(module: str, package: str) -> Any:
    """Import a module that only some metrics need.

    Raises:
        UserError: the package is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"this metric needs {package} ({error}); install it with: pip install 'raycurate[eval]'"
        ) from error
