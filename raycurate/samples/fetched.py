"""The encoded images of a window, fetched ahead of the one that is decoded.

An image of an object store is a wait of tens of milliseconds, which decoding would make one after the other. Here the
images that come next, in the order in which the window first names them, are under way in threads.
Memory: at most ``calls`` encoded images beside the one that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from raycurate.run.ahead import CALLS
from raycurate.samples.images import ImageRoot
from raycurate.samples.schema import ImageRef


class FetchedImages:
    """Reads images of a root; whoever asks in another order than that of the window waits as without threads."""

    def __init__(self, root: ImageRoot, refs: Iterable[ImageRef], max_bytes: int, calls: int = CALLS) -> None:
        """Fetch nothing yet: that begins with the first image that is asked for.

        Args:
            root: of the images.
            refs: of the window, in the order of its rows; those that hold their bytes need no fetching.
            max_bytes: of an image.
            calls: images under way.
        """
        self._root, self._max_bytes, self._calls = root, max_bytes, calls
        distinct: dict[str, ImageRef] = {}
        for ref in refs:
            if ref.data is None:
                distinct.setdefault(ref.identity, ref)
        self._refs = list(distinct.values())
        self._places = {ref.identity: number for number, ref in enumerate(self._refs)}
        self._under_way: dict[int, Future[bytes]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._begun = 0

    def read(self, ref: ImageRef) -> bytes:
        """The bytes of an image; raises what `ImageRoot.read` does."""
        number = self._places.get(ref.identity)
        if number is None:
            return self._root.read(ref, self._max_bytes)
        for passed in [other for other in self._under_way if other < number]:
            self._under_way.pop(passed).cancel()  # its rows failed before their images were looked at
        self._begin(number)
        future = self._under_way.pop(number, None)
        return self._root.read(ref, self._max_bytes) if future is None else future.result()

    def _begin(self, number: int) -> None:
        """Have an image and those after it under way; the threads end after the last one."""
        self._pool = self._pool or ThreadPoolExecutor(max_workers=self._calls)
        stop = min(number + self._calls, len(self._refs))
        for coming in range(max(number, self._begun), stop):
            self._under_way[coming] = self._pool.submit(self._root.read, self._refs[coming], self._max_bytes)
        self._begun = max(self._begun, stop)
        if self._begun == len(self._refs):
            self._pool.shutdown(wait=False)
