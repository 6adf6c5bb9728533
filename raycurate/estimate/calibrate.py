"""Rates of this machine, measured in seconds: products, element-wise work, images, rows, the disk, a process' start.

Every rate is the mean of many short runs, in half a second, of the package's own code on made-up data, one thread, so
that rows are parsed and images decoded as the stages do it. Others on the machine make rates lower, as they make stages
slower: a mean has them, the best run would not. All is measured twice, and the better one counts: a burst of other work
lasts seconds and would make one rate wrong by ten times.
Cost: 15 to 30 s, a third of it imports. Limits: no GPU is measured, nor an object store.
"""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from raycurate.estimate.rates import DEFAULT_RATES, Rates

if TYPE_CHECKING:
    import torch

ROWS = 128
WINDOW_SECONDS = 0.5
SIDE = 336
DISK_BYTES = 64 << 20
IMAGE_THREADS = 4
"""That look at images in a task of `ingest`, by its default."""


def calibrate(folder: str | Path | None = None) -> Rates:
    """Measure this machine.

    Args:
        folder: on the disk that a run directory would lie on; default: the one of temporary files.
    """
    return better_of(_measure(folder), _measure(folder))


def better_of(first: Rates, second: Rates) -> Rates:
    """Of each rate the faster one: fewer seconds, more of everything else."""
    names = [field.name for field in fields(Rates) if field.type == "float"]
    values = {
        name: (min if name.endswith("_seconds") else max)(getattr(first, name), getattr(second, name)) for name in names
    }
    return replace(second, **values)


def _measure(folder: str | Path | None) -> Rates:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        product, network, training = _products()
        memory, call = _network(network)
    finally:
        torch.set_num_threads(threads)
    parse, parse_bytes = _parsing()
    check, load, image = _images()
    write, read = _disk(folder)
    check_image, part = _small_files(folder)
    return Rates(
        product_flops=product,
        network_flops=network,
        training_flops=training,
        memory_bytes=memory,
        call_seconds=call,
        parse_row_seconds=parse,
        parse_bytes=parse_bytes,
        prepare_row_seconds=_preparing(),
        check_pixels=check,
        check_image_seconds=check_image,
        load_pixels=load,
        image_seconds=image,
        disk_write=write,
        disk_read=read,
        part_seconds=part,
        worker_seconds=1.5 * _start("torch, transformers.modeling_utils, pyarrow"),
        task_seconds=_start("ray, raycurate.stages.ingest"),
        table_row_seconds=DEFAULT_RATES.table_row_seconds * parse / DEFAULT_RATES.parse_row_seconds,
        measured=f"{socket.gethostname()} {time.strftime('%Y-%m-%d %H:%M', time.gmtime())}",
    )


def mean_seconds(work: Callable[[], object], window: float = WINDOW_SECONDS) -> float:
    """The mean of as many runs as begin within `window` seconds, after one that is not counted."""
    work()
    runs, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < window or not runs:
        work()
        runs += 1
    return max(passed / runs, 1e-9)


def _products() -> tuple[float, float, float]:
    """FLOP/s of k-means' product, of the small products of a network, and of these in a training's 32 bits."""
    import torch

    from raycurate.clustering.product import product_for
    from raycurate.models.adapter import resolve_dtype

    way = product_for(torch.device("cpu"), "exact")
    a_ND, b_KD = (torch.full((256, 1024), 0.5, dtype=way.dtype) for _ in range(2))
    scores_NK = torch.empty((256, 256), dtype=way.dtype)
    product = 2.0 * 256 * 256 * 1024 / mean_seconds(lambda: way.fill(a_ND, b_KD, scores_NK))
    network, training = (_network_product(dtype) for dtype in (resolve_dtype("auto", "cpu"), torch.float32))
    return product, network, training


def _network_product(dtype: torch.dtype) -> float:
    """FLOP/s of a product of the size that a small network has."""
    import torch

    rows, width = 1024, 128
    x, w = torch.full((rows, width), 0.5, dtype=dtype), torch.full((width, 4 * width), 0.5, dtype=dtype)
    return 2.0 * rows * width * 4 * width / mean_seconds(lambda: x @ w)


def _network(network_flops: float) -> tuple[float, float]:
    """Bytes/s of the work of a small decoder that is no product, as `Geometry.row_traffic` counts it; seconds of a
    layer that is called for one token.
    """
    import torch
    from transformers import LlamaConfig, LlamaModel

    from raycurate.models.adapter import resolve_dtype

    width, inner, layers, rows, tokens = 128, 320, 4, 128, 32
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=4,
        vocab_size=64,
        use_cache=False,
    )
    network = LlamaModel(config).to(resolve_dtype("auto", "cpu")).eval()
    many, one = (torch.ones(shape, dtype=torch.long) for shape in ((rows, tokens), (1, 1)))
    with torch.inference_mode():
        seconds = mean_seconds(lambda: network(input_ids=many))
        call = mean_seconds(lambda: network(input_ids=one)) / layers
    products = 2.0 * rows * tokens * layers * (4 * width * width + 3 * width * inner) / network_flops
    moved = rows * tokens * layers * 2 * (16.0 * width + 5.0 * inner)
    return moved / max(seconds - products, 0.2 * seconds), call


