"""The figures of the README: each measured side by side with its peer in one run, as ratios.

    extraction  the Ray pipeline against the same batches in a bare in-memory torch loop
    kmeans      spherical k-means against ``faiss.Kmeans(spherical=True)``, same data, start, iterations and threads
    mmd         incremental greedy MMD against the published O(n^2 M^2) form, same picks
    features    a part of features, written and read by the run directory, against the same bytes as one plain column
    memory      peak resident memory of the processes of each stage at N and 10 N rows
    sweep       one more (temperature, ratio) against the first run, extraction included
    methods     a second and a third method on the scores of the first, against the first with its pass; two models
    vitw        a finetune step with the weighted loss against the same step of transformers' own Trainer

On a GPU `--device cuda` measures that alone: products, k-means and extraction against the card's own rate, without Ray
(`bench_gpu.py`, which needs torch and transformers only).

A ratio below or above one says who is faster on this machine now; nothing here is a test, and no time is asserted.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
from bench_kmeans import measure as measure_kmeans
from bench_memory import stage_peaks
from rich.console import Console

console = Console(soft_wrap=True, highlight=False)
THREADS = os.cpu_count() or 1


def say(what: str, ours: float, peer: float, unit: str, note: str = "") -> None:
    """One line: the two figures and ours over the peer's."""
    figures = f"ours {ours:>10.4f} {unit}  peer {peer:>10.4f} {unit}  ours/peer {ours / peer:>7.4f}"
    console.print(f"{what:<34} {figures}  {note}")


def machine() -> str:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    memory = psutil.virtual_memory().total / 2**30
    return f"{model}, {THREADS} threads, {memory:.0f} GiB, {gpu}, torch {torch.__version__}"


# extraction


def bench_extraction(folder: Path, rows: int) -> None:
    """A random small VLM whose forward pass dominates, over the demo's images."""
    import torch

    from raycurate.config import ExtractConfig, IngestConfig
    from raycurate.demo.data import build_demo_dataset, scale_for_rows
    from raycurate.features.extractor import ActivationExtractor
    from raycurate.models.adapter import load_vlm
    from raycurate.ray_session import ray_session
    from raycurate.run.store import Run
    from raycurate.settings import make_config
    from raycurate.stages.extract import extract
    from raycurate.stages.ingest import ingest

    model = _medium_vlm(folder / "model")
    data = folder / "data"
    build_demo_dataset(data, scale=scale_for_rows(rows))
    run = Run(str(folder / "run"))
    # Small batches so that the end of the run, where actors fall idle one by one, is short.
    config = make_config(
        ExtractConfig, {"model": str(model), "batch_tokens": 2400, "window_rows": 64, "batch_rows": 16}
    )
    with ray_session():
        settings = {"source": str(data / "train.json"), "images": str(data), "rows_per_shard": 64}
        ingest(run, make_config(IngestConfig, settings))
        manifest = extract(run, config)
    batches = _batches(run, config, str(data))
    torch.set_num_threads(THREADS)
    extractor = ActivationExtractor(load_vlm(str(model), device="cpu"))
    extractor.extract(batches[0])
    started = time.perf_counter()
    for batch in batches[1:]:
        extractor.extract(batch)
    bare = sum(batch.num_rows for batch in batches[1:]) / (time.perf_counter() - started)
    say(
        "extraction", manifest.metrics["rows_per_second"], bare, "rows/s", f"{manifest.rows_out} rows, loading included"
    )


def _medium_vlm(path: Path) -> Path:
    """LLaVA's architecture at about 0.2 B parameters with random weights, and the embedded model's processor."""
    import torch
    from transformers import AutoConfig, AutoProcessor, LlavaForConditionalGeneration

    from raycurate.models.source import resolve_model

    source = resolve_model("tiny")
    config = AutoConfig.from_pretrained(source)
    for part, width, layers in ((config.text_config, 1024, 12), (config.vision_config, 512, 8)):
        part.hidden_size, part.intermediate_size, part.num_hidden_layers = width, 4 * width, layers
        part.num_attention_heads = width // 64
    config.text_config.num_key_value_heads = config.text_config.num_attention_heads
    config.text_config.head_dim = 64
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(path)
    AutoProcessor.from_pretrained(source).save_pretrained(path)
    return path


def _batches(run: Any, config: Any, images: str) -> list[Any]:
    """The very batches that the stage made, in memory."""
    import pyarrow as pa

    from raycurate.encoding.batch import PreparedBatch
    from raycurate.stages.engine.model_facts import model_facts
    from raycurate.stages.workers.extract import load_shards

    samples = run.noun("samples")
    facts = model_facts(config, False, samples)
    table = pa.table({"shard": list(range(samples.require("ingest").shards))})
    payloads = [row["payload"][0].as_py() for row in load_shards(samples, config, facts, images, table)]
    return [PreparedBatch.from_bytes(payload) for payload in payloads if payload]


