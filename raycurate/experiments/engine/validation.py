"""Whether validation rows can say anything of a method: enough of them, and none that it trains on or was aimed at.

A row's key is a hash of its content: a row of the validation set that is also a row to choose from has its key there.
Marked rows do not count: no method trains on them. Cost: the keys of all samples, shard by shard; memory: the keys of
the validation rows.
"""

from __future__ import annotations

import logging

import pyarrow as pa
import pyarrow.compute as pc

from raycurate.errors import UserError
from raycurate.evaluation.config import settings_of_line
from raycurate.evaluation.paired import LEAST_CLUSTERS
from raycurate.experiments.engine.choose_config import ChooseConfig
from raycurate.run.manifest import Manifest
from raycurate.run.store import Run
from raycurate.samples.shard import content_of
from raycurate.selection import build_selector
from raycurate.selection.ranked import RankedByTargets
from raycurate.stages.engine.marked import honoured

log = logging.getLogger("raycurate")


def check_validation(run: Run, config: ChooseConfig, samples: Manifest, validation: Manifest) -> None:
    """Look at the validation rows before the first training.

    Raises:
        UserError: too few rows of every task, or no row that the trainings cannot have learned by heart.
    """
    most = max(validation.metrics["tasks"].values(), default=0)
    if most < LEAST_CLUSTERS:
        raise UserError(
            f"no task of samples/{config.data} has more than {most} rows; an error needs questions about at least "
            f"{LEAST_CLUSTERS} images in a task, so nothing could be proven. Give more validation rows"
        )
    for method in config.contestants:
        _check_targets(run, config, method, validation)
    known = shared_rows(run, config, samples.shards)
    if not known:
        return
    told = f"{known:,} of {validation.rows_out:,} rows of samples/{config.data} are rows to choose from"
    fix = f"`raycurate decontaminate {run.uri} --against {config.data}` marks these, and no method trains on them"
    if known >= validation.rows_out:
        raise UserError(f"{told}: what was learned by heart would count. Give other rows, or {fix}")
    log.warning("choose: %s, where what was learned by heart counts: %s", told, fix)


def _check_targets(run: Run, config: ChooseConfig, method: str, validation: Manifest) -> None:
    """Raise `UserError` where a method looks at the rows that judge it."""
    settings = settings_of_line(method, config.options, config.variants)
    selector = build_selector(settings["method"], settings.get("options", {}))
    if not isinstance(selector, RankedByTargets):
        return
    fix = (
        f"Give it others: `raycurate ingest FILE --out {run.uri} --label {selector.targets} --set hash_range=[0,0.5]` "
        "takes one half of the validation rows, [0.5,1] under another label the half that judges (--validation LABEL)"
    )
    if selector.targets == config.data:
        raise UserError(f"'{method}' looks at samples/{config.data}, which also judge it. {fix}")
    asked, seen = (_contents(run, label) for label in (config.data, selector.targets))
    both = int(pc.sum(pc.is_in(asked, value_set=seen)).as_py() or 0)
    if 2 * both > validation.rows_out:
        raise UserError(
            f"'{method}' looks at samples/{selector.targets}, which have {both:,} of the {validation.rows_out:,} rows "
            f"of samples/{config.data} that judge it; at most half may be the same. {fix}"
        )
    if both:
        log.warning("choose: '%s' looks at %d of the %d rows that judge it", method, both, validation.rows_out)


def _contents(run: Run, label: str) -> pa.Array:
    """What the keys of all samples of a label say of their content; none where the samples are not there."""
    noun = run.noun("samples", label)
    if noun.manifest() is None:  # whoever ranks by them names the command that makes them
        return pa.array([], pa.string())
    return content_of(pa.concat_tables(noun.iter_parts(["key"]))["key"])


def shared_rows(run: Run, config: ChooseConfig, shards: int) -> int:
    """Validation rows that are also rows to choose from and are not marked."""
    asked = _contents(run, config.data)
    samples, marks = run.noun("samples", config.samples), honoured(run, config.samples, None)
    known = asked.slice(0, 0)
    for shard in range(shards):
        rows = samples.read_part(shard, ["key"])
        for noun in marks:
            marked = noun.read_part(shard, ["key", "reason"])
            rows = rows.filter(pc.is_in(rows["key"], value_set=marked.filter(pc.is_null(marked["reason"]))["key"]))
        held = content_of(rows["key"])
        known = pc.unique(pa.concat_arrays([known, held.filter(pc.is_in(held, value_set=asked))]))
    return int(pc.sum(pc.is_in(asked, value_set=known)).as_py())
