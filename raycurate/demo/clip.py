"""A small CLIP trained on the demo dataset, for machines that reach no model hub.

    batch of N rows:  v_i = unit image embedding,  t_i = unit embedding of "question answer"
    loss = mean of the cross-entropies of exp(s) V T^T by rows and by columns, target i = i      (CLIP; s is learned)

What it is: a `CLIPModel` of transformers, 1.9 M parameters. Its image tower starts as the embedded model's, which has
learned to see on drawn scenes (64 x 64 pixels, patches of 16, 4 layers of width 128); its text tower of the same size
and its byte-level BPE tokenizer start from nothing. It is saved with its processor, so that `raycurate score --scores
clip --clip FOLDER` and all that reads its scores can be run on real numbers. What it is not: a published checkpoint or
a stand-in for one. Of texts it has seen the demo's training rows and nothing else, the very rows that it then scores;
its score says how well a question fits an image *of this dataset*.

`retrieval` measures on rows that were held out whether it has learned anything: among the texts of 64 rows, is the one
nearest to a row's image the row's own? Most of the demo's questions can be asked about most of its images ("does the
image contain a circle? no"), so all of it is out of reach for any model; blind choice finds one in 64.

Cost: about 25 GFLOP a step of 128 rows; 245 MB for the processed images. Rows without an image are left out.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.utils.data import Dataset
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from raycurate.errors import UserError
from raycurate.models.adapter import load_vlm, resolve_dtype

MAX_TOKENS = 77
VOCABULARY = 1024
PROJECTION = 128
PAD, BOS, EOS = "<pad>", "<s>", "</s>"
GROUP = 64


@dataclass(frozen=True, slots=True)
class Pair:
    """An image file and a text that belongs to it."""

    image: Path
    text: str


def read_pairs(source: Path) -> list[Pair]:
    """The rows with an image of a LLaVA-style JSON file: first question and answer as the text; images lie beside it.

    Raises:
        UserError: no such file.
    """
    if not source.is_file():
        raise UserError(f"there is no file {source}; `python jobs/demo.py` makes the demo dataset (make demo)")
    rows = json.loads(source.read_text(encoding="utf-8"))
    return [
        Pair(source.parent / row["image"], " ".join(_plain(turn["value"]) for turn in row["conversations"][:2]))
        for row in rows
        if "image" in row
    ]


def _plain(text: str) -> str:
    return text.replace("<image>", "").strip()


def build_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE; a text gets a begin and an end mark, and CLIP reads it off at the end mark."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        # The end mark is not number 2: for that number CLIPModel reads the text off at its largest token id.
        special_tokens=[PAD, BOS, "<unused>", EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in (BOS, EOS)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, model_max_length=MAX_TOKENS
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seen: CLIPVisionModel, *, seed: int) -> CLIPModel:
    """The model: the weights of `seen` for the images, fresh ones for the rest."""
    tower = {
        name: getattr(seen.config, name)
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    }
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    torch.manual_seed(seed)
    model = CLIPModel(
        CLIPConfig(
            text_config={**tower, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": MAX_TOKENS},
            vision_config=seen.config.to_dict(),
            projection_dim=PROJECTION,
        )
    )
    model.vision_model.load_state_dict(seen.state_dict())
    return model


class PairRows(Dataset[tuple[torch.Tensor, str]]):
    """Processed image and text of each pair; an image that several rows share is processed once."""

    def __init__(self, pairs: Sequence[Pair], processor: CLIPProcessor) -> None:
        self._pairs, self._processor = pairs, processor
        self._pixels: dict[Path, torch.Tensor] = {}

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        """Pixels [3, 64, 64] in float16, and the text."""
        pair = self._pairs[index]
        if pair.image not in self._pixels:
            with Image.open(pair.image) as image:
                made = self._processor.image_processor(images=[image.convert("RGB")], return_tensors="pt")
            self._pixels[pair.image] = made["pixel_values"][0].half()
        return self._pixels[pair.image], pair.text

    def collate(self, rows: Sequence[tuple[torch.Tensor, str]]) -> dict[str, Any]:
        """The batch as `CLIPModel` takes it."""
        text = self._processor.tokenizer(
            [text for _, text in rows], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        return {
            "input_ids": text["input_ids"],
            "attention_mask": text["attention_mask"],
            "pixel_values": torch.stack([pixels for pixels, _ in rows]).float(),
            "return_loss": True,
        }


def train_clip(source: Path, out: Path, *, steps: int, batch_rows: int = 128, seed: int = 0) -> float:
    """Train on the pairs of `source` and save model and processor in `out`; the last logged loss."""
    pairs = read_pairs(source)
    tokenizer = build_tokenizer(pair.text for pair in pairs)
    embedded = load_vlm("tiny", device="cpu", dtype="float32")
    processor = CLIPProcessor(image_processor=embedded.processor.image_processor, tokenizer=tokenizer)
    rows = PairRows(pairs, processor)
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=batch_rows,
        learning_rate=5e-4,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        weight_decay=0.05,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        bf16=resolve_dtype("auto", "cpu") == torch.bfloat16,
        use_cpu=True,
        save_strategy="no",
        logging_steps=min(25, steps),
        report_to=[],
        remove_unused_columns=False,
        dataloader_drop_last=True,
        disable_tqdm=True,
        seed=seed,
    )
    model = build_model(tokenizer, embedded.model.model.vision_tower, seed=seed)
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=rows.collate)
    trainer.train()
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return float([entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-1])


@torch.inference_mode()
def retrieval(folder: Path, source: Path, *, groups: int = 16, seed: int = 0) -> float:
    """The share of held-out images whose own text is the nearest of 64; of groups of 64 random rows of `source`.

    A row of the group with the very same text counts as right.
    """
    model = CLIPModel.from_pretrained(folder).eval()
    pairs = read_pairs(source)
    rows = PairRows(pairs, CLIPProcessor.from_pretrained(folder))
    drawn = random.Random(seed)
    right = 0
    for _ in range(groups):
        chosen = drawn.sample(range(len(pairs)), GROUP)
        scores_II = model(**rows.collate([rows[i] for i in chosen])).logits_per_image
        nearest_I = scores_II.argmax(dim=1).tolist()
        right += sum(pairs[i].text == pairs[chosen[found]].text for i, found in zip(chosen, nearest_I, strict=True))
    return right / (groups * GROUP)
