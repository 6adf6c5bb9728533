"""What one GPU gives: matrix products, k-means iterations and extraction, each against its bound. No Ray.

    peak        a large bf16, TF32-free float32 product: the card's own rate
    kmeans      iterations of exact spherical k-means on synthetic unit rows, seconds and share of the bf16 peak
    extraction  our extractor on prepared batches at the geometry of a 2B LLaVA with random weights, against a plain
                loop of the model's forward to the same layer, and against the FLOP of it at the card's own rate

    PYTHONPATH=. python jobs/bench_gpu.py [--device cpu --small] [--rows 665000] [--seconds 80]

Nothing is asserted. Each part ends at its time budget and says how much of it was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from raycurate.clustering.exactness import unit_centroids
from raycurate.clustering.local_rows import LocalRows
from raycurate.clustering.partition import ArrayRows, Partition
from raycurate.clustering.screening import Screen
from raycurate.device import keep_wide_sums
from raycurate.encoding.batch import PreparedBatch
from raycurate.features.extractor import ActivationExtractor

LAYERS = (3, 7, 11, 15, 19)


def say(line: str) -> None:
    """One line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Watch:
    """Wall time of work on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> float:
        """Seconds, when everything asked for is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def best(self, action: Callable[[], Any], repeats: int) -> float:
        """Seconds of the fastest of ``repeats`` calls after one that is not counted."""
        action()
        times = []
        for _ in range(repeats):
            started = self.now()
            action()
            times.append(self.now() - started)
        return min(times)


def bench_peak(device: torch.device, size: int) -> dict[torch.dtype, float]:
    """FLOP/s of a square product by type."""
    watch, found = Watch(device), {}
    for dtype in (torch.bfloat16, torch.float32):
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        seconds = watch.best(functools.partial(torch.mm, left, right), 5)
        found[dtype] = 2 * size**3 / seconds
        say(f"peak        {str(dtype).removeprefix('torch.'):<9} {size}^3 {found[dtype] / 1e12:8.1f} TFLOP/s")
    return found


# k-means


def made_rows(count: int, dim: int, groups: int, device: torch.device) -> torch.Tensor:
    """Float16 unit rows around ``groups`` directions that share a common part, as features do; made on the device."""
    generator = torch.Generator(device).manual_seed(0)
    centres = torch.randn(groups, dim, device=device, generator=generator)
    centres += torch.randn(dim, device=device, generator=generator)
    rows_ND = torch.empty(count, dim, dtype=torch.float16, device=device)
    for start in range(0, count, 4096):
        part_ND = rows_ND[start : start + 4096]
        group_N = torch.randint(0, groups, (len(part_ND),), device=device, generator=generator)
        noise = torch.randn(len(part_ND), dim, device=device, generator=generator)
        part_ND.copy_(torch.nn.functional.normalize(centres[group_N] + 0.7 * noise, dim=1))
    return rows_ND


