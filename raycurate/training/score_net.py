"""Self-Filter's first stage: a linear score-net trained together with the target model (Chen et al. 2024, 2402.12501).

    s_b = theta . x_b          x_b: frozen CLIP features [image ; text] of row b
    w_b = exp(s_b) / sum_c exp(s_c)                                 over the rows of one optimizer step
    L   = sum_b w_b CE_b       CE_b: mean loss of the row's answer tokens
    difficulty of a row = -s   with the theta of the end

One loss for both: the model learns most from the rows that the net rates high, and the net lowers what has more than
the average loss, dL/ds_b = w_b (CE_b - L). So rows that stay hard, and rows that cannot be learned at all, end with a
high difficulty.

What is normalised: the softmax goes over *all rows of the optimizer step*, of every rank and every micro-batch, so how
a step is spread changes the result by rounding only; `batch_rows` sets how many compete. (In the public code it is the
batch of one forward pass.) It takes two numbers over the ranks at the start of a step, the largest score and the sum
of exponentials, and the loss and the gradient [D] at its end. A bias would cancel in the softmax: there is none.

The net is no part of the model: every rank keeps a float64 copy and makes the same AdamW step from the reduced
gradient, after the step's last micro-batch, with the model's betas, decay and schedule. DDP, DeepSpeed and LoRA see
nothing of it. It is saved with each checkpoint and with the final model (`score_net.safetensors`, moments included).

Which rows take part: those with features and a token to learn. A row of text alone has features with zeros for the
image ([0 ; text], `features/clip.py`) and is scored by its text. A row without features (CLIP could not read its
image) gets weight 0 in this training and no difficulty.

Cost: 4 B D FLOP a step; features are read from a memory-mapped copy, 2 D bytes a row on the scratch disk.
Not done: the paper's other input, three ready-made scores instead of the features.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import safetensors.torch
import torch

from raycurate.features.rows import features_of_table
from raycurate.run.store import Noun
from raycurate.training.collate import TASK_IDS, BlankSource, Collator
from raycurate.training.config import NET_FILE
from raycurate.training.data import TokenDataset, TrainingRow
from raycurate.training.trainer import VitwTrainer
from raycurate.training.vitw import IGNORED, LossSums

FEATURES = "score_features"
SCORED = "scored"


def row_weights(scores_B: torch.Tensor, log_total: torch.Tensor) -> torch.Tensor:
    """w of rows whose scores are `scores_B`; `log_total` is the logarithm of the step's sum of exponentials."""
    return torch.exp(scores_B - log_total)


def score_gradient(
    features_BD: torch.Tensor, weights_B: torch.Tensor, losses_B: torch.Tensor, loss: torch.Tensor
) -> torch.Tensor:
    """What these rows add to dL/dtheta, [D]: sum_b w_b (CE_b - L) x_b; `loss` is L of the whole step."""
    return (weights_B * (losses_B - loss)) @ features_BD


class ScoreNet:
    """theta and its optimizer, float64, the same on every rank."""

    def __init__(self, dimension: int, *, betas: tuple[float, float], weight_decay: float, device: Any = "cpu") -> None:
        """theta = 0: all rows start with the same weight."""
        self.theta_D = torch.zeros(dimension, dtype=torch.float64, device=device, requires_grad=True)
        self._optimizer = torch.optim.AdamW([self.theta_D], lr=0.0, betas=betas, weight_decay=weight_decay)

    def scores(self, features_BD: torch.Tensor) -> torch.Tensor:
        """s of rows, float64 [B]."""
        return features_BD @ self.theta_D.detach()

    def step(self, gradient_D: torch.Tensor, rate: float) -> None:
        """One step of AdamW."""
        self.theta_D.grad = gradient_D
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()

    def save(self, path: Path) -> None:
        """Write theta and the optimizer's moments."""
        moments = self._optimizer.state.get(self.theta_D, {})
        tensors = {"theta": self.theta_D.detach(), **moments}
        safetensors.torch.save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)

    def load(self, path: Path) -> None:
        """Go on from a file of `save`."""
        tensors = safetensors.torch.load_file(path, device=str(self.theta_D.device))
        with torch.no_grad():
            self.theta_D.copy_(tensors.pop("theta"))
        if tensors:
            tensors["step"] = tensors["step"].cpu()
            self._optimizer.state[self.theta_D] = tensors


