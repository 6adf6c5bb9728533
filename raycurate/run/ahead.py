"""Results of a function in order, with several calls under way ahead of the one that is wanted.

A request of an object store waits tens of milliseconds for the network, so what reads many files asks for several at
once. At most ``calls`` results are held that were not taken yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

CALLS = 16
"""As many as the connections that a client of pyarrow holds."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], calls: int = CALLS) -> Iterator[Result]:
    """``function(item)`` for each item, in order; an error of a call is raised where its result is due."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(max_workers=calls) as pool:
        try:
            for item in items:
                if len(waiting) == calls:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(function, item))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
