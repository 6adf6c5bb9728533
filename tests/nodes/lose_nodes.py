"""The program behind `test_lost_nodes.py`: a cluster of two working nodes, of which each stage loses one.

    python tests/nodes/lose_nodes.py FOLDER     writes FOLDER/found.json: what every stage lost and made again

Each stage is run undisturbed and then again while the node of one of its workers is killed. It ends on the node that is
left; a new one comes between the stages.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from raycurate.config import ClusterConfig, ExtractConfig, RankConfig, ScoreConfig
from raycurate.experiments import sweep as sweeps
from raycurate.experiments.engine.config import SweepConfig
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages import cluster as cluster_stage
from raycurate.stages import extract as extract_stage
from raycurate.stages import score as score_stage
from raycurate.stages.finetune import finetune
from raycurate.stages.rank import rank
from raycurate.stages.workers.extract import ExtractionActor
from raycurate.stages.workers.score import ScoringActor
from raycurate.training.config import FinetuneConfig
from tests.nodes.simulated import Nodes, same, times, under_fire, working_nodes

CALM, STRUCK = "calm", "struck"
POOL = {
    "window_rows": 16,
    "batch_rows": 8,
    "min_actors": 2,
    "max_actors": 2,
    "cpus_per_actor": 0.75,
    "cpus_per_loader": 0.5,
}


def note(log: Path, *values: Any) -> None:
    """Append a line that begins with the node of this process."""
    with open(log, "a", encoding="utf-8") as stream:
        stream.write(json.dumps([ray.get_runtime_context().get_node_id(), *values]) + "\n")


def notes(log: Path) -> list[list[Any]]:
    """All lines so far."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def counted(actor: type[Any], method: str, log: Path) -> type[Any]:
    """A slow actor that writes down every batch that it makes."""

    def make(self: Any, row: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.2)
        line: dict[str, Any] = getattr(actor, method)(self, row)
        note(log, line["shard"], line["window"], line["batch"], line["rows"])
        return line

    return type(actor.__name__, (actor,), {method: make})


def lose_in_pool(nodes: Nodes, run: Run, log: Path, noun: str, label: str, start: Callable[[], Any]) -> dict[str, Any]:
    """Kill the node of the actor that made the last batch, once a shard is committed."""
    struck = run.noun(noun, label)
    before: dict[int, int] = {}

    def victim() -> str | None:
        records = struck.records()
        if not records:
            return None
        before.update(times(struck, list(records)))
        return str(notes(log)[-1][0])

    under_fire(nodes, start, victim)
    batches = notes(log)
    rows = {tuple(batch[1:4]): batch[4] for batch in batches}
    return {
        "rows": sum(rows.values()),
        "rows_made_again": sum(batch[4] for batch in batches) - sum(rows.values()),
        "rows_committed_before": sum(record.rows_in for s, record in struck.records().items() if s in before),
        "committed_parts_kept": times(struck, list(before)) == before,
    }


def lose_in_extract(nodes: Nodes, run: Run, folder: Path) -> dict[str, Any]:
    """Of two extraction actors, one on each node."""

    def extract(label: str) -> None:
        values = {"model": str(folder / "model"), **POOL, "label": label}
        extract_stage.extract(run, make_config(ExtractConfig, values))

    extract(CALM)
    log = folder / "extract.log"
    extract_stage.ExtractionActor = counted(ExtractionActor, "_extract", log)
    found = lose_in_pool(nodes, run, log, "features", STRUCK, lambda: extract(STRUCK))
    extract_stage.ExtractionActor = ExtractionActor
    return {**found, "same": same(run, "features", ["key", "features"], (CALM, STRUCK))}


def lose_in_score(nodes: Nodes, run: Run, folder: Path) -> dict[str, Any]:
    """Of two scoring actors, one on each node."""

    def score(label: str) -> None:
        values = {"model": str(folder / "model"), "scores": ["token_losses"], **POOL, "label": label}
        score_stage.score(run, make_config(ScoreConfig, values))

    score(CALM)
    log = folder / "score.log"
    score_stage.ScoringActor = counted(ScoringActor, "_make", log)
    labels = (f"{CALM}-token_losses", f"{STRUCK}-token_losses")
    found = lose_in_pool(nodes, run, log, "row_scores", labels[1], lambda: score(STRUCK))
    score_stage.ScoringActor = ScoringActor
    return {**found, "same": same(run, "row_scores", ["key", "loss", "loss_blind", "el2n", "aum"], labels)}


