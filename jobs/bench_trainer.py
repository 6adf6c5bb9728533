"""What the weighted loss costs: a finetune step of `VitwTrainer` against the same step of transformers' own `Trainer`.

Both train the same model on the same batches, in one process, in turns; a turn's first step is not counted. The ratio
is of tokens per second, and above 1 the weighted trainer is the faster one: it asks the model for the logits of answer
tokens only, where the plain loss makes all of them.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Trainer, TrainerCallback, TrainingArguments

from raycurate.encoding.images import ImageReader
from raycurate.encoding.tokens import RowTokenizer, TokenRow, image_token_ids, labels_of
from raycurate.models.adapter import load_processor
from raycurate.training.collate import POSITIONS, TASK_IDS, Collator
from raycurate.training.data import TrainingRow
from raycurate.training.network import freeze, load_network, projector_paths
from raycurate.training.trainer import VitwTrainer

TASKS = ("first", "second", "third")


class PlainTrainer(VitwTrainer):
    """The batches and rows of `VitwTrainer` with transformers' own loss, counting and step."""

    loss_is_scaled_for_ga = None
    _get_num_items_in_batch = Trainer._get_num_items_in_batch
    training_step = Trainer.training_step

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The model's own loss."""
        kept = {name: value for name, value in inputs.items() if name not in (POSITIONS, TASK_IDS)}
        return Trainer.compute_loss(self, model, kept, *args, **kwargs)

    def mean_loss(self) -> float:
        """Not known: the plain loss keeps no sums by task."""
        return float("nan")


def measure_step(
    model: str = "tiny",
    *,
    batch_rows: int = 32,
    accumulation: int = 1,
    steps: int = 8,
    rounds: int = 3,
    side: int = 64,
    answer_words: int = 8,
    on_gpu: bool = False,
    seed: int = 0,
) -> dict[str, float]:
    """Seconds per optimizer step of both trainers, and the ratio of their tokens per second.

    Args:
        model: hub id, local folder, or "tiny".
        batch_rows: rows of one forward pass, each with an image of `side` x `side` pixels.
        accumulation: forward passes of one step.
        steps: counted steps of a turn.
        rounds: turns of each trainer; the fastest step of each is compared, the one least disturbed by others.
        side: of the images.
        answer_words: length of the answers.
        on_gpu: use the GPU, with bfloat16.
        seed: of rows and order.

    Returns:
        `plain_seconds`, `vitw_seconds`, `ratio`, `tokens_per_second` (of the weighted trainer).
    """
    processor = load_processor(model)
    rows = MadeUpRows(processor, batch_rows * accumulation, side=side, answer_words=answer_words, seed=seed)
    network = load_network(model, dtype=torch.float32)
    freeze(network, projector=projector_paths(network), train_projector=True, train_vision=False)
    seconds: dict[str, list[float]] = {"plain": [], "vitw": []}
    for _ in range(rounds):
        for name, kind in (("plain", PlainTrainer), ("vitw", VitwTrainer)):
            clock = _Clock()
            with tempfile.TemporaryDirectory() as folder:
                arguments = _arguments(folder, batch_rows, accumulation, steps + 1, on_gpu)
                kind(
                    model=network,
                    args=arguments,
                    train_dataset=rows,
                    data_collator=Collator(processor, rows),
                    callbacks=[clock],
                    tasks=TASKS,
                    task_weights=(0.5, 1.0, 2.0),
                ).train()
            seconds[name] += clock.seconds
    plain, vitw = min(seconds["plain"]), min(seconds["vitw"])
    tokens = sum(len(row.ids_T) for row in rows.rows)
    return {
        "plain_seconds": plain,
        "vitw_seconds": vitw,
        "ratio": plain / vitw,
        "tokens_per_second": tokens / vitw,
    }


def _arguments(folder: str, batch_rows: int, accumulation: int, steps: int, on_gpu: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch_rows,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        learning_rate=1e-5,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        save_strategy="no",
        logging_steps=max(1, steps // 2),
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


class MadeUpRows(torch.utils.data.Dataset[TrainingRow]):
    """Made-up rows, ready in memory: questions on noise images with answers of a few words."""

    has_images = True

    def __init__(self, processor: Any, count: int, *, side: int, answer_words: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        reader = ImageReader(processor, torch.float32)
        tokenizer = RowTokenizer(processor, max_length=1 << 20)
        self.rows: list[TrainingRow] = []
        for number in range(count):
            image = Image.fromarray(generator.integers(0, 255, (side, side, 3), dtype=np.uint8))
            words = " ".join(["word"] * int(generator.integers(1, 2 * answer_words)))
            messages = [{"role": "user", "text": f"<image>\nwhat is {number}?"}, {"role": "assistant", "text": words}]
            row = tokenizer.tokenize([{"key": str(number), "messages": messages, "images": [image]}])[0]
            assert isinstance(row, TokenRow), row
            labels_T = labels_of(row.ids_T, row.spans_A2, image_token_ids(processor))
            self.rows.append(TrainingRow(row.ids_T, labels_T, number % len(TASKS), (reader.read(image),)))

    @property
    def num_rows(self) -> int:
        """Rows; the collator's blank row is never asked for, as every row has an image."""
        return len(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TrainingRow:
        return self.rows[index]


class _Clock(TrainerCallback):
    """The wall clock of every optimizer step, loading included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last: float | None = None

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now
