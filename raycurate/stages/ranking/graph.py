"""``rank`` for methods that walk on a graph: neighbours in parts on the whole cluster, then one task that orders.

    features (+ scores) --search--> parts of the graph --order--> rows by sample shard

Each search task reads the features of all rows that have a score, in the order of the keys, and finds the neighbours of
its own blocks (``selection/neighbours.py``): the graph is the same for any number of tasks. The ordering task reads
keys, scores and the graph, no features.

Cost: a search task takes half of a node, so that a caller that holds some of its CPUs itself does not wait for ever.
There are as many as fit into the cluster at once, at most one for ``PART_ROWS`` rows, since each builds the index
again. Memory: what the method says of a search task, which Ray is told, so that two share a node only where both fit.
"""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycurate.config import RankConfig
from raycurate.features.rows import features_of_table
from raycurate.ray_session import cluster_cpus, largest_node_cpus, largest_node_memory
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun
from raycurate.selection.neighbours import FoundPart, join_parts, search_part
from raycurate.selection.ranked import RankedOnGraph
from raycurate.stages.engine.shards import resumable_steps, stage_progress, step_name
from raycurate.stages.engine.shuffle import sort_table
from raycurate.stages.ranking.inputs import RankInputs
from raycurate.stages.ranking.rows import ranked_rows, write_ranked

PART_ROWS = 16_384


def rank_on_graph(
    noun: Noun, inputs: RankInputs, config: RankConfig, method: RankedOnGraph, manifest: Manifest, memory: int
) -> int:
    """Write all rows with their ranks, by sample shard; the number of files written.

    Args:
        memory: bytes that a search task takes.
    """
    cpus = max(1.0, largest_node_cpus() // 2)
    parts = max(1, min(int(cluster_cpus() // cpus), -(-manifest.rows_out // PART_ROWS)))
    step = f"graph-{parts}"
    search = functools.partial(_search_part, noun, inputs, method, manifest.shards, step, parts)
    order = functools.partial(_order_rows, noun, inputs, method, manifest.shards, step, parts)
    memory = min(memory, largest_node_memory())
    with stage_progress("rank", noun, 2 * manifest.rows_out, "row passes") as progress:
        searched = resumable_steps(
            noun, step, search, [()] * parts, num_cpus=cpus, memory=memory, max_tasks=config.max_tasks
        )
        for _, found in searched:
            progress.advance(found["rows"])
        for _, ordered in resumable_steps(noun, "ranked", order, [()]):
            progress.advance(ordered["rows"])
    return 1


def _search_part(
    noun: Noun, inputs: RankInputs, method: RankedOnGraph, shards: int, step: str, parts: int, number: int
) -> dict[str, Any]:
    """Task: the neighbours of every ``parts``-th block of rows."""
    features_ND = _features_of(inputs, shards, _all_rows(inputs, shards))
    found = search_part(features_ND, method.neighbours, number, parts, exact_rows=method.exact_rows)
    content = io.BytesIO()
    np.savez(content, rows=found.rows_B, ids=found.ids_BK, cosine=found.cosine_BK)
    noun.write_bytes(step_name(step, number, "npz"), content.getvalue())
    return {"rows": len(found.rows_B)}


def _order_rows(
    noun: Noun, inputs: RankInputs, method: RankedOnGraph, shards: int, step: str, parts: int, number: int
) -> dict[str, Any]:
    """Task: order all rows by their scores and the whole graph."""
    rows = _all_rows(inputs, shards)
    graph = join_parts([_read_part(noun, step_name(step, part, "npz")) for part in range(parts)])
    made = method.rank_on_graph(rows["score"].to_numpy(), graph)
    rows = rows.append_column("similarity", pa.nulls(rows.num_rows, pa.float32()))
    write_ranked(noun, number, ranked_rows(rows, None, made))
    return {"rows": rows.num_rows}


def _read_part(noun: Noun, name: str) -> FoundPart:
    with noun.filesystem.open_input_file(f"{noun.folder}/{name}") as source, np.load(source) as found:
        return FoundPart(found["rows"], found["ids"], found["cosine"])


def _all_rows(inputs: RankInputs, shards: int) -> pa.Table:
    """Key, score, shard and row of the rows that can be ranked, by key."""
    tables = []
    for shard in range(shards):
        rows = inputs.features.read_part(shard, ["key"])
        rows = rows.append_column("score", inputs.scores_of(shard, rows["key"]))
        rows = rows.append_column("shard", pa.array(np.full(rows.num_rows, shard, dtype=np.int32)))
        rows = rows.append_column("row", pa.array(np.arange(rows.num_rows, dtype=np.int32)))
        tables.append(rows if inputs.scores is None else rows.filter(rows["score"].is_valid()))
    return sort_table(pa.concat_tables(tables), "key")


def _features_of(inputs: RankInputs, shards: int, rows: pa.Table) -> NDArray[Any]:
    """The features of these rows, [N, D]: filled one shard at a time, so that they are held once."""
    shard_N, row_N = rows["shard"].to_numpy(), rows["row"].to_numpy()
    order_N = np.argsort(shard_N, kind="stable")
    ends_S = np.searchsorted(shard_N[order_N], np.arange(shards), side="right")
    features_ND = None
    for shard, where_B in enumerate(np.split(order_N, ends_S[:-1])):
        part_BD = features_of_table(inputs.features.read_part(shard, ["features"]))
        if features_ND is None:
            features_ND = np.empty((len(shard_N), part_BD.shape[1]), dtype=part_BD.dtype)
        features_ND[where_B] = part_BD[row_N[where_B]]
    assert features_ND is not None
    return features_ND
