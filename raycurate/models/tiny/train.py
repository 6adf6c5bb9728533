"""Pretraining of the embedded tiny model on the procedural corpus, in three stages.

1. The vision tower learns to read: every patch token predicts the kind, colour and box of the object whose middle lies
   in its patch (a small detector whose heads are thrown away). Dense labels teach a tower of this size in minutes.
2. The projector learns the decoder's words while the tower goes on: what it makes of a patch must come near the
   embeddings of the words for what the patch and the scene hold. This is LLaVA's alignment stage with dense labels.
3. The decoder learns to answer, tower and projector frozen: next-token loss on the answer tokens of multi-turn rows, in
   lessons: names, presence (several yes/no questions about one scene), rows of one theme, the whole corpus. Without
   stage 2, or trained together with the tower, the decoder still ignored the image after 300 to 600 steps (loss 1.0,
   of the language alone).

Prompt and answer are encoded apart, so the labels are right by construction. All stages run transformers' Trainer, in
float32 or, where the CPU has bfloat16 units, under bf16 autocast. Rows are made on the fly from (seed, index); the
held-out check uses `HELD_OUT_SEED`.

The committed weights: stages 1 and 2 in several sittings while their losses found their present form, then stage 3 with
54,000 rows (`--rows 54000`, last loss 0.66, of a mixture that holds much that cannot be known). Zero-shot they answer
63 % of easy-vqa's test questions word for word.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from raycurate.models.tiny.corpus import CorpusRow, corpus_row, naming_row, presence_row, theme_row
from raycurate.models.tiny.definition import (
    ASSISTANT,
    IMAGE,
    NUM_IMAGE_TOKENS,
    USER,
    build_model,
    build_processor,
    build_tokenizer,
)
from raycurate.models.tiny.patches import IGNORE, PatchReader, PatchRows, normalise_pixels, scene_words

logger = logging.getLogger(__name__)

HELD_OUT_SEED = 1_000_000
WINDOW = 12


def encode_row(row: CorpusRow, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Return the token ids of a row and its labels: the answers and their end marks count, everything else is -100."""
    user, assistant, image = tokenizer.convert_tokens_to_ids([USER, ASSISTANT, IMAGE])
    ids, labels = [tokenizer.bos_token_id], [IGNORE]
    for place, (question, answer) in enumerate(row.turns):
        prompt = [user]
        if place == 0 and row.image is not None:
            prompt += [image] * NUM_IMAGE_TOKENS
            question = f"\n{question}"
        prompt += [*tokenizer.encode(question, add_special_tokens=False), assistant]
        target = [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]
        ids += prompt + target
        labels += [IGNORE] * len(prompt) + target
    return ids, labels


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """Token ids and labels of one row, and its pixels (3, 64, 64) or None for text alone."""

    ids: list[int]
    labels: list[int]
    pixels: npt.NDArray[np.float32] | None


Lesson = tuple[int, Callable[[int, int], CorpusRow]]


