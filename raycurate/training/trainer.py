"""`Trainer` of transformers with the VITW loss, two learning rates, exact row counts and a log by task.

The overrides, against transformers 5.23 (`trainer.py`):

* `_get_num_items_in_batch` gives Z, the summed weight of the valid tokens of all micro-batches of the step over all
  ranks, in float64. It is called once per optimizer step with all of the step's micro-batches; weights that change
  from step to step (`task_weights.py`) change there.
* `compute_loss` gives R * n / Z. R cancels the mean that DDP and DeepSpeed take over ranks. `loss_is_scaled_for_ga`
  stops the division by the number of micro-batches; for DeepSpeed `Trainer` itself turns the engine's off.
* `training_step` does nothing in a step whose Z is 0, on all ranks alike: no gradient is made, torch's optimizers leave
  a parameter without gradient alone (its moments and decay too), and DeepSpeed's step is never called.
* `create_optimizer` makes a group of the projector's parameters with their own learning rate.
* `_load_from_checkpoint` loads a whole model under the names that it was saved by.
* `_get_train_sampler` orders rows by `epoch_order` or `order.py`; `skip_first_batches` then resumes at the same row.

Sums by task stay on the device and are reduced over ranks only when something is logged or saved. They are saved with
each checkpoint, so that the counts at the end do not tell how often a run was interrupted.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer
from transformers.trainer_callback import PrinterCallback

from raycurate.balancing.online import OnlineWeighting
from raycurate.errors import UserError
from raycurate.training.collate import POSITIONS, TASK_IDS
from raycurate.training.data import EpochSampler, TokenDataset, epoch_order, padded_rows
from raycurate.training.head_losses import HeadLosses
from raycurate.training.order import OrderSource, ordered_epoch
from raycurate.training.task_weights import TaskWeights
from raycurate.training.vitw import LossSums, gradient_shares, next_labels, token_counts, weight_sum, weighted_sums

STATE_FILE = "task_sums.json"
SUMS = 5
"""Rows of the sums by task: tokens, losses, rows, weighted tokens, weighted losses."""


class VitwTrainer(Trainer):
    """Trains on the batches of `collate.Collator`."""

    loss_is_scaled_for_ga: bool | None = True
    optimizer: Any

    def __init__(
        self,
        *args: Any,
        tasks: Sequence[str],
        task_weights: Sequence[float],
        weighting: OnlineWeighting | None = None,
        group_by_length: bool = False,
        order_seed: int = 0,
        order: OrderSource | None = None,
        projector_names: Sequence[str] = (),
        projector_learning_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        """As `Trainer`, and:

        Args:
            tasks: task names in the order of their numbers.
            task_weights: lambda per task.
            weighting: changes them from step to step.
            group_by_length: whether a global micro-batch has rows of like length.
            order_seed: of the order of rows.
            order: of rows by their numbers; None shuffles them.
            projector_names: module paths of the projector, in the model before LoRA.
            projector_learning_rate: its learning rate; None is that of the other parameters.
        """
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)
        assert self.args.average_tokens_across_devices
        assert not self.args.remove_unused_columns
        self.tasks = list(tasks)
        self.task_weights = TaskWeights(tasks, task_weights, weighting)
        self._group_by_length, self._order_seed, self._order = group_by_length, order_seed, order
        self._projector, self._projector_rate = tuple(projector_names), projector_learning_rate
        network = _innermost(self.model)
        keeps = "logits_to_keep" in inspect.signature(network.forward).parameters
        self._head_losses = HeadLosses(network, keeps_positions=keeps)
        self._step_is_empty = False
        self._window_5K = torch.zeros(SUMS, len(tasks), dtype=torch.float64, device=self.args.device)
        self._step_5K = torch.zeros_like(self._window_5K)
        self._unseen_step: int | None = None
        self.totals_5K = torch.zeros(SUMS, len(tasks), dtype=torch.float64)

    # the loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        """Z of the step, a float64 scalar."""
        if not batch_samples:
            return None
        counts = [token_counts(b["labels"], b[TASK_IDS], len(self.tasks)) for b in batch_samples]
        tokens_K = torch.stack(counts).sum(dim=0).to(device)
        if self.args.world_size > 1:
            tokens_K = self.accelerator.reduce(tokens_K, reduction="sum") / self.get_tp_size()
        self._weigh(tokens_K)
        total = (tokens_K * self.task_weights.on(tokens_K.device)).sum()
        self._step_is_empty = not bool(total > 0)
        return total

    def _weigh(self, tokens_K: torch.Tensor) -> None:
        """Change the weights for the step that begins, where they change."""
        if self.task_weights.changes:
            self._see_last_step()
            self.task_weights.see_tokens(tokens_K.cpu(), self.state.global_step)
            self._unseen_step = self.state.global_step

    def _see_last_step(self) -> None:
        """Show the weighting the losses of the step that has ended, once; on all ranks."""
        if self._unseen_step is not None and self.task_weights.reads_losses:
            tokens_K, losses_K, *_ = self._reduced(self._step_5K)
            self.task_weights.see_losses(losses_K, tokens_K, self._unseen_step)
        self._unseen_step = None
        self._step_5K.zero_()

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one micro-batch; nothing where the whole step has no token to learn from."""
        if self._step_is_empty:
            return torch.zeros((), device=self.args.device)
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """R * n / Z of one micro-batch. Without Z (an evaluation) n / d of the batch alone."""
        weights_K = self.task_weights.on(inputs["labels"].device)
        sums, outputs = self.loss_sums(model, inputs)
        if model.training:
            self._count(sums.stacked(weights_K))
        ranks = 1
        if num_items_in_batch is None:
            num_items_in_batch = weight_sum(inputs["labels"], inputs[TASK_IDS], weights_K)
        else:
            ranks = self._ranks
        loss = sums.weighted / num_items_in_batch.to(sums.weighted.dtype) * ranks
        return (loss, outputs) if return_outputs else loss

    @property
    def _ranks(self) -> int:
        """R, the number of processes whose gradients are averaged."""
        return int(self.accelerator.num_processes) // int(self.get_tp_size())

    def loss_sums(
        self, model: Any, inputs: Mapping[str, Any], weights_B: torch.Tensor | None = None
    ) -> tuple[LossSums, Any]:
        """The forward pass of one micro-batch: its sums, and what the model gave. `weights_B` as in `weighted_sums`."""
        inputs = dict(inputs)
        labels_BT, tasks_B, positions_P = (inputs.pop(name) for name in ("labels", TASK_IDS, POSITIONS))
        losses_BP, outputs = self._head_losses(model, inputs, labels_BT, positions_P)
        weights_K = self.task_weights.on(losses_BP.device)
        return weighted_sums(losses_BP, next_labels(labels_BT, positions_P), tasks_B, weights_K, weights_B), outputs

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
        group_rows = self.args.train_batch_size * self.args.world_size
        settings: dict[str, Any] = {
            "lengths_N": dataset.lengths_N,
            "group_rows": group_rows,
            "seed": self._order_seed,
            "group_by_length": self._group_by_length,
        }
        order_of = functools.partial(epoch_order, **settings)
        if self._order is not None:
            settings |= {"value_N": self._order.values(dataset), "kind": self._order.kind}
            settings["step_rows"] = group_rows * self.args.gradient_accumulation_steps
            order_of = functools.partial(ordered_epoch, **settings)
        return EpochSampler(order_of, padded_rows(len(dataset.lengths_N), group_rows))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load a whole model by its own class, which knows the names that it was saved under.

        A checkpoint has the names of the hub; `Trainer` looks for those of the modules, finds none where they differ
        (LLaVA), and goes on from untrained weights with no more than a warning.
        """
        network = self.model if model is None else model
        if not isinstance(network, PreTrainedModel):  # an adapter, whose names are the same
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(network).from_pretrained(resume_from_checkpoint, dtype=network.dtype)
        network.load_state_dict(saved.state_dict())

    # counts and the log

    def _count(self, sums_5K: torch.Tensor) -> None:
        """Add the sums of one micro-batch."""
        self._window_5K += sums_5K
        self._step_5K += sums_5K

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; a line with a loss gets tokens, loss and gradient share of each task since the last one."""
        if "loss" in logs:
            tokens_K, losses_K, _, weighted_K, _ = self._close_window()
            self._check_finite(losses_K)
            shares_K = gradient_shares(weighted_K)
            logs["rows_seen"] = float(self.totals_5K[2].sum())
            logs["tokens_seen"] = float(self.totals_5K[0].sum())
            for k in tokens_K.nonzero().flatten().tolist():
                task, tokens = self.tasks[k], tokens_K[k]
                logs[f"tokens/{task}"] = float(tokens)
                logs[f"loss/{task}"] = float(losses_K[k] / tokens)
                logs[f"share/{task}"] = float(shares_K[k])
                if self.task_weights.changes:
                    logs[f"weight/{task}"] = float(weighted_K[k] / tokens)
        super().log(logs, start_time)

    def _check_finite(self, losses_K: torch.Tensor) -> None:
        """Stop at once, on all ranks, when the loss is no number any more: the weights are spoilt."""
        spoilt = [self.tasks[k] for k in (~torch.isfinite(losses_K)).nonzero().flatten().tolist()]
        if spoilt:
            raise UserError(
                f"the loss is not a number any more at step {self.state.global_step}, first seen on the tasks "
                f"{', '.join(spoilt[:5])}. Lower learning_rate ({self.args.learning_rate:g}), raise warmup_ratio, or "
                "train with precision=float32"
            )

    def _close_window(self) -> torch.Tensor:
        """The sums since the last log over all ranks, [5, K] on the CPU; they move to the totals."""
        window_5K = self._reduced(self._window_5K)
        self.totals_5K += window_5K
        self._window_5K.zero_()
        return window_5K

    def _reduced(self, sums_5K: torch.Tensor) -> torch.Tensor:
        """Sums over all ranks, on the CPU."""
        if self.args.world_size == 1:
            return sums_5K.cpu().clone()
        return self.accelerator.reduce(sums_5K.clone(), reduction="sum").cpu() / self.get_tp_size()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        window_5K = self._reduced(self._window_5K)
        self._check_finite(window_5K[1])  # nobody can go on from weights that are spoilt
        super()._save_checkpoint(model, trial)
        self._see_last_step()
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            state = {
                "tasks": self.tasks,
                "window": window_5K.tolist(),
                "totals": self.totals_5K.tolist(),
                "weights": self.task_weights.state(),
            }
            (folder / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")

    def load_task_sums(self, checkpoint: str | Path) -> None:
        """Go on counting, and weighing, where a checkpoint was saved."""
        state = json.loads((Path(checkpoint) / STATE_FILE).read_text(encoding="utf-8"))
        self.totals_5K = torch.tensor(state["totals"], dtype=torch.float64)
        self.task_weights.restore(state["weights"])
        if self.args.process_index == 0:
            self._window_5K += torch.tensor(state["window"], dtype=torch.float64, device=self._window_5K.device)

    def finish_task_sums(self) -> None:
        """Take what was counted since the last log into the totals; on all ranks.

        Raises:
            UserError: the loss of a step since the last log is no number.
        """
        self._check_finite(self._close_window()[1])

    def mean_loss(self) -> float:
        """The weighted mean loss over every token of the training."""
        *_, tokens_K, losses_K = self.totals_5K
        return float(losses_K.sum() / tokens_K.sum())

    def task_summary(self) -> dict[str, dict[str, float]]:
        """Rows, tokens, mean loss, mean weight of a token and effective gradient share of each task in the training."""
        tokens_K, losses_K, rows_K, weighted_K, _ = self.totals_5K
        weights_K = self.task_weights.on(torch.device("cpu"))
        if self.task_weights.changes:
            weights_K = torch.where(tokens_K > 0, weighted_K / tokens_K.clamp_min(1), weights_K)
        shares_K = gradient_shares(weighted_K)
        return {
            task: {
                "rows": float(rows_K[k]),
                "tokens": float(tokens_K[k]),
                "loss": float(losses_K[k] / tokens_K[k].clamp_min(1)),
                "weight": float(weights_K[k]),
                "share": float(shares_K[k]),
            }
            for k, task in enumerate(self.tasks)
        }


def _innermost(model: Any) -> Any:
    """The model within peft's."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
