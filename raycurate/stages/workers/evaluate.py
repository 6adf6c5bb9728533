"""The workers of ``evaluate``: loader tasks that make batches of questions, actors that answer, the commit of a shard.

A batch travels to an actor as one Arrow row of bytes, its answers travel back as one row of JSON; a shard's answers are
committed together, in the order of its samples.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raycurate.evaluation.config import EvaluateConfig
from raycurate.run.manifest import ShardRecord
from raycurate.run.store import Noun
from raycurate.samples.schema import QUARANTINE_SCHEMA
from raycurate.stages.engine.asked_rows import AskedRows, wanted_rows
from raycurate.stages.engine.checkpoints import (
    Checkpoint,
    CheckpointFacts,
    generation_settings,
    load_checkpoint,
    merged_folder,
    processor_source,
)
from raycurate.stages.workers.fragments import EXCERPT, ModelThread, lines_of, loaded_windows
from raycurate.stages.workers.preparers import preparer_of

if TYPE_CHECKING:
    from raycurate.evaluation.prompts import QuestionBatch
    from raycurate.evaluation.vllm_prompts import PromptQuestions
    from raycurate.samples.images import ImageLimits

OUT_OF_MEMORY = "out_of_memory"
ROW_COLUMNS = ["key", "source_id", "task", "messages", "images", "source_file", "source_row"]
ANSWER_FIELDS = [
    ("key", pa.string()),
    ("source_id", pa.string()),
    ("task", pa.string()),
    ("turn", pa.int32()),
    ("image", pa.string()),
    ("question", pa.string()),
    ("reference", pa.string()),
    ("prediction", pa.string()),
    ("tokens", pa.int32()),
    ("finished", pa.bool_()),
]
ANSWER_SCHEMA = pa.schema(ANSWER_FIELDS)
BATCH_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("window", pa.int32()),
        ("windows", pa.int32()),
        ("batch", pa.int32()),
        ("batches", pa.int32()),
        ("questions", pa.string()),
        ("rejects", pa.string()),
        ("payload", pa.large_binary()),
    ]
)
COUNTS = ("shard", "window", "windows", "batch", "batches", "rejects")


def load_questions(
    samples: Noun,
    checkpoint: Checkpoint,
    facts: CheckpointFacts,
    config: EvaluateConfig,
    images: str | None,
    wanted: AskedRows,
    table: pa.Table,
) -> Iterator[pa.Table]:
    """Loader task: read one shard window by window, decode, tokenise, pack; one row per batch."""
    from raycurate.evaluation.prompts import QuestionPreparer
    from raycurate.evaluation.vllm_prompts import PromptPreparer

    kind = QuestionPreparer if config.engine is None else PromptPreparer
    preparer = preparer_of(kind, processor_source(checkpoint), config, facts[1])

    def read(samples: Noun, shard: int) -> pa.Table:
        return wanted_rows(samples, shard, wanted, ["key", "task", "messages", "images"])

    for place, window in loaded_windows(samples, config, facts.image_bytes, images, table, read):
        batches, rejects = preparer.prepare_questions(window)
        rejected = [[place["start"] + r.position, r.reason, r.detail] for r in rejects]
        yield from lines_of(place, batches, functools.partial(_packed, place["start"], rejected), BATCH_SCHEMA)


def _packed(
    start: int, rejected: list[list[Any]], number: int, made: QuestionBatch | PromptQuestions | None
) -> dict[str, Any]:
    """The columns of a batch of questions; the rejects of its window travel with the first one."""
    asked = [[start + q.position, q.turn] for q in made.questions] if made else []
    return {
        "questions": json.dumps(asked),
        "rejects": json.dumps(rejected if number == 0 else []),
        "payload": made.batch.to_bytes() if made else None,
    }


def engine_version(python: str | None) -> str:
    """Which vLLM a worker has in the environment of this interpreter; a `UserError` where it has none."""
    from raycurate.evaluation.vllm_engine import vllm_version

    return vllm_version(python)


class AnsweringActor:
    """Actor: the model on its device; a batch of questions in, its answers as JSON out."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        facts: CheckpointFacts,
        config: EvaluateConfig,
        on_gpu: bool,
        limits: ImageLimits,
    ) -> None:
        from raycurate.encoding.batch import PreparedBatch
        from raycurate.evaluation.vllm_prompts import PromptBatch

        self.thread = ModelThread("evaluate", on_gpu, config.threads)
        self.batch_of: Any = PreparedBatch if config.engine is None else PromptBatch
        if config.engine is None:
            self.generator = self.thread.run(_own_generator, checkpoint, facts, config, self.thread.device)
        else:
            self.generator = self.thread.run(_vllm_generator, checkpoint, facts, config, limits)

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._answer(row) for row in table.to_pylist()])

    def _answer(self, row: dict[str, Any]) -> dict[str, Any]:
        answers: list[list[Any]] = []
        if row["payload"] is not None:
            given = self.thread.run(self.generator.answer, self.batch_of.from_bytes(row["payload"]))
            for (position, turn), a in zip(json.loads(row["questions"]), given, strict=True):
                answers.append([position, turn, a and a.text, a and a.num_tokens, a and a.finished])
        return {**{name: row[name] for name in COUNTS}, "answers": json.dumps(answers)}