class AnswerRows(Dataset[EncodedRow]):
    """Rows of `seed`, encoded for the whole model and served in order: of each (count, maker) of `lessons`, that many.

    Rows are made by windows of `WINDOW` batches; inside a window they are sorted by length and its batches
    are shuffled, which saves a third of the padding. Read them sequentially: one window is kept.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        lessons: Sequence[Lesson],
        *,
        seed: int,
        batch: int,
    ) -> None:
        self.tokenizer, self.lessons, self.seed, self.batch = tokenizer, lessons, seed, batch
        self.count = sum(count for count, _ in lessons)
        self._window: tuple[int, list[EncodedRow]] = (-1, [])

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.count

    def __getitem__(self, index: int) -> EncodedRow:
        """Return ids, labels and pixels (None for text alone) of one row."""
        window, place = divmod(index, WINDOW * self.batch)
        if self._window[0] != window:
            self._window = (window, self._make_window(window))
        return self._window[1][place]

    def _make_window(self, window: int) -> list[EncodedRow]:
        first = window * WINDOW * self.batch
        made = []
        for index in range(first, min(self.count, first + WINDOW * self.batch)):
            row = self._make(index)
            ids, labels = encode_row(row, self.tokenizer)
            made.append(EncodedRow(ids, labels, None if row.image is None else normalise_pixels(row)))
        made.sort(key=lambda row: len(row.ids))
        batches = [made[start : start + self.batch] for start in range(0, len(made), self.batch)]
        random.Random(f"{self.seed}:{window}").shuffle(batches)
        return [row for batch in batches for row in batch]

    def _make(self, index: int) -> CorpusRow:
        for count, maker in self.lessons:
            if index < count:
                return maker(self.seed, index)
            index -= count
        raise IndexError(index)

    def collate(self, rows: Sequence[EncodedRow]) -> dict[str, torch.Tensor]:
        """Pad on the right and stack the images of the rows that have one."""
        length = max(len(row.ids) for row in rows)
        ids_BL = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        labels_BL = torch.full((len(rows), length), IGNORE)
        for place, row in enumerate(rows):
            ids_BL[place, : len(row.ids)] = torch.tensor(row.ids)
            labels_BL[place, : len(row.labels)] = torch.tensor(row.labels)
        batch = {
            "input_ids": ids_BL,
            "attention_mask": (ids_BL != self.tokenizer.pad_token_id).long(),
            "labels": labels_BL,
        }
        pixels = [row.pixels for row in rows if row.pixels is not None]
        if pixels:
            batch["pixel_values"] = torch.from_numpy(np.stack(pixels))
        return batch


def train_vision(reader: PatchReader, out: Path, *, images: int, seed: int) -> float:
    """Stages 1 and 2: train the reader with its tower and projector on `images` scenes; return the last loss."""
    trainer = Trainer(reader, _arguments(out, batch=64, rate=1e-3), train_dataset=PatchRows(images, seed=seed))
    trainer.train()
    return _last_loss(trainer)


def train_answers(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    *,
    lessons: Sequence[Lesson],
    seed: int,
) -> float:
    """Stage 3: train the decoder in place on the lessons in their order; return the last logged loss.

    A fresh decoder looks for the image only while little else lowers the loss, so short questions come first.
    """
    arguments = _arguments(out, batch=32, rate=1.5e-3)
    data = AnswerRows(tokenizer, lessons, seed=seed, batch=32)
    # The first steps of a fresh decoder would undo in a minute what the tower and the projector have learned.
    read = nn.ModuleList([model.model.vision_tower, model.model.multi_modal_projector]).requires_grad_(False)
    trainer = Trainer(model, arguments, train_dataset=data, data_collator=data.collate)
    trainer.train()
    read.requires_grad_(True)
    return _last_loss(trainer)


def train_tiny_model(out: Path, work: Path, *, images: int, rows: int, seed: int = 0) -> dict[str, float]:
    """Train the model from nothing and write it to `out` as bfloat16 safetensors with its processor.

    `images` scenes train the vision tower, a third of them the projector as well; `rows` rows, in lessons from naming
    to the whole corpus, train the decoder. `work` receives the checkpoints; a vision tower found there is used again
    instead of being trained. Returns the last training loss of each stage that ran.
    """
    texts = (f"{q}\n{a}" for i in range(4000) for q, a in corpus_row(seed, i).turns)
    tokenizer = build_tokenizer(texts)
    processor = build_processor(tokenizer)
    model = build_model(tokenizer, seed=seed)
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    read = work / "vision.safetensors"
    losses = {}
    if read.exists():
        nn.ModuleList([tower, projector]).load_state_dict(load_file(read))
        logger.info("using the vision tower of %s", read)
    else:
        first, second = images * 2 // 3, images // 3
        losses["patches"] = train_vision(PatchReader(tower), work / "patches", images=first, seed=seed)
        reader = PatchReader(tower, projector, scene_words(model, tokenizer))
        losses["words"] = train_vision(reader, work / "words", images=second, seed=seed + 1)
        save_file(nn.ModuleList([tower, projector]).state_dict(), read)
    lessons = [(rows // 6, naming_row), (rows // 6, presence_row), (rows // 2, theme_row), (rows // 6, corpus_row)]
    losses["answers"] = train_answers(model, tokenizer, work / "answers", lessons=lessons, seed=seed + 1)
    save(model, processor, out)
    return losses


@torch.inference_mode()
def answer_accuracy(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    *,
    rows: int,
    seed: int = HELD_OUT_SEED,
    make: Callable[[int, int], CorpusRow] = corpus_row,
    blank: bool = False,
) -> dict[str, float]:
    """Return, per skill, the share of answers that greedy decoding gives word for word.

    Earlier turns are given with their right answers. An answer is greedy exactly when each of its tokens is the
    likeliest after the ones before it, so one forward pass checks all turns of a row. `blank` makes images gray.
    """
    found: dict[str, list[bool]] = {}
    for index in range(rows):
        row = make(seed, index)
        ids, labels = encode_row(row, tokenizer)
        images = {}
        if row.image is not None:
            pixels_1CHW = torch.from_numpy(normalise_pixels(row))[None]
            images = {"pixel_values": torch.zeros_like(pixels_1CHW) if blank else pixels_1CHW}
        guess = model(input_ids=torch.tensor([ids]), **images).logits[0, :-1].argmax(-1).tolist()
        found.setdefault(row.skill, []).extend(_right_answers(guess, labels[1:], tokenizer.eos_token_id))
    return {skill: sum(right) / len(right) for skill, right in sorted(found.items())}


def _right_answers(guess: list[int], labels: list[int], end: int) -> list[bool]:
    """Return for each answer (a run of labels up to its end mark) whether every token was guessed."""
    right, so_far = [], True
    for token, label in zip(guess, labels, strict=True):
        so_far = so_far and label in (IGNORE, token)
        if label == end:
            right.append(so_far)
            so_far = True
    return right


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, out: Path) -> None:
    """Write a bfloat16 copy of the model and its processor to `out`; the model itself keeps its type."""
    copy = LlavaForConditionalGeneration(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(out)
    processor.save_pretrained(out)


def _arguments(out: Path, *, batch: int, rate: float) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=batch,
        num_train_epochs=1,
        learning_rate=rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        weight_decay=0.01,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        logging_steps=50,
        save_steps=500,
        save_total_limit=1,
        bf16=torch.backends.cpu.get_cpu_capability() != "DEFAULT" and torch.cpu._is_amx_tile_supported(),
        use_cpu=True,
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
        train_sampling_strategy="sequential",
        seed=0,
    )


def _last_loss(trainer: Trainer) -> float:
    return float([entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-1])
