"""Image and instruction embeddings, and their cosine, by a CLIP or SigLIP model of transformers.

    v = mean over the images of a row of unit image embeddings, scaled to length 1;   t = unit text embedding
    clip_score = v . t        embedding = [v ; t] / sqrt(2), a row without an image: [0 ; t]

The instruction is the first turn of the user without its image marks, cut to what the text tower reads (77 tokens of
CLIP, 64 of SigLIP). A row without an image has no score (NaN) and says so (`has_image`); its embedding is of text only.

Cost: one image encoding per distinct image of a batch, one text encoding per row. Memory: one batch. A batch that does
not fit into memory is an error; make `clip_rows` smaller.

Shapes: B rows, U distinct images, S image positions, D width of the shared space.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch

from raycurate.encoding.images import RowError, describe
from raycurate.encoding.prepare import RowFailure
from raycurate.encoding.token_batches import without_images
from raycurate.errors import UserError
from raycurate.models.adapter import load_processor, resolve_dtype


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """Rows that are encoded together: `pixels_U`, for each position its image and its row [S], token ids [B, T]."""

    rows: tuple[int, ...]
    pixels_U: torch.Tensor
    image_S: torch.Tensor
    row_S: torch.Tensor
    text: dict[str, torch.Tensor]

    def to_bytes(self) -> bytes:
        """Safetensors bytes."""
        header = torch.frombuffer(bytearray(json.dumps(self.rows).encode()), dtype=torch.uint8)
        tensors = {"rows": header, "pixels": self.pixels_U, "image": self.image_S, "row": self.row_S}
        return safetensors.torch.save(tensors | {f"text.{name}": t.contiguous() for name, t in self.text.items()})

    @classmethod
    def from_bytes(cls, data: bytes) -> ClipBatch:
        """The batch that `to_bytes` wrote."""
        tensors = safetensors.torch.load(data)
        text = {name.removeprefix("text."): t for name, t in tensors.items() if name.startswith("text.")}
        rows = tuple(json.loads(tensors["rows"].numpy().tobytes()))
        return cls(rows, tensors["pixels"], tensors["image"], tensors["row"], text)


class ClipPreparer:
    """Turns windows of samples into batches for one CLIP-like model. Holds a processor, no weights."""

    def __init__(self, processor: Any, *, max_tokens: int, pad_to_max: bool, max_rows: int, dtype: torch.dtype) -> None:
        """`pad_to_max` for SigLIP, whose text tower was trained so."""
        self._tokenizer, self._images = processor.tokenizer, processor.image_processor
        self._max_tokens, self._pad_to_max = max_tokens, pad_to_max
        self._max_rows, self._dtype = max_rows, dtype

    def prepare(self, samples: Sequence[Mapping[str, Any]]) -> tuple[list[ClipBatch], list[RowFailure]]:
        """Batches of neighbouring rows, and the rows whose images cannot be read; `samples` have `image_keys`."""
        pixels: dict[str, torch.Tensor | RowError] = {}
        failures: list[RowFailure] = []
        good: list[int] = []
        for position, sample in enumerate(samples):
            try:
                for key, image in zip(sample["image_keys"], sample["images"], strict=True):
                    self._take_in(pixels, key, image)
                good.append(position)
            except RowError as error:
                failures.append(RowFailure(position, sample["key"], error.reason, error.detail))
        groups = [good[start : start + self._max_rows] for start in range(0, len(good), self._max_rows)]
        return [self._collate(group, samples, pixels) for group in groups], failures

    def _take_in(self, pixels: dict[str, torch.Tensor | RowError], key: str, image: Any) -> None:
        if key not in pixels:
            pixels[key] = self._read(image)
        found = pixels[key]
        if isinstance(found, RowError):
            raise found

    def _read(self, image: Any) -> torch.Tensor | RowError:
        try:
            loaded = image() if callable(image) else image
            loaded.load()
        except Exception as error:  # noqa: BLE001 - decoders raise many types on damaged bytes
            return RowError("undecodable_image", describe(error))
        try:
            made = self._images(images=[loaded.convert("RGB")], return_tensors="pt")["pixel_values"]
        except Exception as error:  # noqa: BLE001 - for example an aspect ratio that the processor refuses
            return RowError("image_processor_error", describe(error))
        return made[0].to(self._dtype)

    def _collate(
        self, group: list[int], samples: Sequence[Mapping[str, Any]], pixels: Mapping[str, torch.Tensor | RowError]
    ) -> ClipBatch:
        keys = [(row, key) for row, i in enumerate(group) for key in samples[i]["image_keys"]]
        distinct = list(dict.fromkeys(key for _, key in keys))
        number = {key: n for n, key in enumerate(distinct)}
        shown = [found for key in distinct if isinstance(found := pixels[key], torch.Tensor)]
        text = self._tokenizer(
            [instruction_of(samples[i]) for i in group],
            padding="max_length" if self._pad_to_max else True,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        )
        names = ("input_ids",) if self._pad_to_max else ("input_ids", "attention_mask")
        return ClipBatch(
            rows=tuple(group),
            pixels_U=torch.stack(shown) if shown else torch.zeros((0, 1), dtype=self._dtype),
            image_S=torch.tensor([number[key] for _, key in keys], dtype=torch.int64),
            row_S=torch.tensor([row for row, _ in keys], dtype=torch.int64),
            text={name: text[name] for name in names},
        )


def instruction_of(sample: Mapping[str, Any]) -> str:
    """The first turn of the user without image marks."""
    messages = without_images(sample)["messages"]
    return str(next((m["text"] for m in messages if m["role"] == "user"), ""))


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """What must be known of a CLIP-like model before it is loaded."""

    max_tokens: int
    pad_to_max: bool
    dimension: int


def clip_facts(model: str, config: Any) -> ClipFacts:
    """Read a model's config; raises `UserError` for one that is not CLIP-like."""
    text = getattr(config, "text_config", None)
    if text is None or not hasattr(config, "vision_config") or not hasattr(text, "max_position_embeddings"):
        raise UserError(
            f"{model} ({config.model_type}) is no CLIP or SigLIP model; give --clip openai/clip-vit-large-patch14-336 "
            "or a local folder of such a model."
        )
    width = getattr(config, "projection_dim", None) or getattr(text, "projection_size", None) or text.hidden_size
    siglip = config.model_type.startswith("siglip")
    return ClipFacts(int(text.max_position_embeddings), siglip, int(width))


