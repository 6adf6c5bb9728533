"""``evaluate``: a model's answers to a test set over Ray Data, and their scores.

    shards --loader tasks (CPU: read, decode, tokenise, pack)--> batches --actor pool: generate--> answers --commit-->
        predictions --metrics by task--> scores

Two nouns are written. ``predictions`` has one row per question and resumes by shard; ``scores`` has the same rows with
the numbers of each, and ``scores.json`` (task -> metric -> number), so other metrics do not generate again. A shard's
batches depend on its rows and the config only, not on the number of actors or the order in which they come.

With ``command`` an external evaluator scores the merged checkpoint instead, as one task with a GPU where there are.

Cost: one prefill per question and one decoder pass per answer token and batch. Memory: a loader holds one window, an
actor one batch and its cache, the driver the answers of the shards in flight; scoring holds the test set's answers.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import hashlib
import logging
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from raycurate.errors import UserError, unknown_name
from raycurate.evaluation.config import EvaluateConfig
from raycurate.evaluation.external import named_files
from raycurate.evaluation.scoring import Annotation, AnnotationKey, parse_annotations, score_answers
from raycurate.evaluation.tasks import fits_of
from raycurate.models.file_hashes import hash_files
from raycurate.models.source import image_backend
from raycurate.plugins import source_hash
from raycurate.ray_session import in_session
from raycurate.run.filesystem import exists, read_bytes, resolve
from raycurate.run.manifest import Manifest, ShardRecord
from raycurate.run.progress import Progress
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.actor_pool import drive_pipeline, gpus_of, pool_dataset
from raycurate.stages.engine.checkpoints import (
    Checkpoint,
    CheckpointFacts,
    checkpoint_facts,
    find_checkpoint,
    merged_folder,
    trained_by,
)
from raycurate.stages.engine.image_check import check_images
from raycurate.stages.engine.lineage import begin, required
from raycurate.stages.engine.rejects import check_rejects
from raycurate.stages.engine.shards import MapShards, describe, get_result, map_here, map_tasks, skip_if_done
from raycurate.stages.workers.evaluate import (
    ANSWER_FIELDS,
    AnsweringActor,
    AskedRows,
    commit_answers,
    engine_version,
    key_hash,
    load_questions,
)
from raycurate.stages.workers.fragments import accepted_images
from raycurate.stages.workers.windows import loader_memory

SCORES_FILE = "scores.json"
NOT_OF_PREDICTIONS = ("metrics", "annotations", "command")
SCORED_SCHEMA = pa.schema(
    [*ANSWER_FIELDS, ("references", pa.list_(pa.string())), ("scores", pa.map_(pa.string(), pa.float64()))]
)
log = logging.getLogger("raycurate")


@in_session
def evaluate(run: Run, config: EvaluateConfig, *, in_process: bool = False) -> Manifest:
    """Write the ``scores`` noun, and ``predictions`` where no external evaluator is used.

    Args:
        run: where everything is read and written.
        config: the settings.
        in_process: answer and score in this process, without tasks and actors.

    Raises:
        UserError: a model that cannot be loaded, metrics or annotations that do not fit the tasks, no answers.
    """
    gpus = gpus_of(config)
    checkpoint = find_checkpoint(run, config.model)
    asked = (checkpoint, config.dtype, gpus > 0, config.trust_remote_code)
    map_shards: MapShards = map_here if in_process else map_tasks
    facts = next(map_shards(checkpoint_facts, [asked], num_cpus=0.5))
    if config.command is not None:
        return _evaluate_outside(run, config, checkpoint, facts, None if in_process else gpus)
    assert config.data is not None, "the config has data or command"
    samples = run.noun("samples", config.data)
    sample_manifest = required(samples)
    check_images(samples, sample_manifest, config.images or sample_manifest.description["config"].get("images"))
    annotations, digest = _read_annotations(config.annotations)
    _check_metrics(run, config, sample_manifest, annotations)
    engine = {}
    if config.engine is not None:
        engine["engine"] = next(map_shards(engine_version, [(config.engine_python,)], num_cpus=0.5))
    predictions = _predict(run, config, checkpoint, facts, gpus, in_process, engine)
    found = predictions.require("evaluate")
    own = _own_metrics(config.metrics)
    inputs = {"predictions": found.fingerprint, "model": facts[0], "annotations": digest, **own}
    description = describe("evaluate", config, inputs, [found, *trained_by(checkpoint)])
    noun = run.noun("scores", config.label)
    if done := skip_if_done(noun, description):
        return done
    begin(noun, description, replace=True)  # the answers took long, and they stay
    with Progress("score", found.rows_out, "answers", noun=noun) as progress:
        headlines, notes = next(map_shards(_score, [(predictions, noun, config, annotations)]))
        progress.advance(found.rows_out)
    manifest = noun.finish(
        metrics={
            "model": config.model,
            "checkpoint": facts[0],
            "dtype": facts[1],
            "headlines": headlines,
            "notes": notes,
            "rejected": sum(found.quarantined.values()),
            "unfinished": found.metrics["unfinished"],
            "generation_seconds": found.seconds,
        }
    )
    manifest = dataclasses.replace(manifest, rows_in=found.rows_in, quarantined=found.quarantined)
    noun.write_json("manifest.json", asdict(manifest))
    return manifest


def _own_metrics(metrics: Mapping[str, str | Sequence[str]]) -> dict[str, Any]:
    """The content of the files of a user's own metrics, by name; nothing where there is none."""
    named = [[each] if isinstance(each, str) else each for each in metrics.values()]
    hashes = {name: source_hash(name) for name in sorted({name for names in named for name in names})}
    own = {name: found for name, found in hashes.items() if found is not None}
    return {"own_metrics": own} if own else {}


