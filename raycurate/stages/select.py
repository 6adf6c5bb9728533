"""``select``: plan from small tables, cut exactly, decide every shard, count what was kept and tell what was starved.

    samples (+ ranking or clusters, scores) --plan on the driver--> quotas --cut by streaming counts--> boundaries
        --decide per shard--> selection

The method (``raycurate.selection``) is a function of arrays; here its blocks are shards. Rows of ``samples`` without
features or a score (quarantined before) are kept in the output as dropped, so the selection has one row per sample. A
method that orders groups of rows first has that done here, by ``rank``, if it is not done yet. With an envelope the
method is wrapped (``selection/enveloped.py``).

Cost: one pass over N rows of about 60 bytes, plus the passes of the cut where a method needs one, and those of the
envelope. No feature is read.

Rows that `dedup` or `decontaminate` has marked, or that do not meet `--where`, are never kept: the method plans, cuts
and decides over the others (`selection/remaining.py`), and the budget stays that part of all rows. Rows of an earlier
selection can stay kept (`selecting/kept.py`).
"""

from __future__ import annotations

import functools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycurate.config import RankConfig, SelectConfig
from raycurate.errors import UserError
from raycurate.estimate.formulas import table_work
from raycurate.plugins import source_hash
from raycurate.ray_session import in_session_unless
from raycurate.run.manifest import Manifest, ShardRecord
from raycurate.run.store import Noun, Run
from raycurate.samples.mixture import source_name
from raycurate.selection import Goal, Plan, SelectionTables, Selector, build_selector
from raycurate.selection.cells import add_counts, count_cells
from raycurate.selection.envelope import Envelope
from raycurate.selection.enveloped import Enveloped
from raycurate.selection.local import make_plan
from raycurate.selection.methods.by_rank import ByRank
from raycurate.selection.methods.by_score import ByScore
from raycurate.selection.ranked import Ranked
from raycurate.selection.remaining import Remaining, remaining_goal, remaining_tables
from raycurate.settings import make_config
from raycurate.stages.engine.foreseen import cpus_here, foresee
from raycurate.stages.engine.lineage import begin, required, why_stale
from raycurate.stages.engine.marked import honoured
from raycurate.stages.engine.names import MARKS, ROW_SCORES
from raycurate.stages.engine.shards import MapShards, describe, map_tasks, run_missing_shards, skip_if_done
from raycurate.stages.engine.sources import Sources, check_sources, ratio_of, sources_of
from raycurate.stages.rank import BY_TASK, rank
from raycurate.stages.selecting.auto import settled
from raycurate.stages.selecting.kept import KEPT_BEFORE, KeptBefore, check_room, count_kept, kept_before, least_ratio
from raycurate.stages.selecting.report import write_tables
from raycurate.stages.selecting.tables import cell_table, cluster_table
from raycurate.stages.selecting.weights import goal_of, own_power, weights_read
from raycurate.stages.selecting.where import WHERE, Condition, condition_of

NO_FEATURES, NO_SCORE = "no_features", "no_score"
LACKS, MARKED = "lacks", "marked"
LEAVE_ASIDE = ", or leave marks aside (--ignore-marks)"
ROWS_HERE = 500_000
"""Rows that one process reads and decides on in the seconds that a cluster takes to start."""
EachShard = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[Any]]
log = logging.getLogger("raycurate")


def check_target(ratio: float, num_rows: int) -> None:
    """Raise `UserError` for a ratio that keeps no row of a dataset that has some."""
    if num_rows and round(ratio * num_rows) == 0:
        raise UserError(
            f"ratio {ratio:g} of {num_rows:,} rows keeps none: round({ratio * num_rows:.3g}) is 0. The smallest ratio "
            f"that keeps one is {least_ratio(num_rows, 1)}"
        )


def _is_small(run: Run, config: SelectConfig) -> bool:
    """Whether one process selects as fast as a cluster starts."""
    samples = run.noun("samples", config.samples).manifest()
    return samples is not None and samples.rows_out <= ROWS_HERE