def bench_kmeans(device: torch.device, rows: int, dim: int, clusters: int, peak: float, budget: float) -> None:
    """Ten iterations, as a single worker of the stage makes them."""
    watch = Watch(device)
    ends = watch.now() + budget
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        rows = min(rows, int((free * 0.85 - 26 * clusters * dim - (6 << 30)) // (2 * dim)))
    rows_ND = made_rows(rows, dim, min(clusters, 2000), device)
    say(f"kmeans      {rows} rows of {dim} ({2 * rows * dim / 1e9:.1f} GB in float16), K {clusters}")
    source = ArrayRows(rows_ND, float(max(part.abs().max() for part in rows_ND.split(4096))))
    first_KD = source.take(np.random.default_rng(0).choice(rows, clusters, replace=False)).double()
    centroids_KD = unit_centroids(first_KD, torch.zeros_like(first_KD, dtype=torch.float32))
    del first_KD
    partition = Partition(source, clusters, device)
    flop, times = 2.0 * rows * clusters * dim, []
    for iteration in range(10):
        started = watch.now()
        open_rows = int((partition.gaps_N <= 0).sum()) if iteration else rows
        moved = partition.step(Screen(centroids_KD))
        centroids_KD = unit_centroids(partition.totals.sums_KD, centroids_KD)
        times.append(watch.now() - started)
        say(
            f"kmeans      iteration {iteration} {times[-1]:8.3f} s  moved {moved:>8}  scored {open_rows:>8}"
            f"  {100 * flop / times[-1] / peak:5.1f} % of the bf16 product's rate"
        )
        if watch.now() + times[-1] > ends:
            break
    first = Screen(centroids_KD)
    part_ND = rows_ND[: partition.block_rows].to(first.dtype)
    seconds = watch.best(lambda: part_ND @ first.coarse.vectors_KD.T, 5)
    rate = 2.0 * len(part_ND) * clusters * dim / seconds
    say(
        f"kmeans      median {np.median(times):.3f} s an iteration of {len(times)}; the bare product of one block "
        f"({len(part_ND)} rows) reaches {100 * rate / peak:.1f} % of the square one's rate"
    )


def bench_file_rows(device: torch.device, dim: int) -> None:
    """Rows outside the cache: read from the scratch file every iteration."""
    watch = Watch(device)
    rows_ND = made_rows(8192, dim, 50, device)
    local = LocalRows(len(rows_ND), dim, cache_bytes=0, device=device)
    local.append(rows_ND, 1.0)
    seconds = watch.best(lambda: [block.sum() for _, block in local.blocks(2048)], 2)
    local.close()
    say(f"kmeans      rows from the scratch file reach the device at {2 * rows_ND.numel() / seconds / 1e9:.2f} GB/s")


# extraction


def made_vlm(device: torch.device, small: bool) -> Any:
    """A LLaVA of 24 layers of 2048 and SigLIP so400m with random weights, as the extractor takes it."""
    import transformers as hf

    from raycurate.models.adapter import VLM

    text = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 32}
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    size = {"image_size": 378, "patch_size": 14}
    if small:
        text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 24, "num_attention_heads": 4}
        vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        size = {"image_size": 56, "patch_size": 14}
    config = hf.LlavaConfig(
        vision_config=hf.SiglipVisionConfig(**vision, **size),
        text_config=hf.LlamaConfig(**text, vocab_size=32_064, max_position_embeddings=4096),
        image_token_id=32_000,
        vision_feature_layer=-2,
        vision_feature_select_strategy="full",
    )
    with torch.device(device), _default_dtype(torch.bfloat16):
        network = hf.LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    network.config.use_cache = network.get_decoder().config.use_cache = False
    return VLM(
        name="made",
        model=network,
        processor=None,
        layers=network.get_decoder().layers,
        image_token_id=32_000,
        hidden_size=text["hidden_size"],
        num_layers=24,
        model_type="llava",
        device=device,
        dtype=torch.bfloat16,
        causal=True,
        shares_images=False,
    )


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def made_batch(vlm: Any, rows: int, words: int, seed: int) -> PreparedBatch:
    """Rows of one image each, then about ``words`` tokens of text."""
    vision = vlm.model.config.vision_config
    visual = (vision.image_size // vision.patch_size) ** 2
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(5, 31_000, (rows, words), generator=generator, dtype=torch.int32)
    ids = torch.cat([torch.full((rows, visual), vlm.image_token_id, dtype=torch.int32), text], dim=1)
    size = vision.image_size
    pixels = torch.randn(rows, 3, size, size, generator=generator).to(torch.bfloat16)
    return PreparedBatch(
        keys=tuple(f"{seed}-{i}" for i in range(rows)),
        rows=tuple(range(rows)),
        input_ids_BT=ids,
        attention_mask_BT=torch.ones_like(ids, dtype=torch.bool),
        text_mask_BT=ids != vlm.image_token_id,
        image_counts=(1,) * rows,
        image_index_S=torch.arange(rows, dtype=torch.int32),
        image_tokens_U=torch.full((rows,), visual, dtype=torch.int32),
        image_inputs={"pixel_values": pixels},
        image_splits={"pixel_values": (1,) * rows},
    )


class _Stop(Exception):
    """Ends the plain forward after the last layer."""


def _plain(vlm: Any, batch: PreparedBatch) -> None:
    """The model's forward to the same layer and nothing else."""

    def stop(*_: Any) -> None:
        raise _Stop

    handle = vlm.layers[LAYERS[-1]].self_attn.o_proj.register_forward_hook(stop)
    inputs = {
        "input_ids": batch.input_ids_BT.long().to(vlm.device),
        "pixel_values": batch.image_inputs["pixel_values"].to(vlm.device, vlm.dtype),
    }
    with torch.inference_mode(), contextlib.suppress(_Stop):
        vlm.model(**inputs)
    handle.remove()


def bench_extraction(device: torch.device, small: bool, peak: float, budget: float) -> None:
    """Samples/s of both, batches in turn so that neither has the warmer card; and the share of the product's rate."""
    watch = Watch(device)
    ends = watch.now() + budget
    vlm = made_vlm(device, small)
    count = sum(p.numel() for p in vlm.model.parameters())
    rows = 2 if small else 17
    batches = [made_batch(vlm, rows, 200, seed) for seed in range(4)]
    say(
        f"extraction  {count / 1e9:.2f} B parameters, {batches[0].num_tokens // rows} tokens a row, {rows} rows a batch"
    )
    with FlopCounterMode(display=False) as counter:
        _plain(vlm, batches[0])
    flop = counter.get_total_flops() / rows
    say(f"extraction  {flop / 1e12:.3f} TFLOP a row: at most {peak / flop:.1f} samples/s at the bf16 product's rate")
    extractor = ActivationExtractor(vlm, LAYERS)
    packed = [batch.to_bytes() for batch in batches]

    def ours(number: int) -> None:
        result = extractor.extract(batches[number])
        assert result.ok_N.all(), result.details

    def carried(number: int) -> None:
        extractor.extract(PreparedBatch.from_bytes(packed[number]))

    actions = {"extractor": ours, "extractor, from bytes": carried, "plain forward": lambda n: _plain(vlm, batches[n])}
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(2 if small else 25):
        for name, action in actions.items():
            started = watch.now()
            action(turn % len(batches))
            if turn > 0:
                seconds[name].append(watch.now() - started)
        if watch.now() > ends and turn > 1:
            break
    plain = rows / float(np.median(seconds["plain forward"]))
    for name, taken in seconds.items():
        rate = rows / float(np.median(taken))
        say(
            f"extraction  {name:<22} {rate:8.1f} samples/s, {rate / plain:5.3f} of the plain loop, "
            f"{100 * rate * flop / peak:5.1f} % of the bf16 product's rate, {len(taken)} batches"
        )


def main() -> None:
    """Run the parts one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes for a CPU: to see that it runs")
    parser.add_argument("--rows", type=int, default=665_000)
    parser.add_argument("--dim", type=int, default=20_480)
    parser.add_argument("--clusters", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=80.0, help="budget of k-means and of extraction, each")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "no CUDA device here; --device cpu --small shows that it runs\n")
    measure(torch.device(options.device), options.small, options.rows, options.dim, options.clusters, options.seconds)


def measure(device: torch.device, small: bool, rows: int, dim: int, clusters: int, seconds: float) -> None:
    """All parts on one device; what does not fit is scaled to its memory."""
    keep_wide_sums()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    say(f"machine     {name}, torch {torch.__version__}")
    peak = bench_peak(device, 512 if small else 8192)[torch.bfloat16]
    if small:
        rows, dim, clusters = 2000, 256, 50
    bench_kmeans(device, rows, dim, clusters, peak, seconds)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    bench_file_rows(device, dim)
    bench_extraction(device, small, peak, seconds)


if __name__ == "__main__":
    main()