def _own_generator(checkpoint: Checkpoint, facts: CheckpointFacts, config: EvaluateConfig, device: str) -> Any:
    from raycurate.evaluation.generate import Generator

    trust = config.trust_remote_code
    vlm = load_checkpoint(checkpoint, device=device, dtype=facts[1], trust_remote_code=trust)
    return Generator(vlm, max_new_tokens=config.max_new_tokens)


def _vllm_generator(checkpoint: Checkpoint, facts: CheckpointFacts, config: EvaluateConfig, limits: ImageLimits) -> Any:
    from raycurate.evaluation.generate import stop_tokens
    from raycurate.evaluation.vllm_engine import VllmGenerator
    from raycurate.models.adapter import load_processor
    from raycurate.models.positions import longest_row

    trust, longest = config.trust_remote_code, config.max_length + config.max_new_tokens
    processor = load_processor(processor_source(checkpoint), trust_remote_code=trust)
    words = max(processor.tokenizer.get_vocab().values())  # vLLM refuses a default EOS that the model does not have
    with tempfile.TemporaryDirectory(prefix="raycurate-merged-") as scratch:
        folder = merged_folder(checkpoint, Path(scratch) / "merged", trust)
        engine = {
            "model": folder,
            "dtype": facts[1].removeprefix("torch."),
            "max_model_len": longest_row(folder, longest, trust_remote_code=trust),
            "trust_remote_code": trust,
            **(config.engine_options or {}),
        }
        stops = stop_tokens(processor, generation_settings(folder, trust_remote_code=trust))
        return VllmGenerator(
            config.engine_python,
            engine,
            processor.tokenizer,
            stops=[stop for stop in stops if stop <= words],
            max_new_tokens=config.max_new_tokens,
            limits=limits,
        )


def commit_answers(
    samples: Noun, noun: Noun, wanted: AskedRows, shard: int, lines: Sequence[Mapping[str, str]]
) -> ShardRecord:
    """Put the answers of one shard beside their questions, in the order of its samples, and commit them.

    The unit is the question: a rejected row counts once for each of its answers, and once where it has none.
    """
    from raycurate.evaluation.prompts import answer_turns

    rows = wanted_rows(samples, shard, wanted, ROW_COLUMNS).to_pylist()
    answers = {(a[0], a[1]): a[2:] for line in lines for a in json.loads(line["answers"])}
    reasons = {r[0]: r[1:] for line in lines for r in json.loads(line["rejects"])}
    good: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    for position, row in enumerate(rows):
        turns = answer_turns(row["messages"])
        for turn in range(max(1, len(turns))):
            text, tokens, finished = answers.get((position, turn), (None, None, None))
            if text is None:
                bad.append(_reject(row, *reasons.get(position, (OUT_OF_MEMORY, "the prompt does not fit alone"))))
                continue
            said = {"prediction": text, "tokens": tokens, "finished": finished}
            good.append({**_question(row, turn, turns[turn]), **said})
    assert len(answers) == len(good) + sum(a[0] is None for a in answers.values()), (
        f"answers of shard {shard} were lost"
    )
    return noun.commit_part(
        shard,
        pa.Table.from_pylist(good, schema=ANSWER_SCHEMA),
        rows_in=len(good) + len(bad),
        rejects=pa.Table.from_pylist(bad, schema=QUARANTINE_SCHEMA),
        extra={"rows": len(rows), "tokens": sum(row["tokens"] for row in good)},
    )


def _question(row: dict[str, Any], turn: int, at: int) -> dict[str, Any]:
    from raycurate.samples.schema import ImageRef

    messages = row["messages"]
    asked = next((m["text"] for m in reversed(messages[:at]) if m["role"] == "user"), "")
    image = row["images"][0] if row["images"] else None
    return {
        **{name: row[name] for name in ("key", "source_id", "task")},
        "turn": turn,
        "image": image and ImageRef(image["path"], None, image["sha"]).identity,
        "question": asked[:EXCERPT],
        "reference": messages[at]["text"],
    }


def _reject(row: dict[str, Any], reason: str, detail: str) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("key", "source_id", "source_file", "source_row")},
        "reason": reason,
        "detail": detail,
        "excerpt": " ".join(message["text"] for message in row["messages"])[:EXCERPT],
    }
