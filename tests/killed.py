"""A command that ends by kill -9 as it commits a file: `python -m tests.killed PATTERN COUNT ARGUMENTS`.

COUNT files whose path matches PATTERN are committed; the next lies there in full, under its temporary name only. For
work that stays in the process of its command, which needs no clock to be struck at one certain place.
"""

from __future__ import annotations

import os
import signal
import sys
from fnmatch import fnmatch

from raycurate.cli.main import main


def end_in_place_of(pattern: str, count: int) -> None:
    """Have `os.replace`, by which every file of a run is committed, end the process once ``count`` files are there."""
    replace, committed = os.replace, 0

    def replace_or_end(source: str, target: str) -> None:
        nonlocal committed
        if fnmatch(os.fspath(target), pattern):
            if committed == count:
                os.kill(os.getpid(), signal.SIGKILL)
            committed += 1
        replace(source, target)

    os.replace = replace_or_end


if __name__ == "__main__":
    _, pattern, count, *arguments = sys.argv
    end_in_place_of(pattern, int(count))
    sys.argv = ["raycurate", *arguments]
    main()
