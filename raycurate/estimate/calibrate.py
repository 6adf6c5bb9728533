"""Rates of this machine, measured in seconds: products, element-wise work, images, rows, the disk, a process' start.

Every rate is the mean of many short runs, in half a second, of the package's own code on made-up data, one thread, so
that rows are parsed and images decoded as the stages do it. Others on the machine make rates lower, as they make stages
slower: a mean has them, the best run would not.
Cost: 10 to 20 s, half of it imports. Limits: no GPU is measured, nor an object store.
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
from pathlib import Path

from raycurate.estimate.rates import DEFAULT_RATES, Rates

ROWS = 128
WINDOW_SECONDS = 0.5
SIDE = 336
DISK_BYTES = 64 << 20


def calibrate(folder: str | Path | None = None) -> Rates:
    """Measure this machine.

    Args:
        folder: on the disk that a run directory would lie on; default: the one of temporary files.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        product, network, memory, call = _products()
    finally:
        torch.set_num_threads(threads)
    parse, parse_bytes = _parsing()
    check, load, image = _images()
    write, read = _disk(folder)
    return Rates(
        product_flops=product,
        network_flops=network,
        memory_bytes=memory,
        call_seconds=call,
        parse_row_seconds=parse,
        parse_bytes=parse_bytes,
        prepare_row_seconds=_preparing(),
        check_pixels=check,
        load_pixels=load,
        image_seconds=image,
        disk_write=write,
        disk_read=read,
        worker_seconds=_start(),
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


def _products() -> tuple[float, float, float, float]:
    """FLOP/s of k-means' product and of a small network's, bytes/s of element-wise work, seconds of a small layer."""
    import torch

    from raycurate.clustering.product import product_for
    from raycurate.models.adapter import resolve_dtype

    way = product_for(torch.device("cpu"), "exact")
    a_ND, b_KD = (torch.full((256, 1024), 0.5, dtype=way.dtype) for _ in range(2))
    scores_NK = torch.empty((256, 256), dtype=way.dtype)
    product = 2.0 * 256 * 256 * 1024 / mean_seconds(lambda: way.fill(a_ND, b_KD, scores_NK))
    dtype = resolve_dtype("auto", "cpu")
    rows, width = 1024, 128
    x, w = torch.full((rows, width), 0.5, dtype=dtype), torch.full((width, 4 * width), 0.5, dtype=dtype)
    network = 2.0 * rows * width * 4 * width / mean_seconds(lambda: x @ w)
    wide = torch.full((1 << 22,), 0.5, dtype=dtype)
    memory = 3.0 * wide.numel() * wide.element_size() / mean_seconds(lambda: wide + wide)
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval()
    one = torch.zeros(1, 1, 64)
    with torch.inference_mode():
        call = mean_seconds(lambda: layer(one))
    return product, network, memory, 2.0 * call  # a decoder's layer has about twice the calls of this one


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

    # Rows are written twice and read once more on their way (`ingest`), which the second half of the factor stands for.
    return 2.0 * mean_seconds(work) / ROWS, len(text) / mean_seconds(lambda: json.loads(text)) / 4.0


def _images() -> tuple[float, float, float]:
    """Pixels/s that are checked, pixels/s that are decoded and processed, seconds of the smallest image."""
    import numpy as np
    from PIL import Image

    from raycurate.samples.images import check_image, load_image

    def encoded(side: int) -> bytes:
        pixels = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).resize((side, side)).save(stream, "JPEG")
        return stream.getvalue()

    large, small = encoded(2 * SIDE), encoded(16)
    check = mean_seconds(lambda: check_image(large))

    def prepare(data: bytes) -> None:
        image = load_image(data).resize((SIDE, SIDE))
        (np.asarray(image, dtype=np.float32) / 255.0 - 0.5).transpose(2, 0, 1).copy()

    load = mean_seconds(lambda: prepare(large))
    return (2 * SIDE) ** 2 / check, (2 * SIDE) ** 2 / load, mean_seconds(lambda: load_image(small)) * 3.0


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


def _start() -> float:
    """Seconds until a new process has the libraries of a worker."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, transformers.modeling_utils, pyarrow"], check=False)
    return 1.5 * (time.perf_counter() - started)