# greedy MMD


def bench_mmd(sizes: tuple[int, ...]) -> None:
    """The published form gathers every candidate subset anew; ours updates one vector per pick."""
    import pyarrow as pa

    from raycurate.selection.keys import key_array
    from raycurate.selection.mmd import rank_chunk

    for size in sizes:
        picks = size // 5
        rng = np.random.default_rng(size)
        wide = rng.standard_normal((1, 256)) + 0.8 * rng.standard_normal((size, 256))
        features = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float16)
        keys = key_array(pa.array([f"{i:08d}-0" for i in range(size)]))
        took = []
        for _ in range(3):
            began = time.perf_counter()
            ranking = rank_chunk(features, keys)
            took.append(time.perf_counter() - began)
        ours = min(took)
        if size > 700:
            console.print(f"greedy MMD, n={size:<17} ours {ours:>10.4f} s   the published form is out of reach")
            continue
        began = time.perf_counter()
        chosen = _published_greedy(features.astype(np.float64), picks)
        theirs = time.perf_counter() - began
        same = chosen == ranking.order_N[:picks].tolist()
        note = f"M={picks}, kernel and all n picks against M picks, identical: {same}, {theirs / ours:,.0f}x"
        say(f"greedy MMD, n={size}", ours, theirs, "s", note)


def _published_greedy(features_ND: np.ndarray, picks: int) -> list[int]:
    """MMD^2 of every candidate subset at every step."""
    squared = ((features_ND[:, None, :] - features_ND[None, :, :]) ** 2).sum(axis=2)
    kernel = np.exp(-squared / 2)
    chosen: list[int] = []
    for _ in range(picks):
        left = np.setdiff1d(np.arange(len(kernel)), chosen)
        subsets = np.hstack([np.tile(np.array(chosen, dtype=int), (left.size, 1)), left[:, None]])
        within = kernel[subsets[:, :, None], subsets[:, None, :]].mean(axis=(1, 2))
        value = within - 2 * kernel[:, subsets].mean(axis=(0, 2))
        chosen.append(int(left[np.flatnonzero(value <= value.min() + 1e-13)[0]]))
    return chosen


# sweep


def bench_sweep(folder: Path, rows: int) -> None:
    """The second selection reads ranks and quotas only."""
    from raycurate.demo.data import build_demo_dataset, scale_for_rows
    from raycurate.pipeline import run_recipe
    from raycurate.ray_session import ray_session
    from raycurate.recipe import load_recipe

    build_demo_dataset(folder / "data", scale=scale_for_rows(rows))
    overrides = [f"run={folder}/run", f"ingest.source={folder}/data/train.json", f"ingest.images={folder}/data"]
    overrides += [f"export.out={folder}/coreset.json", "test=null", "compare=null", "select.method=coincide"]
    recipe = Path(__file__).parent / "recipes" / "demo.yaml"
    with ray_session():
        began = time.perf_counter()
        run_recipe(load_recipe(recipe, overrides))
        first = time.perf_counter() - began
        began = time.perf_counter()
        run_recipe(load_recipe(recipe, [*overrides, "select.ratio=0.1", "select.options.temperature=0.2"]))
        second = time.perf_counter() - began
    say("one more (temperature, ratio)", second, first, "s", f"{rows} rows, export included")


# methods


def bench_methods(folder: Path, rows: int, model: str, what: str) -> None:
    """One pass of the model makes the scores of all three; each further method is a selection of its own."""
    from raycurate.config import IngestConfig, ScoreConfig, SelectConfig
    from raycurate.demo.data import build_demo_dataset, scale_for_rows
    from raycurate.ray_session import ray_session
    from raycurate.run.store import Run
    from raycurate.settings import make_config
    from raycurate.stages.ingest import ingest
    from raycurate.stages.score import score
    from raycurate.stages.select import select

    data, run = folder / "data", Run(str(folder / "run"))
    build_demo_dataset(data, scale=scale_for_rows(rows))

    def timed(method: str) -> float:
        began = time.perf_counter()
        select(run, make_config(SelectConfig, {"method": method, "label": method}))
        return time.perf_counter() - began

    with ray_session():
        began = time.perf_counter()
        ingest(run, make_config(IngestConfig, {"source": str(data / "train.json"), "images": str(data)}))
        score(run, make_config(ScoreConfig, {"model": model, "scores": ["token_losses", "mean_token"]}))
        timed("el2n")
        first = time.perf_counter() - began
        for method in ("perplexity", "d2_pruning"):
            say(f"{method} after el2n, {what}", timed(method), first, "s", f"{rows} rows, ingest and pass in the peer")


# weighted loss