@dataclass(frozen=True, slots=True)
class ScoredRow(TrainingRow):
    """A row with its features [D], or None."""

    features_D: np.ndarray | None


class ScoredDataset(TokenDataset):
    """`TokenDataset` of one source, whose rows have features of a noun with the same shards."""

    def __init__(self, features: Noun, *args: Any, scratch: str | Path, **kwargs: Any) -> None:
        """As `TokenDataset`; `features` are of the samples that the tokens are of."""
        super().__init__(*args, scratch=scratch, **kwargs)
        manifest = features.require("score")
        self.dimension = int(manifest.metrics["dimension"])
        folder = Path(scratch) / f"features-{manifest.fingerprint}"
        folder.mkdir(parents=True, exist_ok=True)
        self._features = [self._features_of(features, path, folder) for path in range(len(self._paths))]

    def _features_of(self, features: Noun, path: int, folder: Path) -> np.ndarray:
        """Features of the rows of one part, memory-mapped; NaN for a row that has none."""
        local = folder / f"{self._paths[path].parent.name}-{path:05d}.npy"
        if not local.exists():
            found = features.read_part(path)
            where = pc.index_in(self._table(path)["key"], value_set=found["key"].combine_chunks()).to_numpy()
            rows_ND = np.full((len(where), self.dimension), np.nan, dtype=np.float16)
            has_N = ~np.isnan(where)
            rows_ND[has_N] = features_of_table(found)[where[has_N].astype(np.int64)]
            temporary = local.with_name(f".{uuid.uuid4().hex}.npy")
            np.save(temporary, rows_ND)
            os.replace(temporary, local)
        mapped: np.ndarray = np.load(local, mmap_mode="r")
        return mapped

    def __getitem__(self, index: int) -> TrainingRow:
        row = super().__getitem__(index)
        if index == self.num_rows:
            return row
        features_D = np.asarray(self._features[int(self._path_N[index])][int(self._row_N[index])])
        has = not np.isnan(features_D).any()
        return ScoredRow(row.ids_T, row.labels_T, row.task, row.images, features_D if has else None)


class ScoredCollator(Collator):
    """`Collator` that adds the features [B, D], zeros for rows without, and which rows have some [B]."""

    def __init__(self, processor: Any, dataset: BlankSource, types_name: str, dimension: int) -> None:
        super().__init__(processor, dataset, types_name)
        self._dimension = dimension

    def __call__(self, rows: Sequence[TrainingRow]) -> dict[str, torch.Tensor]:
        """The batch; a blank row that was added is the last and has no features."""
        batch = super().__call__(rows)
        count = len(batch["labels"])
        features_BD = np.zeros((count, self._dimension), dtype=np.float16)
        scored_B = np.zeros(count, dtype=bool)
        for b, row in enumerate(rows):
            if isinstance(row, ScoredRow) and row.features_D is not None:
                features_BD[b], scored_B[b] = row.features_D, True
        # As bits: under DeepSpeed `Trainer` casts every batch of floats to the model's type.
        bits_BD = torch.from_numpy(features_BD.view(np.int16))
        return batch | {FEATURES: bits_BD, SCORED: torch.from_numpy(scored_B)}


