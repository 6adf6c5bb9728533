"""Settings that fit a dataset and a machine. They are rules of thumb, and each says itself in the recipe.

clusters      rows / 66, at most 10,000: what COINCIDE has for LLaVA-1.5's 665k rows
batch tokens  a quarter of the memory of one actor at 256 KiB a token, a power of two from 4,096 to 65,536
actors        one GPU for every 50,000 rows: 22 minutes each, if it sustains 100 TFLOP/s on a model of 2B parameters
fit sample    10 M rows, where there are more than 20 M
"""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass

ROWS_A_CLUSTER, MOST_CLUSTERS = 66, 10_000
BYTES_A_TOKEN, MEMORY_PART = 256 << 10, 4
LEAST_TOKENS, MOST_TOKENS = 4096, 65_536
ROWS_A_GPU, MOST_GPUS, MOST_KMEANS_GPUS = 50_000, 15, 4
MANY_ROWS, FIT_ROWS = 20_000_000, 10_000_000
SMALL_MODEL, MODEL = "tiny", "bczhou/tiny-llava-v1-hf"


@dataclass(frozen=True, slots=True)
class Machine:
    """What one actor of the extraction has.

    Attributes:
        memory: bytes; of the GPU, where there is one.
        name: of what has it, in words.
        has_gpu: whether it computes on a GPU.
        grows: whether GPUs are started when stages ask for them.
    """

    memory: int
    name: str
    has_gpu: bool
    grows: bool = False


CARDS = {
    "aws": Machine(48 << 30, "one L40S (48 GB), the card of the group gpu_spot", True, True),
    "gcp": Machine(24 << 30, "one L4 (24 GB), the card of the group gpu_spot", True, True),
    "azure": Machine(80 << 30, "one A100 (80 GB), the card of the group gpu_spot", True, True),
    "kuberay": Machine(24 << 30, "a card of 24 GB; raise it for a larger one", True, True),
}
"""Of the targets whose machines the cluster file names."""


@dataclass(frozen=True, slots=True)
class Choices:
    """Settings of a recipe that depend on the rows and on the machine; None for what is left to the defaults."""

    model: str
    batch_tokens: int
    clusters: int
    fit_sample: int | None
    actors: int | None
    kmeans_workers: int | None


def choose(rows: int, machine: Machine, model: str | None = None) -> Choices:
    """Settings for so many rows that can be used on machines like this."""
    tokens = machine.memory // MEMORY_PART // BYTES_A_TOKEN
    gpus = min(max(1, -(-rows // ROWS_A_GPU)), MOST_GPUS)
    return Choices(
        model=model or (MODEL if machine.has_gpu else SMALL_MODEL),
        batch_tokens=min(max(1 << max(tokens, 1).bit_length() - 1, LEAST_TOKENS), MOST_TOKENS),
        clusters=min(max(1, round(rows / ROWS_A_CLUSTER)), MOST_CLUSTERS),
        fit_sample=FIT_ROWS if rows > MANY_ROWS else None,
        actors=gpus if machine.grows else None,
        kmeans_workers=min(gpus, MOST_KMEANS_GPUS) if machine.grows else None,
    )


def this_machine() -> Machine:
    """What one actor of the extraction has here: a GPU, or its part of the memory that is free."""
    import torch

    from raycurate.device import free_memory

    if glob.glob("/dev/nvidia[0-9]*") and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        return Machine(int(torch.cuda.mem_get_info()[1]), f"one {name}", True)
    cpus = len(os.sched_getaffinity(0))
    memory = free_memory(torch.device("cpu")) // cpus
    return Machine(memory, f"one of {cpus} cores, which has {memory / (1 << 30):.1f} GiB of what is free", False)


def slurm_node(gpus: int) -> Machine:
    """What one actor has on nodes of which nothing else is known."""
    if gpus:
        return Machine(24 << 30, "a card of 24 GB; raise it for a larger one", True)
    return Machine(4 << 30, "a core that has 4 GiB", False)