def _check_metrics(
    run: Run, config: EvaluateConfig, samples: Manifest, annotations: Mapping[AnnotationKey, Annotation]
) -> None:
    """Find a metric that cannot take its task's rows before anything is answered; warn where it was guessed.

    Raises:
        UserError: a metric that the user named and that does not fit, with the task and a row's answer.
    """
    fits = fits_of(samples.metrics["tasks"], config.metrics)
    picky = {task for task, fit in fits.items() if any(m.needs or m.misfit is not None for m in fit.metrics)}
    if not picky:
        return
    noun = run.noun("samples", samples.label)
    _, wanted = _wanted(noun, config)
    for part in noun.iter_parts(["key", "task", "source_id", "messages"]):
        for row in part.filter(pc.is_in(part["task"], pa.array(sorted(picky)))).to_pylist():
            if not wanted.holds(row["key"], row["task"]):
                continue
            answers = [message["text"] for message in row["messages"] if message["role"] == "assistant"]
            for turn, answer in enumerate(answers):
                known = annotations.get((row["source_id"], turn), Annotation())
                references = known.references or (answer,)
                fits[row["task"]].see(references, {"image": "", **known.meta})
    for task in sorted(picky):
        fits[task].fitting()
        if note := fits[task].note:
            log.warning("evaluate: %s", note)


def _read_annotations(uri: str | None) -> tuple[dict[AnnotationKey, Annotation], str | None]:
    if uri is None:
        return {}, None
    filesystem, path = resolve(uri)
    if not exists(filesystem, path):
        raise UserError(f"there is no annotations file {uri}")
    data = read_bytes(filesystem, path)
    return parse_annotations(data.decode("utf-8", "replace"), uri), hashlib.blake2b(data, digest_size=16).hexdigest()