@in_session_unless(_is_small)
def select(run: Run, config: SelectConfig, map_shards: MapShards = map_tasks) -> Manifest:
    """Write the ``selection`` noun: per sample kept or not, cluster, rank, score, reason; and small tables.

    Args:
        map_shards: how a function is applied to many shards; `map_here` stays in this process.

    Raises:
        UserError: a wrong setting; what is missing or stale, with the command that makes it; weights of other tasks.
    """
    config, choice = settled(run, config)
    method = build_selector(config.method, config.options)
    samples = run.noun("samples", config.samples)
    sample_manifest = required(samples)
    tasks: dict[str, int] = sample_manifest.metrics["tasks"]
    goal = goal_of(run, config, method, tasks)
    check_target(config.ratio, sample_manifest.rows_out)
    inputs = select_inputs(run, config)
    sources = sources_of(run, config, method)
    marks, condition = marks_of(run, config), condition_of(config.where, sample_manifest)
    before = kept_before(run, config, sample_manifest)[0]
    read_now = [
        sample_manifest,
        *choice,
        *(required(noun, otherwise=LEAVE_ASIDE) for noun in marks),
        *(each.require("select") for each in sources.read),
        *weights_read(run, config)[1],
    ]
    description = describe("select", config, inputs, read_now)
    noun = run.noun("selection", config.label)
    if done := skip_if_done(noun, description):
        return done
    _tell_of_new_default(noun, config)
    begin(noun, description, replace=config.replace)
    foresee(noun, functools.partial(table_work, sample_manifest.rows_out), cpus=cpus_here(map_shards is map_tasks))
    selector = selector_of(method, config, marked=bool(marks or condition) or before is not None)
    read = functools.partial(read_rows, samples, sources, selector.columns, marks, condition, before)
    each_shard = functools.partial(map_shards, num_cpus=0.5, max_tasks=config.max_tasks)
    kept = Counter[str]() if before is None else count_kept(read, each_shard, sample_manifest.shards, MARKED)
    check_room(goal, sample_manifest.rows_out, kept.total(), config.keep_selected)
    plan, open_tasks = plan_selection(method, selector, goal, sources, sample_manifest, read, each_shard, kept.total())
    mixed = samples if "sources" in sample_manifest.metrics else None
    decide = functools.partial(_decide_shard, noun, selector, plan, read, mixed)
    run_missing_shards(
        "select",
        noun,
        decide,
        num_shards=sample_manifest.shards,
        total_rows=sample_manifest.rows_out,
        num_cpus=0.5,
        max_tasks=config.max_tasks,
        map_shards=map_shards,
    )
    metrics = write_tables(noun, plan, tasks, open_tasks, kept)
    for note in metrics.get("notes", ()):
        log.warning("%s/%s: %s", noun.noun, noun.label, note)
    return noun.finish(metrics=metrics)


def plan_selection(
    method: Selector,
    selector: Selector,
    goal: Goal,
    sources: Sources,
    samples: Manifest,
    read: Any,
    each_shard: EachShard,
    kept: int = 0,
) -> tuple[Plan, Mapping[str, int]]:
    """The plan with its cuts, from small tables and passes over the shards; and the rows of each task not marked.

    Args:
        method: itself.
        selector: the method as `selector_of` has it.
        goal: of all rows.
        sources: what is joined to the samples.
        samples: their manifest.
        read: the rows of a shard.
        each_shard: calls a function of each shard.
        kept: rows of the goal that an earlier selection has chosen.

    Raises:
        UserError: what the method raises, or fewer rows that are not marked than are asked for.
    """
    inside = selector.method if isinstance(selector, Enveloped) else selector
    tables = _tables(method, sources, samples, read, each_shard, marked=isinstance(inside, Remaining))
    shards = range(samples.shards)

    def each_block(function: Callable[[pa.Table], Any]) -> Iterator[Any]:
        return each_shard(lambda shard: function(unmarked(read(shard))), ((shard,) for shard in shards))

    plan = make_plan(selector, tables, remaining_goal(goal, samples.rows_out, tables.num_rows, kept), each_block)
    return plan, tables.tasks or samples.metrics["tasks"]


def selector_of(method: Selector, config: SelectConfig, *, marked: bool) -> Selector:
    """The method as it is run: over the rows that are not marked, where some are, and inside its envelope."""
    return enveloped(Remaining(method=method) if marked else method, config)


def _tables(
    method: Selector, sources: Sources, samples: Manifest, read: Any, each_shard: EachShard, *, marked: bool
) -> SelectionTables:
    """The small tables of the rows that can be chosen."""
    tables = SelectionTables(
        num_rows=samples.rows_out,
        tasks=samples.metrics["tasks"],
        clusters=cluster_table(sources),
        cells=cell_table(sources),
        num_usable=_num_usable(method, sources, read, samples.shards, each_shard, marked=marked),
    )
    if not marked:
        return tables

    def count(shard: int) -> tuple[dict[str, int], list[tuple[str, int, int]]]:
        rows = unmarked(read(shard))
        return dict(Counter(rows["task"].to_pylist())), count_cells(rows) if "cluster" in rows.column_names else []

    tasks: Counter[str] = Counter()
    cells = []
    for of_tasks, of_cells in each_shard(count, ((shard,) for shard in range(samples.shards))):
        tasks.update(of_tasks)
        cells.append(of_cells)
    return remaining_tables(tables, tasks, add_counts(cells))


