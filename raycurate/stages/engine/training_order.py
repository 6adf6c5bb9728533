"""What the order of a training reads: losses of rows, or clusters and how well they transfer."""

from __future__ import annotations

from raycurate.run.manifest import Manifest
from raycurate.run.store import Run
from raycurate.stages.engine.lineage import required
from raycurate.stages.engine.names import ROW_SCORES, score_label
from raycurate.training.config import FinetuneConfig
from raycurate.training.order import OrderSource


def order_source(run: Run, config: FinetuneConfig) -> tuple[OrderSource | None, list[Manifest]]:
    """Where the numbers of the rows are, and what is read for them; None and nothing for shuffled rows.

    Raises:
        UserError: what is not there, with the command that makes it, or is of other samples.
    """
    if config.order is None:
        return None, []
    samples = required(run.noun("samples", config.samples))
    if config.order_by == "loss":
        scores = run.noun(ROW_SCORES, score_label(config.order_scores or "main", "token_losses"))
        return OrderSource(config.order, scores), [required(scores, of=samples)]
    clusters = run.noun("clusters", config.order_clusters or "main")
    ranking = run.noun("ranking", clusters.label)
    read = [required(clusters, of=samples), required(ranking, of=samples)]
    return OrderSource(config.order, clusters, ranking), read