class ClipScorer:
    """Encodes batches with one model."""

    def __init__(self, model: str, *, device: str, dtype: str, trust_remote_code: bool = False) -> None:
        """Load the model; raises `UserError` where it cannot be loaded or does not embed images and text."""
        from transformers import AutoModel

        try:
            network = AutoModel.from_pretrained(
                model, dtype=resolve_dtype(dtype, device), trust_remote_code=trust_remote_code
            )
        except (OSError, ValueError) as error:
            raise UserError(f"cannot load the CLIP model '{model}': {str(error).splitlines()[0]}") from error
        if not hasattr(network, "get_image_features") or not hasattr(network, "get_text_features"):
            raise UserError(f"{model} ({type(network).__name__}) does not embed images and text; give a CLIP model.")
        self._network = network.to(device).eval()

    @torch.inference_mode()
    def score(self, batch: ClipBatch) -> dict[str, np.ndarray]:
        """`clip_score` float64 [B] (NaN without an image), `has_image` bool [B], `embedding` float16 [B, 2D]."""
        device, dtype = self._network.device, self._network.dtype
        text_BD = self._units(self._network.get_text_features(**{n: t.to(device) for n, t in batch.text.items()}))
        image_BD = torch.zeros_like(text_BD)
        if len(batch.pixels_U):
            made_UD = self._units(self._network.get_image_features(pixel_values=batch.pixels_U.to(device, dtype)))
            image_BD.index_add_(0, batch.row_S.to(device), made_UD[batch.image_S.to(device)])
        has_image_B = torch.bincount(batch.row_S, minlength=len(batch.rows)).bool().numpy()
        image_BD = torch.nn.functional.normalize(image_BD, dim=-1)
        score_B = (image_BD * text_BD).sum(dim=-1).double().cpu().numpy()
        scale_B1 = torch.from_numpy(np.where(has_image_B, 0.5**0.5, 1.0)).to(device, torch.float32)[:, None]
        joined_BE = (torch.cat([image_BD, text_BD], dim=-1) * scale_B1).to(torch.float16).cpu().numpy()
        # A NaN of the network stays apart from the NaN that says "no image".
        return {
            "clip_score": np.where(has_image_B, score_B, np.nan),
            "has_image": has_image_B,
            "embedding": joined_BE,
        }

    @staticmethod
    def _units(output: Any) -> torch.Tensor:
        """Unit rows of a model's projected embeddings."""
        found = output if isinstance(output, torch.Tensor) else output.pooler_output
        return torch.nn.functional.normalize(found.float(), dim=-1)


def load_clip_processor(model: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer and the image processor of a CLIP-like model."""
    return load_processor(model, trust_remote_code=trust_remote_code)
