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
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from raycurate.errors import UserError
from raycurate.estimate.rates import Rates, rates_here
from raycurate.estimate.training import evaluate_work
from raycurate.estimate.work import Work
from raycurate.evaluation.config import EvaluateConfig
from raycurate.evaluation.external import named_files
from raycurate.evaluation.scoring import Annotation, AnnotationKey, parse_annotations, score_answers
from raycurate.evaluation.tasks import fits_of
from raycurate.models.file_hashes import hash_files
from raycurate.models.source import image_backend
from raycurate.plugins import source_hash
from raycurate.ray_session import in_session_unless
from raycurate.run.filesystem import exists, read_bytes, resolve
from raycurate.run.manifest import Manifest, ShardRecord
from raycurate.run.progress import Progress
from raycurate.run.store import Noun, Run
from raycurate.stages.engine.actor_pool import Lines, actor_lines, drive_pipeline, gpus_of
from raycurate.stages.engine.asked_rows import AskedRows, asked_rows
from raycurate.stages.engine.checkpoints import (
    Checkpoint,
    CheckpointFacts,
    checkpoint_facts,
    find_checkpoint,
    merged_folder,
    trained_by,
)
from raycurate.stages.engine.foreseen import ModelSize, foresee
from raycurate.stages.engine.image_check import check_images
from raycurate.stages.engine.lineage import begin, required
from raycurate.stages.engine.pool_here import is_small, lines_here, session_unless_small
from raycurate.stages.engine.rejects import check_rejects
from raycurate.stages.engine.shards import MapShards, describe, get_result, map_here, map_tasks, skip_if_done
from raycurate.stages.workers.evaluate import (
    ANSWER_FIELDS,
    AnsweringActor,
    commit_answers,
    engine_version,
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


def _is_small(run: Run, config: EvaluateConfig) -> bool:
    if config.data is None or config.engine is not None:
        return False
    return is_small(run.noun("samples", config.data), [run.noun("predictions", config.label)], config)


@in_session_unless(_is_small)
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
    samples = None if config.data is None else run.noun("samples", config.data)
    sample_manifest = None if samples is None else required(samples)
    looked_at = None if in_process else samples  # a trial's cost is foreseen by its experiment
    asked = (checkpoint, config.dtype, gpus > 0, config.trust_remote_code, looked_at)
    map_shards: MapShards = map_here if in_process else map_tasks
    facts = next(map_shards(checkpoint_facts, [asked], num_cpus=0.5))
    if samples is None or sample_manifest is None:
        return _evaluate_outside(run, config, checkpoint, facts, None if in_process else gpus)
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
    _, wanted = asked_rows(noun, config)
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
    total, wanted = asked_rows(samples, config)
    begin(noun, description, replace=config.replace)
    missing = noun.missing(sample_manifest.shards)
    done = sum(record.extra["rows"] for record in noun.records().values())
    size = facts.size

    def left() -> Work | None:
        return None if size is None else _work(config, size, gpus > 0, total - done, rates_here())

    session = nullcontext() if in_process else session_unless_small(left)
    with session, Progress("evaluate", total, "rows", noun=noun, done=done) as progress:
        if size is not None:
            foresee(noun, functools.partial(_work, config, size, gpus > 0, total), gpus)
        if missing:
            images = config.images or sample_manifest.description["config"].get("images")
            load = functools.partial(load_questions, samples, checkpoint, facts, config, images, wanted)
            given = {"checkpoint": checkpoint, "facts": facts, "config": config, "on_gpu": gpus > 0}
            actor: dict[str, Any] = {**given, "limits": accepted_images(samples)}
            if in_process:
                lines: Lines = lines_here(missing, load, AnsweringActor, actor)
            else:
                memory = loader_memory(config.window_rows, facts.image_bytes, config.window_mb)
                lines = actor_lines(missing, load, AnsweringActor, actor, config, gpus, memory)
            _commit_shards(samples, noun, lines, wanted, progress, config)
    check_rejects("evaluate", noun, config.max_rejected, samples=samples)
    noun.finish(metrics=_count(noun))
    return noun


def _work(config: EvaluateConfig, size: ModelSize, on_card: bool, rows: int, rates: Rates) -> Work:
    """Of the questions of so many rows."""
    return evaluate_work(rows, size.source, size.tokens, size.geometry, rates, config, on_card=on_card)


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
    lines: Lines,
    wanted: AskedRows,
    progress: Progress,
    config: EvaluateConfig,
) -> None:
    """Drive the pipeline; commit each complete shard."""
    gathered: dict[int, dict[tuple[int, int], Mapping[str, Any]]] = {}

    def complete(line: dict[str, Any]) -> tuple[Any, ...] | None:
        came = gathered.setdefault(line["shard"], {})
        came[line["window"], line["batch"]] = line  # a batch that came twice counts once
        if not _is_complete(came, line["windows"]):
            return None
        done = gathered.pop(line["shard"])
        texts = [{name: each[name] for name in ("answers", "rejects")} for each in done.values()]
        return samples, noun, wanted, line["shard"], texts

    drive_pipeline(lines, complete, commit_answers, functools.partial(_note, progress, strict=config.strict))
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
