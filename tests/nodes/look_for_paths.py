"""Two nodes, and an image root that is there for the driver's process alone: what is said of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from raycurate.config import ExtractConfig
from raycurate.errors import UserError
from raycurate.node_paths import check_nodes_see
from raycurate.run.store import Run
from raycurate.settings import make_config
from tests.nodes.simulated import Nodes


def main(folder: Path) -> None:
    """Start, ask, stop."""
    nodes = Nodes(2, cpus=1)
    found = {"told": ""}
    try:
        run = Run(str(folder / "run"))
        check_nodes_see(run, make_config(ExtractConfig, {"images": str(folder)}))
        try:
            own = f"/proc/self/task/{os.getpid()}"
            check_nodes_see(run, make_config(ExtractConfig, {"images": own}))
        except UserError as error:
            found["told"] = str(error)
    finally:
        nodes.end()
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