def outside_inputs(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of what settings of `evaluate` name outside of the run: annotations, own metrics, its program."""
    digest = _read_annotations(settings.get("annotations"))[1]
    command = settings.get("command")
    program = {} if command is None else {"program": hash_files(named_files(command))}
    return {"annotations": digest, **_own_metrics(settings.get("metrics") or {}), **program}


# predictions


def _predict(
    run: Run,
    config: EvaluateConfig,
    checkpoint: Checkpoint,
    facts: CheckpointFacts,
    gpus: float,
    in_process: bool,
    engine: Mapping[str, str],
) -> Noun:
    """The finished ``predictions`` noun, made now or found; `engine` is another one than the built-in, if any."""
    samples = run.noun("samples", config.data or "")
    sample_manifest = required(samples)
    inputs = {
        "samples": sample_manifest.fingerprint,
        "model": facts[0],
        "dtype": facts[1],
        "image_backend": image_backend(),
        **engine,
    }
    read = [sample_manifest, *trained_by(checkpoint)]
    description = describe("predict", config, inputs, read)
    description["config"] = {k: v for k, v in description["config"].items() if k not in NOT_OF_PREDICTIONS}
    noun = run.noun("predictions", config.label)
    if noun.is_done(description):
        return noun
    total, wanted = _wanted(samples, config)
    begin(noun, description, replace=config.replace)
    missing = noun.missing(sample_manifest.shards)
    done = sum(record.extra["rows"] for record in noun.records().values())
    with Progress("evaluate", total, "rows", noun=noun, done=done) as progress:
        if missing:
            images = config.images or sample_manifest.description["config"].get("images")
            load = functools.partial(load_questions, samples, checkpoint, facts, config, images, wanted)
            given = {"checkpoint": checkpoint, "facts": facts, "config": config, "on_gpu": gpus > 0}
            actor: dict[str, Any] = {**given, "limits": accepted_images(samples)}
            if in_process:
                _answer_here(samples, noun, missing, load, AnsweringActor(**actor), wanted, progress, config)
                missing = []
        if missing:
            memory = loader_memory(config.window_rows, facts.image_bytes, config.window_mb)
            dataset = pool_dataset(missing, load, AnsweringActor, actor, config, gpus, memory)
            _commit_shards(samples, noun, dataset, wanted, progress, config)
    check_rejects("evaluate", noun, config.max_rejected, samples=samples)
    noun.finish(metrics=_count(noun))
    return noun


def _answer_here(
    samples: Noun,
    noun: Noun,
    shards: Sequence[int],
    load: Callable[[pa.Table], Iterator[pa.Table]],
    actor: AnsweringActor,
    wanted: AskedRows,
    progress: Progress,
    config: EvaluateConfig,
) -> None:
    """What `_commit_shards` does with the loaders and actors of a cluster, one shard after the other."""
    for shard in shards:
        lines = []
        for batch in load(pa.table({"shard": [shard]})):
            answered = actor(batch).to_pylist()
            lines += [{name: line[name] for name in ("answers", "rejects")} for line in answered]
        _note(progress, commit_answers(samples, noun, wanted, shard, lines), strict=config.strict)


def _wanted(samples: Noun, config: EvaluateConfig) -> tuple[int, AskedRows]:
    """How many rows of the test set are asked, and which."""
    manifest = samples.require("ingest")
    if config.max_rows is not None and config.max_rows < manifest.rows_out:
        return config.max_rows, AskedRows(last=_first_hashes(samples, config.max_rows)[""][-1])
    if config.max_rows_per_task is None and config.tasks is None:
        return manifest.rows_out, AskedRows()
    for task in config.tasks or ():
        if task not in manifest.metrics["tasks"]:
            raise unknown_name(f"task of samples/{samples.label}", task, manifest.metrics["tasks"])
    chosen = config.tasks or tuple(manifest.metrics["tasks"])
    hashes = _first_hashes(samples, config.max_rows_per_task or manifest.rows_out, chosen)
    return sum(map(len, hashes.values())), AskedRows(by_task={task: own[-1] for task, own in hashes.items()})


def _first_hashes(samples: Noun, rows: int, tasks: Collection[str] | None = None) -> dict[str, list[str]]:
    """The first key hashes of each of these tasks, ascending; without tasks of all rows, under ''."""
    found: dict[str, list[str]] = {}
    for part in samples.iter_parts(["key", "task"]):
        for key, task in zip(part["key"].to_pylist(), part["task"].to_pylist(), strict=True):
            if tasks is None or task in tasks:
                found.setdefault("" if tasks is None else task, []).append(key_hash(key))
        found = {task: sorted(own)[:rows] for task, own in found.items()}
    return found


def _count(noun: Noun) -> dict[str, Any]:
    records = noun.records()
    unfinished = 0
    for shard in sorted(records):
        finished = noun.read_part(shard, ["finished"])["finished"]
        unfinished += finished.to_pylist().count(False)
    return {"tokens": sum(record.extra["tokens"] for record in records.values()), "unfinished": unfinished}


def _commit_shards(
    samples: Noun,
    noun: Noun,
    dataset: ray.data.Dataset,
    wanted: AskedRows,
    progress: Progress,
    config: EvaluateConfig,
) -> None:
    """Drive the pipeline; start a commit task for each complete shard."""
    gathered: dict[int, dict[tuple[int, int], Mapping[str, Any]]] = {}

    def complete(line: dict[str, Any]) -> tuple[Any, ...] | None:
        lines = gathered.setdefault(line["shard"], {})
        lines[line["window"], line["batch"]] = line  # a batch that came twice counts once
        if not _is_complete(lines, line["windows"]):
            return None
        done = gathered.pop(line["shard"])
        texts = [{name: each[name] for name in ("answers", "rejects")} for each in done.values()]
        return samples, noun, wanted, line["shard"], texts

    drive_pipeline(dataset, complete, commit_answers, functools.partial(_note, progress, strict=config.strict))
    assert not gathered, f"shards left incomplete: {sorted(gathered)}"


def _is_complete(lines: Mapping[tuple[int, int], Mapping[str, Any]], windows: int) -> bool:
    expected = {window: line["batches"] for (window, _), line in lines.items()}
    return len(expected) == windows and len(lines) == sum(expected.values())


def _note(progress: Progress, record: ShardRecord, *, strict: bool) -> None:
    rejected = sum(record.quarantined.values())
    if strict and rejected:
        raise UserError(
            f"--strict: {rejected} questions of shard {record.shard} were rejected: {record.quarantined}. "
            "See the quarantine folder of the run, or run without --strict to score the others."
        )
    progress.advance(record.extra["rows"])


# scores


def _score(
    predictions: Noun, noun: Noun, config: EvaluateConfig, annotations: dict[AnnotationKey, Annotation]
) -> tuple[dict[str, dict[str, bool]], list[str]]:
    """Score all answers and write them shard by shard; the headlines and notes. Runs as one task."""
    parts = [part.to_pylist() for part in predictions.iter_parts()]
    answers = [row for part in parts for row in part]
    asked = sorted({row["task"] for row in answers})
    metrics = {name: m for name, m in config.metrics.items() if name in asked or fnmatch.filter(asked, name)}
    scores = score_answers(answers, metrics, annotations)
    for row, references, numbers in zip(answers, scores.references, scores.rows, strict=True):
        row["references"], row["scores"] = list(references), sorted(numbers.items())
    for shard, part in enumerate(parts):
        noun.commit_part(shard, pa.Table.from_pylist(part, schema=SCORED_SCHEMA), rows_in=len(part))
    noun.write_json(SCORES_FILE, scores.tasks)
    return scores.headlines, scores.notes


def _evaluate_outside(
    run: Run, config: EvaluateConfig, checkpoint: Checkpoint, facts: CheckpointFacts, gpus: float | None
) -> Manifest:
    """Scores from the external evaluator, which runs in a task with these GPUs, or here for None."""
    assert config.command is not None, "the caller looked"
    inputs = {"model": facts[0], "program": hash_files(named_files(config.command))}
    description = describe("evaluate", config, inputs, trained_by(checkpoint))
    noun = run.noun("scores", config.label)
    if done := skip_if_done(noun, description):
        return done
    begin(noun, description, replace=config.replace)
    with Progress("evaluate", 1, "commands", noun=noun) as progress:
        if gpus is None:
            scores = _run_command(noun, config, checkpoint)
        else:
            shape = {"num_cpus": config.cpus_per_actor, "num_gpus": gpus, "label_selector": config.nodes or None}
            call = ray.remote(_run_command).options(**shape, max_retries=0)
            scores = get_result(call.remote(noun, config, checkpoint))
        progress.advance()
    noun.write_json(SCORES_FILE, scores)
    headlines = {task: dict.fromkeys(sorted(metrics), True) for task, metrics in scores.items()}
    return noun.finish(metrics={"model": config.model, "checkpoint": facts[0], "headlines": headlines})


def _run_command(noun: Noun, config: EvaluateConfig, checkpoint: Checkpoint) -> dict[str, dict[str, float]]:
    """Run the evaluator on this worker, and keep what it printed."""
    from raycurate.evaluation.external import run_evaluator

    assert config.command is not None, "this task is started for a command"
    with tempfile.TemporaryDirectory(prefix="raycurate-evaluate-") as scratch:
        output = Path(scratch) / "output"
        output.mkdir()
        model = merged_folder(checkpoint, Path(scratch) / "merged", config.trust_remote_code)
        try:
            return run_evaluator(config.command, model, output, seconds=config.command_seconds)
        finally:
            log = output / "command.log"
            noun.write_bytes("command.log", log.read_bytes() if log.exists() else b"")
