"""An actor's model runs in one thread, one batch after the other, while other calls go on."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from raycurate.stages.workers.fragments import ModelThread


def test_batches_go_through_one_thread_one_after_the_other():
    """Whichever calls hand them over; the number of torch threads is that thread's own."""
    model, running, most, names = ModelThread("extract", False, 1), [], [], set()

    def forward(number: int) -> int:
        running.append(number)
        most.append(len(running))
        names.add(threading.current_thread().name)
        time.sleep(0.002)
        running.pop()
        return 10 * number

    with ThreadPoolExecutor(4) as calls:
        assert list(calls.map(lambda n: model.run(forward, n), range(12))) == [10 * n for n in range(12)]
    assert (max(most), len(names)) == (1, 1)
    assert model.run(torch.get_num_threads) == 1
    assert model.device == "cpu"


def test_an_error_of_the_model_reaches_the_call():
    model = ModelThread("extract", False, 1)
    with pytest.raises(ZeroDivisionError):
        model.run(lambda: 1 / 0)
    assert model.run(lambda: 2) == 2