def lose_in_cluster(nodes: Nodes, run: Run, _: Path) -> dict[str, Any]:
    """Kill the node of a k-means worker after its third iteration."""
    settings = {
        "clusters": 8,
        "iterations": 6,
        "tolerance": 0.0,
        "workers": 2,
        "cpus_per_worker": 1,
        "features": CALM,
        "threads": 1,
    }
    iterations: list[int] = []
    target: list[str] = []
    reached, struck = threading.Event(), threading.Event()
    iterate, save = cluster_stage.Fit._iterate, cluster_stage.Fit._save

    def counted_iterate(self: Any) -> None:
        iterations.append(self.state.upcoming)
        iterate(self)

    def save_and_wait(self: Any, *, force: bool) -> None:
        save(self, force=force)
        if self.state.upcoming == 3 and not reached.is_set():
            actor = self.pool.actors[1]
            where = ray.get(actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()))
            target.append(where)
            reached.set()
            struck.wait()

    strike = nodes.strike

    def strike_and_tell(node_id: str) -> None:
        strike(node_id)
        struck.set()

    cluster_stage.CHECKPOINT_SHARE = float("inf")
    cluster_stage.cluster(run, make_config(ClusterConfig, {**settings, "label": CALM}))
    cluster_stage.Fit._iterate, cluster_stage.Fit._save = counted_iterate, save_and_wait
    nodes.strike = strike_and_tell  # type: ignore[method-assign]
    under_fire(
        nodes,
        lambda: cluster_stage.cluster(run, make_config(ClusterConfig, {**settings, "label": STRUCK})),
        lambda: target[0] if reached.is_set() else None,
    )
    nodes.strike = strike  # type: ignore[method-assign]
    cluster_stage.Fit._iterate, cluster_stage.Fit._save = iterate, save
    return {
        "iterations": 6,
        "iterations_started": len(iterations),
        "same": same(run, "clusters", ["key", "cluster", "similarity"], (CALM, STRUCK)),
    }


def lose_in_sweep(nodes: Nodes, run: Run, folder: Path) -> dict[str, Any]:
    """Kill the node of the trial that started last, once two trials have their result."""
    rank(run, make_config(RankConfig, {"features": CALM, "clusters": CALM, "label": CALM}))
    log = folder / "sweep.log"
    measure = sweeps.measure_selection

    def slow_measure(noun: Any, manifest: Any, reference: Any) -> dict[str, Any]:
        note(log, noun.label)
        time.sleep(1)
        return measure(noun, manifest, reference)

    def sweep(label: str) -> None:
        values = {"temperatures": [0.05, 0.2], "ratios": [0.1, 0.2, 0.4], "clusters": CALM, "frequencies": 16}
        sweeps.sweep(
            run, make_config(SweepConfig, {**values, "cpus_per_trial": 1, "max_concurrent": 4, "label": label})
        )

    sweep(CALM)
    shutil.rmtree(Path(run.noun("selection", CALM).folder).parent)  # both sweeps name their selections alike
    sweeps.measure_selection = slow_measure
    results = Path(run.noun("sweeps", STRUCK).folder, "measured")
    before: dict[str, int] = {}

    def victim() -> str | None:
        done = list(results.glob("*.json"))
        if len(done) < 2:
            return None
        before.update({path.name: path.stat().st_mtime_ns for path in done})
        return str(notes(log)[-1][0])

    under_fire(nodes, lambda: sweep(STRUCK), victim)
    sweeps.measure_selection = measure
    tables = [run.noun("sweeps", label).read_json("results.json")["trials"] for label in (CALM, STRUCK)]
    for table in tables:
        for trial in table:
            trial.pop("label", None)
            trial.pop("selection", None)
    runs = Counter(label for _, label in notes(log))
    return {
        "trials": len(tables[0]),
        "runs": sum(runs.values()),
        "at_once": 4,
        "results_kept": {name: (results / name).stat().st_mtime_ns for name in before} == before,
        "same": tables[0] == tables[1],
    }


def lose_in_finetune(nodes: Nodes, run: Run, folder: Path) -> dict[str, Any]:
    """Kill the node of rank 0 once a checkpoint is complete."""
    config = FinetuneConfig(
        model=str(folder / "model"),
        selection=None,
        batch_rows=8,
        lora_rank=4,
        lora_alpha=8,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=5,
        workers=2,
        cpus_per_worker=1,
        threads=1,
        trackers=(),
    )
    finetune(run, config.model_copy(update={"label": CALM}))
    noun = run.noun("models", STRUCK)

    def victim() -> str | None:
        try:
            json.loads(Path(noun.folder, "checkpoints", "complete.json").read_text())
            return nodes.of_process(json.loads(Path(noun.folder, "step.json").read_text())["pid"])
        except (OSError, ValueError):
            return None

    under_fire(nodes, lambda: finetune(run, config.model_copy(update={"label": STRUCK})), victim)
    calm, struck = (run.noun("models", label) for label in (CALM, STRUCK))
    losses = [[entry["loss"] for entry in noun.read_json("history.json")] for noun in (calm, struck)]
    metrics = [noun.require("finetune").metrics for noun in (calm, struck)]
    return {
        "steps": metrics[1]["steps"],
        "save_steps": config.save_steps,
        "resumed_from": metrics[1]["resumed_from"],
        "rows_seen": [each["rows_seen"] for each in metrics],
        "largest_difference_of_losses": max(abs(a - b) for a, b in zip(*losses, strict=True)),
    }


def main(folder: Path) -> None:
    """All stages, one after the other."""
    stages: dict[str, Callable[[Nodes, Run, Path], dict[str, Any]]] = {
        "extract": lose_in_extract,
        "score": lose_in_score,
        "cluster": lose_in_cluster,
        "sweep": lose_in_sweep,
        "finetune": lose_in_finetune,
    }
    found = {}
    with working_nodes(2, folder, rows_per_shard=40) as (nodes, run):
        for name, lose in stages.items():
            nodes.grow(2)
            found[name] = lose(nodes, run, folder)
            sys.stderr.write(f"{name} {found[name]}\n")
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
