"""The device of a worker: the one that it was promised, or an error that says what to do.

Products on a GPU are set to what the bounds of the code assume, for the whole process: 16-bit products keep float32
partial sums whatever kernel cuBLAS takes (by default it may add the parts of a split product in 16 bits), and float32
products and convolutions are no TF32. A training leaves its products to transformers.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import torch

from raycurate.errors import UserError

CGROUP = Path("/sys/fs/cgroup")


def use_device(on_gpu: bool, stage: str) -> torch.device:
    """The device that a worker of ``stage`` computes on, its products set up.

    Raises:
        UserError: as of `require_gpu`.
    """
    if not on_gpu:
        return torch.device("cpu")
    require_gpu(stage)
    keep_wide_sums()
    return torch.device("cuda")


def require_gpu(stage: str) -> None:
    """Refuse to go on without the GPU that Ray promised: on a CPU the work would take hours, in silence.

    Raises:
        UserError: this process sees no GPU.
    """
    if torch.cuda.is_available():
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None and torch.version.hip is None:
        why = f"torch {torch.__version__} there is built for CPUs: install its CUDA build on every node"
    elif visible == "":
        why = "CUDA_VISIBLE_DEVICES is empty there: unset it where Ray is started"
    else:
        why = f"torch {torch.__version__} finds no device there: look at `nvidia-smi` and the driver's version"
    setting = "gpus_per_worker" if stage in ("cluster", "finetune") else "gpus_per_actor"
    raise UserError(
        f"{stage}: Ray gave a worker on {os.uname().nodename} a GPU, but its process sees none. {why}. "
        f"To compute on CPUs instead: --set {setting}=0"
    )


def keep_wide_sums() -> None:
    """Let no product on a GPU of this process be added, or taken, in fewer bits than its type says."""
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def free_memory(device: torch.device) -> int:
    """Bytes that a process may still take on a device: of the GPU, or of this machine and the container around it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="utf-8").strip()
        used = int((CGROUP / "memory.current").read_text(encoding="utf-8"))
        cached = dict(line.split() for line in (CGROUP / "memory.stat").read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):  # no container, or one of the first version of cgroups
        return free
    used -= int(cached.get("inactive_file", 0))  # pages of files go when they are needed
    return free if limit == "max" else max(0, min(free, int(limit) - used))