class ScoreNetTrainer(VitwTrainer):
    """`VitwTrainer` whose rows are weighed by a score-net that learns with the model."""

    def __init__(self, *args: Any, dimension: int, net_learning_rate: float, **kwargs: Any) -> None:
        """As `VitwTrainer`, and the dimension of the features and the learning rate of the net."""
        super().__init__(*args, **kwargs)
        betas = (self.args.adam_beta1, self.args.adam_beta2)
        decay = self.args.weight_decay
        self.net = ScoreNet(dimension, betas=betas, weight_decay=decay, device=self.args.device)
        self._net_rate = self._rate = net_learning_rate
        self._log_total = torch.zeros((), dtype=torch.float64)
        self._seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        """As `VitwTrainer`; also ends the step before for the net, and normalises the scores of this one."""
        if not batch_samples:
            return None
        self._learn()
        total = super()._get_num_items_in_batch(batch_samples, device)
        self._rate = self._net_rate * self._get_learning_rate() / self.args.learning_rate
        scores = [self.net.scores(_features(b).to(device))[_takes_part(b).to(device)] for b in batch_samples]
        self._log_total = self._log_sum(torch.cat(scores))
        self._step_is_empty = not bool(torch.isfinite(self._log_total))
        return total

    def _log_sum(self, scores_B: torch.Tensor) -> torch.Tensor:
        """log of the sum of exponentials over every rank's scores; -inf where there is none at all."""
        low = scores_B.new_full((1,), -torch.inf)
        largest = self._gathered(torch.cat([scores_B, low]).max()).max()
        if not torch.isfinite(largest):
            return largest
        return largest + self._summed(torch.exp(scores_B - largest).sum()).log()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """R times the sum of w_b CE_b over the rows of one micro-batch; the micro-batches of a step add up to L."""
        assert num_items_in_batch is not None, "weights are of a training step"
        inputs = dict(inputs)
        takes_part_B = _takes_part(inputs)
        features_BD = _features(inputs)
        del inputs[FEATURES], inputs[SCORED]
        tokens_B = (inputs["labels"][:, 1:] != IGNORED).sum(dim=1).clamp_min(1)
        weights_B = row_weights(self.net.scores(features_BD), self._log_total) * takes_part_B
        sums, outputs = self.loss_sums(model, inputs, weights_B / tokens_B)
        losses_B = sums.losses_B / tokens_B
        self._seen.append((features_BD, weights_B, losses_B))
        self._count(_stacked(sums, weights_B, losses_B, inputs[TASK_IDS]))
        loss = sums.weighted * self._ranks
        return (loss, outputs) if return_outputs else loss

    def _learn(self) -> None:
        """The net's step, once the losses of an optimizer step are known; on all ranks."""
        if not self._seen:
            return
        features_BD, weights_B, losses_B = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen = []
        loss = self._summed((weights_B * losses_B).sum())
        gradient_D = self._summed(score_gradient(features_BD, weights_B, losses_B, loss))
        self.net.step(gradient_D, self._rate)

    def _summed(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.args.world_size == 1:
            return tensor
        return self.accelerator.reduce(tensor, reduction="sum") / self.get_tp_size()

    def _gathered(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self.args.world_size == 1 else self.accelerator.gather(tensor[None])

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, and the net beside it; both of a checkpoint and of the end."""
        super().save_model(output_dir, _internal_call)
        self._learn()
        if self.args.should_save:
            self.net.save(Path(output_dir or str(self.args.output_dir)) / NET_FILE)

    def load_task_sums(self, checkpoint: str | Path) -> None:
        """Go on where a checkpoint was saved, with its net."""
        super().load_task_sums(checkpoint)
        self.net.load(Path(checkpoint) / NET_FILE)


def _features(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The features of a batch, float64 [B, D]."""
    return batch[FEATURES].view(torch.float16).double()


def _takes_part(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The rows of a batch with features and a token to learn, bool [B]."""
    return batch[SCORED] & (batch["labels"][:, 1:] != IGNORED).any(dim=1)


def _stacked(sums: LossSums, weights_B: torch.Tensor, losses_B: torch.Tensor, tasks_B: torch.Tensor) -> torch.Tensor:
    """`LossSums.stacked` where rows have weights: the weighted sums are of w_b and w_b CE_b."""
    weighted_K = torch.zeros_like(sums.tokens_K).index_add(0, tasks_B, weights_B)
    losses_K = torch.zeros_like(sums.tokens_K).index_add(0, tasks_B, weights_B * losses_B)
    return torch.stack([sums.tokens_K, sums.losses_K, sums.rows_K, weighted_K, losses_K])