def bench_vitw() -> None:
    """Both trainers in turns on the same batches of the embedded model."""
    import torch
    from bench_trainer import measure_step

    torch.set_num_threads(THREADS)
    found = measure_step("tiny", on_gpu=torch.cuda.is_available())
    ours = found["tokens_per_second"]
    say("finetune step with VITW", ours, ours / found["ratio"], "tok/s", "32 rows of the embedded model")


# features on disk


def bench_features(folder: Path, rows: int, dim: int) -> None:
    """A part of the run directory, checksum, record and keys included, beside pyarrow alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from raycurate.features.rows import features_column, features_of_table, with_row_facts
    from raycurate.run.store import Run

    pa.set_cpu_count(1)
    noun = Run(str(folder / "run")).noun("features")
    noun.begin({"stage": "extract"})
    rows_ND = np.random.default_rng(0).standard_normal((rows, dim), dtype=np.float32).astype(np.float16)
    keys = pa.array([f"{i:040d}-0" for i in range(rows)])
    plain = pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * dim), rows, [None, pa.py_buffer(rows_ND)])

    def write() -> None:
        table = with_row_facts(pa.table({"key": keys, "features": features_column(rows_ND)}))
        noun.commit_part(0, table, rows_in=rows, compression="none")

    def write_plain() -> None:
        pq.write_table(pa.table({"f": plain}), folder / "plain.parquet", compression="none", use_dictionary=False)

    def read() -> None:
        assert features_of_table(noun.read_part(0)).shape == rows_ND.shape

    def read_plain() -> None:
        assert pq.read_table(folder / "plain.parquet", use_threads=False).num_rows == rows

    for name, ours, peer in (("write", write, write_plain), ("read", read, read_plain)):
        rate, peers = (rows_ND.nbytes / 1e9 / min(_seconds(call) for _ in range(5)) for call in (ours, peer))
        say(f"features, {name}", rate, peers, "GB/s", f"{rows} x {dim} float16, file system included")


def _seconds(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _bench_gpu() -> None:
    """LLaVA-665k's features in 10,000 clusters, and a 2B LLaVA."""
    import torch
    from bench_gpu import measure

    if not torch.cuda.is_available():
        raise click.UsageError("no CUDA device here; jobs/bench_gpu.py --device cpu --small shows that it runs")
    measure(torch.device("cuda"), False, 665_000, 20_480, 10_000, 80.0)


BENCHES = ("extraction", "kmeans", "mmd", "features", "memory", "sweep", "methods", "vitw")


@click.command(context_settings={"show_default": True})
@click.option("--only", multiple=True, type=click.Choice(BENCHES), help="Which to run; default: all.")
@click.option("--rows", default=2400, help="Rows of the extraction bench.")
@click.option("--sweep-rows", default=50_325, help="Demo rows of the benches sweep and methods.")
@click.option("--method-rows", default=2000, help="Rows of the bench methods with the larger model.")
@click.option("--memory-rows", default=20_000, help="N of the memory bench; it also runs 10 N.")
@click.option("--repeats", default=3, help="Runs of each side of the k-means bench; the fastest counts.")
@click.option("--device", default="cpu", type=click.Choice(("cpu", "cuda")), help="cuda: the figures of one GPU.")
def main(
    only: tuple[str, ...], rows: int, sweep_rows: int, method_rows: int, memory_rows: int, repeats: int, device: str
) -> None:
    """Measure, side by side with the peer.

    \b
    Example:
      python jobs/bench.py --only kmeans
    """
    if device == "cuda":
        _bench_gpu()
        return
    chosen = only or BENCHES
    console.print(f"[bold]{machine()}[/]")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for bench in chosen:
            (folder / bench).mkdir()
        if "mmd" in chosen:
            bench_mmd((66, 200, 600, 5000))
        if "kmeans" in chosen:
            for precision, ours, theirs, note in measure_kmeans(folder / "kmeans", 50_000, 2560, 500, 10, repeats):
                say(f"k-means ({precision})", ours, theirs, "s", note)
        if "features" in chosen:
            bench_features(folder / "features", 8192, 20_480)
        if "extraction" in chosen:
            bench_extraction(folder / "extraction", rows)
        if "sweep" in chosen:
            bench_sweep(folder / "sweep", sweep_rows)
        if "methods" in chosen:
            bench_methods(folder / "methods" / "tiny", sweep_rows, "tiny", "embedded model")
            medium = _medium_vlm(folder / "methods" / "model")
            bench_methods(folder / "methods" / "medium", method_rows, str(medium), "0.2 B model")
        if "memory" in chosen:
            for name, large, small, note in stage_peaks(folder / "memory", memory_rows, 2560):
                say(f"peak memory, {name}", large / 2**20, small / 2**20, "MiB", note)
        if "vitw" in chosen:
            bench_vitw()


if __name__ == "__main__":
    main()