def enveloped(method: Selector, config: SelectConfig) -> Selector:
    """The method inside its envelope; the method itself where there is none."""
    bounds = config.envelope
    if bounds is None:
        return method
    cap = math.inf if bounds.cap is None else bounds.cap
    return Enveloped(method=method, envelope=Envelope(floor=bounds.floor, cap=cap, random_share=bounds.random_share))


def _tell_of_new_default(noun: Noun, config: SelectConfig) -> None:
    """Warn where a selection is made again by the default, and was made by a method that no setting names now."""
    manifest = noun.manifest()
    before = None if manifest is None else manifest.description.get("config", {}).get("method")
    if before is not None and before != config.method and "method" not in config.model_fields_set:
        log.warning(
            "%s/%s was made by '%s' and is made again by '%s', as no method is named; `--method %s` keeps to that one",
            noun.noun,
            noun.label,
            before,
            config.method,
            before,
        )


def select_inputs(run: Run, config: SelectConfig) -> dict[str, str]:
    """Fingerprint by noun of what a selection is made from, checked; rows are ranked where that is needed."""
    samples = required(run.noun("samples", config.samples))
    selector = build_selector(config.method, config.options)
    sources = sources_of(run, config, selector)
    check_sources(sources, samples)
    _rank_if_stale(run, config, selector, sources)
    joined = {noun.label if noun.noun == ROW_SCORES else noun.noun: noun for noun in sources.joined}
    inputs = {"samples": samples.fingerprint} | {name: required(noun).fingerprint for name, noun in joined.items()}
    if sources.measured is not None:
        inputs["measured"] = required(sources.measured).fingerprint
    inputs |= {
        f"{MARKS}/{noun.label}": required(noun, of=samples, otherwise=LEAVE_ASIDE).fingerprint
        for noun in marks_of(run, config)
    }
    inputs |= weights_read(run, config)[0] | kept_before(run, config, samples)[1]
    if config.task_power is None and own_power(selector) != 1:
        inputs["task_power"] = str(own_power(selector))  # another default makes a selection stale
    own = source_hash(config.method)
    return inputs if own is None else {**inputs, "method": own}


def marks_of(run: Run, config: SelectConfig) -> list[Noun]:
    """The marks whose rows are left out."""
    return honoured(run, config.samples, config.marks)


def _rank_if_stale(run: Run, config: SelectConfig, selector: Selector, sources: Sources) -> None:
    """Rank where that was not done yet, or was done from something that is gone."""
    if sources.ranking is None or sources.features is None:
        return
    settings = {"features": sources.features.label, "scores": config.scores}
    if sources.clusters is not None:
        settings["clusters"] = sources.clusters.label
    if isinstance(selector, Ranked):
        names = getattr(selector, "rank_options", config.options)
        options = {name: value for name, value in config.options.items() if name in names}
        if (ratio := ratio_of(config, selector)) is not None:
            options["ratio"] = ratio
        own = {"label": sources.ranking.label, "order": config.method, "options": options}
        rank(run, make_config(RankConfig, {**settings, **own}))
        return
    assert sources.clusters is not None, "greedy MMD orders clusters"
    for noun in filter(None, (sources.measured, sources.ranking)):
        ranking = noun.manifest()
        if ranking is None or why_stale(noun, ranking) is not None or noun.lost_files(ranking):
            order = {} if noun.label == sources.clusters.label else {"order": BY_TASK}
            rank(run, make_config(RankConfig, {**settings, **order, "label": noun.label}))


def _num_usable(
    selector: Selector, sources: Sources, read: Any, num_shards: int, each_shard: EachShard, *, marked: bool
) -> int | None:
    """Rows that can be kept: those that are not marked and everything joined has and, by score, those with one.

    One streaming count, unless one noun is joined of which every row can be kept.
    """
    if not sources.joined:
        return None
    plain = isinstance(selector, ByRank) or not isinstance(selector, ByScore)
    if len(sources.joined) == 1 and plain and not marked:
        return required(sources.joined[0]).rows_out

    def count(shard: int) -> int:
        rows = unmarked(read(shard))
        if isinstance(selector, ByScore):
            return int(np.count_nonzero(selector.takes_part(rows)))
        return int(rows[LACKS].null_count)

    return sum(each_shard(count, ((shard,) for shard in range(num_shards))))


