"""The device of a worker: the one that it was promised, or an error that says what to do.

Products on a GPU are set to what the bounds of the code assume, for the whole process: 16-bit products keep float32
partial sums whatever kernel cuBLAS takes (by default it may add the parts of a split product in 16 bits), and float32
products are no TF32. A training sets TF32 for itself afterwards.
"""

from __future__ import annotations

import os

import torch

from raycurate.errors import UserError


def use_device(on_gpu: bool, stage: str) -> torch.device:
    """The device that a worker of ``stage`` computes on, its products set up.

    Raises:
        UserError: ``on_gpu``, but this process sees no GPU; it would take hours on a CPU in silence.
    """
    if not on_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(_not_seen(stage))
    keep_wide_sums()
    return torch.device("cuda")


def keep_wide_sums() -> None:
    """Add the products of a matrix product in float32 at least, on any GPU of this process."""
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.set_float32_matmul_precision("highest")


def _not_seen(stage: str) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None and torch.version.hip is None:
        why = f"torch {torch.__version__} there is built for CPUs only: install a CUDA build of torch on every node"
    elif visible == "":
        why = "CUDA_VISIBLE_DEVICES is empty there: unset it, or let Ray set it"
    else:
        seen = f"CUDA_VISIBLE_DEVICES={visible}"
        why = f"torch {torch.__version__} sees no device there ({seen}): check nvidia-smi and the driver"
    setting = {"cluster": "gpus_per_worker=0", "finetune": "gpus_per_worker=0"}.get(stage, "gpus_per_actor=0")
    return (
        f"{stage}: a worker was given a GPU by Ray, but its process cannot use one. {why}. "
        f"To compute on CPUs instead: --set {setting}"
    )
