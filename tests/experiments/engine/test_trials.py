"""What a trial leaves behind in its process."""

from __future__ import annotations

import threading

import psutil

from raycurate.experiments.engine.trials import _release_memory

BLOCK, BLOCKS = 4096, 20_000


def test_memory_that_the_thread_of_a_trial_freed_goes_back():
    """Also from below what is still in use, as after a training: the C library alone keeps it."""
    kept: list[bytearray] = []

    def allocate():
        blocks = [bytearray(b"x") * BLOCK for _ in range(BLOCKS)]
        kept.append(blocks[-1])

    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()
    process = psutil.Process()
    before = process.memory_info().rss
    _release_memory()
    assert before - process.memory_info().rss > BLOCK * BLOCKS / 2
