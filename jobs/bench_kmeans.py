"""Spherical k-means against ``faiss.Kmeans(spherical=True)``: the same rows, start, iterations and threads.

`bench.py --only kmeans` runs it. Cost: 2 N K D FLOP an iteration and side; the rows in 16 bits on disk.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

Measured = tuple[str, float, float, str]
"""Precision, our least seconds and faiss's, and a note with the least, median and most of the ratios of the runs."""
FAISS_PROGRAM = """
import sys, time, numpy as np, faiss
faiss.omp_set_num_threads(int(sys.argv[3]))
rows = np.load(sys.argv[1]).astype(np.float32); start = np.load(sys.argv[2])
clusters, dim = start.shape
kmeans = faiss.Kmeans(dim, clusters, niter=int(sys.argv[4]), spherical=True, max_points_per_centroid=10**9,
                      min_points_per_centroid=1)
if hasattr(kmeans.cp, "early_stop_threshold"):
    kmeans.cp.early_stop_threshold = 0
began = time.perf_counter(); kmeans.train(rows, init_centroids=start); took = time.perf_counter() - began
_, found = kmeans.index.search(rows, 1), None
print(took, float(kmeans.obj[-1]) / len(rows), len(kmeans.obj))
"""

OUR_PROGRAM = """
import sys, time, numpy as np, torch
from raycurate.clustering import KMeansSettings, spherical_kmeans
torch.set_num_threads(int(sys.argv[3]))
rows = torch.from_numpy(np.load(sys.argv[1])); start = np.load(sys.argv[2])
spherical_kmeans(rows[:2000], KMeansSettings(clusters=5, iterations=2))
settings = KMeansSettings(clusters=len(start), iterations=int(sys.argv[4]), tolerance=0, precision=sys.argv[5])
began = time.perf_counter(); result = spherical_kmeans(rows, settings, initial_KD=start)
print(time.perf_counter() - began, result.history[-1].objective, len(result.history))
"""


def measure(folder: Path, rows: int, dim: int, clusters: int, iterations: int, repeats: int) -> Iterator[Measured]:
    """Both k-means in turns, in processes of their own, on rows around 800 directions, as activation features are."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((800, dim), dtype=np.float32)
    shared = rng.standard_normal(dim, dtype=np.float32)
    made = 0.6 * centres[rng.integers(0, 800, rows)] + shared
    for begin in range(0, rows, 5000):
        made[begin : begin + 5000] += rng.standard_normal((len(made[begin : begin + 5000]), dim), dtype=np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    np.save(folder / "rows.npy", made.astype(np.float16))
    start = made[rng.choice(rows, clusters, replace=False)].astype(np.float16).astype(np.float32)
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    np.save(folder / "start.npy", start)
    threads = os.cpu_count() or 1
    arguments = [str(folder / "rows.npy"), str(folder / "start.npy"), str(threads), str(iterations)]
    for precision in ("exact", "fast"):
        theirs, ours = [], []
        for _ in range(repeats):
            theirs.append(_timed(FAISS_PROGRAM, arguments, threads))
            ours.append(_timed(OUR_PROGRAM, [*arguments, precision], threads))
        gap = abs(ours[0][1] - theirs[0][1]) / theirs[0][1]
        ratios = sorted(mine[0] / other[0] for mine, other in zip(ours, theirs, strict=True))
        of_runs = f"of {repeats} runs {ratios[0]:.2f}, {statistics.median(ratios):.2f}, {ratios[-1]:.2f}"
        counts = f"{ours[0][2]:.0f} and {theirs[0][2]:.0f} iterations"
        note = f"{rows} x {dim}, K={clusters}, {counts}, objectives differ {gap:.1e}; {of_runs}"
        yield precision, min(mine[0] for mine in ours), min(other[0] for other in theirs), note


def _timed(program: str, arguments: list[str], threads: int) -> list[float]:
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]