def read_rows(
    samples: Noun,
    sources: Sources,
    columns: frozenset[str],
    marks: Sequence[Noun],
    condition: Condition | None,
    before: KeptBefore | None,
    shard: int,
) -> pa.Table:
    """The rows of one shard as methods see them: key, task, what was joined, what a row lacks, and why it is marked."""
    rows = samples.read_part(shard, ["key", "source_id", "task"])
    lacks = pa.nulls(rows.num_rows, pa.string())
    for noun in sources.joined:
        found = noun.read_part(shard)
        where = pc.index_in(rows["key"], value_set=found["key"].combine_chunks()).combine_chunks()
        for name in found.column_names:
            if name not in rows.column_names and name in {*columns, "cluster", "similarity", "rank"}:
                rows = rows.append_column(name, found[name].take(where))
        scored = noun.noun == ROW_SCORES or sources.ranking_scores is not None
        lacks = pc.if_else(pc.is_null(where), pa.scalar(NO_SCORE if scored else NO_FEATURES), lacks)
    marked = pa.nulls(rows.num_rows, pa.string())
    for noun in marks:
        found = noun.read_part(shard, ["key", "reason"])
        assert rows["key"].equals(found["key"]), f"samples and {noun.noun}/{noun.label} differ in shard {shard}"
        marked = pc.coalesce(marked, found["reason"])
    if condition is not None:
        marked = pc.if_else(condition.unmet(samples, shard), pc.coalesce(marked, pa.scalar(WHERE)), marked)
    if before is not None:
        kept = pc.if_else(before.among(rows["key"], shard), KEPT_BEFORE, pa.scalar(None, pa.string()))
        marked = pc.coalesce(marked, kept)
    return rows.append_column(LACKS, lacks).append_column(MARKED, marked)


def unmarked(rows: pa.Table) -> pa.Table:
    """The rows that can be chosen."""
    return rows if rows[MARKED].null_count == rows.num_rows else rows.filter(rows[MARKED].is_null())


def _decide_shard(noun: Noun, selector: Selector, plan: Plan, read: Any, mixed: Noun | None, shard: int) -> ShardRecord:
    """Task: which rows of one shard stay; counted by source as well where the samples are `mixed`."""
    rows: pa.Table = read(shard)
    open_N = rows[MARKED].is_null().to_numpy()
    made = selector.decide(plan, unmarked(rows))
    kept_N, score_N = np.zeros(rows.num_rows, dtype=bool), np.full(rows.num_rows, np.nan)
    kept_N[open_N], score_N[open_N] = made.kept_N, made.score_N
    reasons = np.array(rows[MARKED].to_pylist(), dtype=object)
    kept_N |= reasons == KEPT_BEFORE
    reasons[open_N] = made.reason_N.astype(object)
    lacks_N = np.array(rows[LACKS].to_pylist(), dtype=object)
    reasons = np.where(rows[LACKS].is_valid().to_numpy() & open_N, lacks_N, reasons)
    clusters = rows["cluster"] if "cluster" in rows.column_names else pa.nulls(rows.num_rows, pa.int32())
    table = pa.table(
        {
            "key": rows["key"],
            "source_id": rows["source_id"],
            "task": rows["task"],
            "kept": pa.array(kept_N, pa.bool_()),
            "cluster": clusters,
            "rank": rows["rank"] if "rank" in rows.column_names else pa.nulls(rows.num_rows, pa.int64()),
            "score": pa.array(score_N, pa.float64()),
            "reason": pa.array(reasons.tolist(), pa.string()),
        }
    )
    kept = table.filter(table["kept"])
    by_cluster = Counter(zip(table["cluster"].to_pylist(), table["task"].to_pylist(), strict=True))
    extra = {
        "kept": kept.num_rows,
        "kept_tasks": dict(Counter(kept["task"].to_pylist())),
        "kept_clusters": list(Counter(kept["cluster"].to_pylist()).items()),
        "cluster_tasks": [[c, t, n] for (c, t), n in by_cluster.items() if c is not None],
        "reasons": dict(Counter(table["reason"].to_pylist())),
    }
    if mixed is not None:
        files = mixed.read_part(shard, ["source_file"])["source_file"].filter(table["kept"])
        extra["kept_sources"] = dict(Counter(map(source_name, files.to_pylist())))
    return noun.commit_part(shard, table, rows_in=rows.num_rows, extra=extra)