def _rows() -> list[dict[str, object]]:
    turns = [
        {"from": "human", "value": "<image>\nWhat is to be seen in this picture, and where does it stand?"},
        {"from": "gpt", "value": "A red kettle on a stove, beside a window that looks out on a garden."},
    ]
    return [{"id": str(n), "image": f"images/{n:06d}.jpg", "conversations": turns * (1 + n % 3)} for n in range(ROWS)]


def _parsing() -> tuple[float, float]:
    """Seconds a row to parse, key and write, and bytes/s of text."""
    from raycurate.run.filesystem import table_to_parquet
    from raycurate.samples.parse import ParseOptions, parse_row
    from raycurate.samples.rows import RawRow
    from raycurate.samples.schema import Sample, samples_to_table

    rows, options = _rows(), ParseOptions()
    text = json.dumps(rows)

    def work() -> None:
        parsed = [parse_row(RawRow("calibration", n, row), options) for n, row in enumerate(rows)]
        table_to_parquet(samples_to_table([each for each in parsed if isinstance(each, Sample)]))

    # On their way rows are written to buckets and read again, in columns: little beside the parsing.
    return 1.15 * mean_seconds(work) / ROWS, len(text) / mean_seconds(lambda: json.loads(text)) / 4.0


def _images() -> tuple[float, float, float]:
    """Pixels/s that are checked, pixels/s that are decoded and processed, seconds of the smallest image."""
    import numpy as np
    import torch

    from raycurate.encoding.images import ImageReader
    from raycurate.models.adapter import load_processor
    from raycurate.samples.images import check_image, load_image

    large, small = _jpeg(2 * SIDE), _jpeg(16)
    check = mean_seconds(lambda: check_image(large))

    def prepare(data: bytes) -> None:
        image = load_image(data).resize((SIDE, SIDE))
        (np.asarray(image, dtype=np.float32) / 255.0 - 0.5).transpose(2, 0, 1).copy()

    load = mean_seconds(lambda: prepare(large))
    reader = ImageReader(load_processor("tiny"), torch.float32)
    return (2 * SIDE) ** 2 / check, (2 * SIDE) ** 2 / load, mean_seconds(lambda: reader.read(load_image(small)))


def _jpeg(side: int) -> bytes:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(stream, "JPEG")
    return stream.getvalue()


def _preparing() -> float:
    """Seconds a row to render and tokenise, by the embedded model's processor."""
    from raycurate.encoding.prepare import Preparer
    from raycurate.models.adapter import load_processor

    preparer = Preparer(load_processor("tiny"), max_length=4096)
    messages = [{"role": "user", "text": "What is to be seen, and where?"}, {"role": "assistant", "text": "A kettle."}]
    rows = [{"key": str(n), "messages": messages, "images": []} for n in range(ROWS)]
    return mean_seconds(lambda: preparer.prepare(rows)) / ROWS


def _disk(folder: str | Path | None) -> tuple[float, float]:
    """Bytes/s written, with a sync, and read back; what is read may come from the system's cache."""
    data = os.urandom(1 << 20) * (DISK_BYTES >> 20)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".raycurate-") as place:
        path = Path(place) / "data"

        def write() -> None:
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

        write_seconds = mean_seconds(write, window=0.0)
        return DISK_BYTES / write_seconds, DISK_BYTES / mean_seconds(path.read_bytes, window=0.0)


def _small_files(folder: str | Path | None) -> tuple[float, float]:
    """Seconds to look at an image file, as `ingest` does, and to write, or find and read, a part of one row."""
    from raycurate.run.store import Run
    from raycurate.samples.images import ImageRoot
    from raycurate.samples.schema import SAMPLE_SCHEMA
    from raycurate.samples.seen import WatchedRoot, states_of
    from raycurate.samples.shard import ShownImages

    with tempfile.TemporaryDirectory(dir=folder, prefix=".raycurate-") as place:
        names = [f"{number}.jpg" for number in range(ROWS)]
        for name in names:
            Path(place, name).write_bytes(_jpeg(16))
        root = ImageRoot.of(place)
        images = [{"path": name, "data": None, "sha": None} for name in names]
        shown = ShownImages(pa.table({"images": pa.array([images], SAMPLE_SCHEMA.field("images").type)}))

        def look() -> None:
            states_of(root, names)
            shown.faults(WatchedRoot(root.root, root.links), threads=IMAGE_THREADS)

        noun = Run(f"{place}/run").noun("parts")
        row = pa.table({"key": ["0"], "kept": [True], "score": [0.5]})
        noun.begin({"stage": "calibration"})

        def commit_and_read() -> None:
            noun.commit_part(0, row, rows_in=1)
            noun.read_part(0)

        return mean_seconds(look) / ROWS, mean_seconds(commit_and_read) / 2


def _start(libraries: str) -> float:
    """Seconds until a new process has some libraries."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {libraries}"], check=False)
    return time.perf_counter() - started
