"""What nouns are called, and the command that makes each of them."""

from __future__ import annotations

import re

from raycurate.run.store import Noun
from raycurate.stages.table import maker_of

ROW_SCORES = "row_scores"
SCORE_NET = "score_net"
MARKS = "marks"
BY_TASK = "by-task"
BY_TASK_NEED = f"ranking/{BY_TASK}"
EMBEDDINGS = ("last_token", "mean_token", "weighted_token", "visual", "attended", "gradients", "clip")
LABELLED = ("samples", "selection", "models")
"""Nouns whose labels users give: without it their command would make another one."""
PIECE = re.compile(r"(.+)\+[0-9a-f]{8}")
"""Labels of samples that are being read to be appended to others: `main+1a2b3c4d`."""
CLIP_EXAMPLE = "openai/clip-vit-large-patch14-336"


def command_for(noun: Noun) -> str:
    """What to type after `raycurate` to make a noun."""
    run, group = noun.run_uri, noun.label.rsplit("-", 1)[-1]
    if noun.noun == ROW_SCORES and group == "given":
        return f"score {run} --given FILE.parquet"
    if noun.noun == ROW_SCORES and group == SCORE_NET:
        label = "" if noun.label == SCORE_NET else f" --label {noun.label.removesuffix(f'-{SCORE_NET}')}"
        return f"finetune {run} --selection none --score-net clip{label}"
    if noun.noun == ROW_SCORES or (noun.noun == "features" and group in EMBEDDINGS):
        return f"score {run} --scores {group}" + (f" --clip {CLIP_EXAMPLE}" if group == "clip" else "")
    if noun.noun == "clusters" and noun.label != "main":
        return f"cluster {run} --features {noun.label} --label {noun.label} --clusters K"
    if noun.noun == MARKS:
        return _marks_command(noun)
    piece = PIECE.fullmatch(noun.label) if noun.noun == "samples" else None
    label = noun.label if piece is None else piece[1]
    named = f" --label {label}" if noun.noun in LABELLED and label != "main" else ""
    if piece is not None:
        return f"ingest MORE --append{named}"
    return f"{maker_of(noun.noun)}{named}"


def _marks_command(noun: Noun) -> str:
    """What made marks, or makes those of this name."""
    manifest = noun.manifest()
    description = {} if manifest is None else manifest.description
    stage = description.get("stage", "decontaminate" if noun.label.startswith("decontaminate") else "dedup")
    against = description.get("config", {}).get("against", "TEST")
    return f"decontaminate --against {against}" if stage == "decontaminate" else stage


def by_task_label(clusters: str) -> str:
    """The label of the order of each task's rows in a clustering."""
    return BY_TASK if clusters == "main" else f"{BY_TASK}-{clusters}"


def score_label(label: str, group: str) -> str:
    """The label of one group of scores, or of one embedding among the features."""
    return group if label == "main" else f"{label}-{group}"


def ranking_label(method: str, ratio: float | None = None) -> str:
    """The label of a method's own ranking, which no clustering has; with a ratio where each has a ranking."""
    return "by-" + re.sub(r"[^A-Za-z0-9._-]", "-", method) + ("" if ratio is None else f"-{ratio}")
