"""`Trainer` of transformers with the VITW loss, two learning rates, exact row counts and a log by task.

The overrides, against transformers 5.23 (`trainer.py`):

* `_get_num_items_in_batch` gives Z, the summed weight of the valid tokens of all micro-batches of the step over all
  ranks, in float64. It is called once per optimizer step with all of the step's micro-batches.
* `compute_loss` gives R * n / Z. R cancels the mean that DDP and DeepSpeed take over ranks. `loss_is_scaled_for_ga`
  stops the division by the number of micro-batches; for DeepSpeed `Trainer` itself turns the engine's off.
* `training_step` does nothing in a step whose Z is 0, on all ranks alike: no gradient is made, torch's optimizers leave
  a parameter without gradient alone (its moments and decay too), and DeepSpeed's step is never called.
* `create_optimizer` makes a group of the projector's parameters with their own learning rate.
* `_get_train_sampler` orders rows by `epoch_order`; `skip_first_batches` then resumes at the same row.

Sums by task stay on the device and are reduced over ranks only when something is logged or saved. They are saved with
each checkpoint, so that the counts at the end do not tell how often a run was interrupted.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback

from raycurate.training.collate import POSITIONS, TASK_IDS
from raycurate.training.data import EpochSampler, TokenDataset
from raycurate.training.vitw import gradient_shares, weight_sum, weighted_sums

STATE_FILE = "task_sums.json"


class VitwTrainer(Trainer):
    """Trains on the batches of `collate.Collator`."""

    loss_is_scaled_for_ga: bool | None = True
    optimizer: Any

    def __init__(
        self,
        *args: Any,
        tasks: Sequence[str],
        task_weights: Sequence[float],
        group_by_length: bool = False,
        order_seed: int = 0,
        projector_names: Sequence[str] = (),
        projector_learning_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        """As `Trainer`, and:

        Args:
            tasks: task names in the order of their numbers.
            task_weights: lambda per task.
            group_by_length: whether a global micro-batch has rows of like length.
            order_seed: of the order of rows.
            projector_names: module paths of the projector, in the model before LoRA.
            projector_learning_rate: its learning rate; None is that of the other parameters.
        """
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)
        assert self.args.average_tokens_across_devices
        assert not self.args.remove_unused_columns
        assert len(tasks) == len(task_weights)
        self.tasks = list(tasks)
        self._weights_K = torch.tensor(task_weights, dtype=torch.float64)
        self._group_by_length, self._order_seed = group_by_length, order_seed
        self._projector, self._projector_rate = tuple(projector_names), projector_learning_rate
        self._leaves_out_logits = "logits_to_keep" in _forward_parameters(self.model)
        self._step_is_empty = False
        self._window_3K = torch.zeros(3, len(tasks), dtype=torch.float64, device=self.args.device)
        self.totals_3K = torch.zeros(3, len(tasks), dtype=torch.float64)

    # the loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        """Z of the step, a float64 scalar."""
        if not batch_samples:
            return None
        weights = [weight_sum(b["labels"], b[TASK_IDS], self._weights_on(b["labels"].device)) for b in batch_samples]
        total = torch.stack(weights).sum().to(device)
        if self.args.world_size > 1:
            total = self.accelerator.gather(total).sum() / self.get_tp_size()
        self._step_is_empty = not bool(total > 0)
        return total

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one micro-batch; nothing where the whole step has no token to learn from."""
        if self._step_is_empty:
            return torch.zeros((), device=self.args.device)
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """R * n / Z of one micro-batch. Without Z (an evaluation) n / d of the batch alone."""
        inputs = dict(inputs)
        labels_BT, tasks_B, positions_P = (inputs.pop(name) for name in ("labels", TASK_IDS, POSITIONS))
        if self._leaves_out_logits:
            inputs["logits_to_keep"] = positions_P
        outputs = model(**inputs)
        logits_BPV = outputs.logits if self._leaves_out_logits else outputs.logits[:, positions_P]
        weights_K = self._weights_on(logits_BPV.device)
        sums = weighted_sums(logits_BPV, labels_BT, tasks_B, weights_K, positions_P)
        if model.training:
            self._window_3K += sums.stacked()
        ranks = 1
        if num_items_in_batch is None:
            num_items_in_batch = weight_sum(labels_BT, tasks_B, weights_K)
        else:
            ranks = self.accelerator.num_processes // self.get_tp_size()
        loss = sums.weighted / num_items_in_batch.to(sums.weighted.dtype) * ranks
        return (loss, outputs) if return_outputs else loss

    def _weights_on(self, device: torch.device) -> torch.Tensor:
        if self._weights_K.device != device:
            self._weights_K = self._weights_K.to(device)
        return self._weights_K

    # the optimizer and the order of rows

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """`Trainer`'s optimizer with up to four groups: (projector or not) x (decayed or not)."""
        if self.optimizer is not None or self._projector_rate is None:
            return super().create_optimizer(model)
        trained = self.model if model is None else model
        decayed = set(self.get_decay_parameter_names(trained))
        groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad:
                groups.setdefault((self._in_projector(name), name in decayed), []).append(parameter)
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
        listed = [
            {
                "params": parameters,
                "lr": self._projector_rate if projector else self.args.learning_rate,
                "weight_decay": self.args.weight_decay if decay else 0.0,
            }
            for (projector, decay), parameters in sorted(groups.items())
        ]
        self.optimizer = optimizer_class(listed, **options)
        return self.optimizer

    def _in_projector(self, name: str) -> bool:
        """Whether a parameter is the projector's; LoRA puts `base_model.model.` in front of its path."""
        plain = name.removeprefix("module.").removeprefix("base_model.model.")
        return any(plain.startswith(f"{path}.") for path in self._projector)

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int] | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(dataset, TokenDataset):
            return super()._get_train_sampler(train_dataset)
        return EpochSampler(
            dataset.lengths_N,
            group_rows=self.args.train_batch_size * self.args.world_size,
            seed=self._order_seed,
            group_by_length=self._group_by_length,
        )

    # counts and the log

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; a line with a loss gets tokens, loss and gradient share of each task since the last one."""
        if "loss" in logs:
            tokens_K, losses_K, rows_K = self._close_window()
            shares_K = gradient_shares(tokens_K, self._weights_K.cpu())
            logs["rows_seen"] = float(self.totals_3K[2].sum())
            logs["tokens_seen"] = float(self.totals_3K[0].sum())
            for task, tokens, loss, share in zip(self.tasks, tokens_K, losses_K, shares_K, strict=True):
                if tokens > 0:
                    logs[f"tokens/{task}"] = float(tokens)
                    logs[f"loss/{task}"] = float(loss / tokens)
                    logs[f"share/{task}"] = float(share)
        super().log(logs, start_time)

    def _close_window(self) -> torch.Tensor:
        """The sums since the last log over all ranks, [3, K] on the CPU; they move to the totals."""
        window_3K = self._reduced_window()
        self.totals_3K += window_3K
        self._window_3K.zero_()
        return window_3K

    def _reduced_window(self) -> torch.Tensor:
        if self.args.world_size == 1:
            return self._window_3K.cpu().clone()
        return self.accelerator.reduce(self._window_3K.clone(), reduction="sum").cpu() / self.get_tp_size()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        window_3K = self._reduced_window()
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            state = {"tasks": self.tasks, "window": window_3K.tolist(), "totals": self.totals_3K.tolist()}
            (folder / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")

    def load_task_sums(self, checkpoint: str | Path) -> None:
        """Go on counting where a checkpoint was saved."""
        state = json.loads((Path(checkpoint) / STATE_FILE).read_text(encoding="utf-8"))
        self.totals_3K = torch.tensor(state["totals"], dtype=torch.float64)
        if self.args.process_index == 0:
            self._window_3K += torch.tensor(state["window"], dtype=torch.float64, device=self._window_3K.device)

    def finish_task_sums(self) -> None:
        """Take what was counted since the last log into the totals; on all ranks."""
        self._close_window()

    def mean_loss(self) -> float:
        """The weighted mean loss over every token of the training."""
        tokens_K, losses_K, _ = self.totals_3K
        weights_K = self._weights_K.cpu()
        return float((losses_K * weights_K).sum() / (tokens_K * weights_K).sum())

    def task_summary(self) -> dict[str, dict[str, float]]:
        """Rows, tokens, mean loss, weight and effective gradient share of each task over the whole training."""
        tokens_K, losses_K, rows_K = self.totals_3K
        shares_K = gradient_shares(tokens_K, self._weights_K.cpu())
        return {
            task: {
                "rows": float(rows_K[k]),
                "tokens": float(tokens_K[k]),
                "loss": float(losses_K[k] / tokens_K[k].clamp_min(1)),
                "weight": float(self._weights_K[k]),
                "share": float(shares_K[k]),
            }
            for k, task in enumerate(self.tasks)
        }


def _forward_parameters(model: Any) -> set[str]:
    """The parameters of the innermost model's forward."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return set(inspect.signature(inner.forward).parameters)
