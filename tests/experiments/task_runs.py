"""A run whose tasks have training, validation and test rows, and a metric that a random model scores above zero in."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycurate.run.store import Run
from raycurate.samples.schema import SAMPLE_SCHEMA, sample_to_row
from tests.training.made_runs import made_sample

FINETUNE = {
    "method": "full",
    "learning_rate": 0.003,
    "batch_rows": 4,
    "micro_batch": 4,
    "trackers": [],
    "threads": 1,
}
EVALUATE = {"max_rows_per_task": 3, "max_new_tokens": 3, "metrics": {"*": "tests.experiments.task_runs:closeness"}}


def closeness(predictions: Sequence[str], references: Sequence[Sequence[str]], meta: Sequence[Mapping[str, Any]]):
    """How alike the characters are, above zero always."""
    ratios = [difflib.SequenceMatcher(None, p, r[0]).ratio() for p, r in zip(predictions, references, strict=True)]
    return 0.01 + sum(ratios) / len(ratios)


def write_samples(folder: Path, **rows: range) -> Run:
    """A run with these sample numbers under each label."""
    run = Run(str(folder))
    for label, numbers in rows.items():
        noun = run.noun("samples", label)
        noun.begin({"stage": "ingest", "config": {"images": None}, "rows": [numbers.start, numbers.stop]})
        made = [made_sample(number) for number in numbers]
        table = pa.Table.from_pylist([sample_to_row(sample) for sample in made], schema=SAMPLE_SCHEMA)
        noun.commit_part(0, table, rows_in=len(made))
        noun.finish(metrics={"tasks": dict(Counter(sample.task for sample in made))})
    return run
