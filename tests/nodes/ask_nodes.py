"""Two nodes, one of which has an old Ray on its path: what `doctor` says."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from raycurate.doctor.cluster import examine_cluster
from raycurate.doctor.facts import facts_here, own_requirements
from tests.nodes.simulated import STORE, Nodes


def main(folder: Path) -> None:
    """Start, ask, stop."""
    info = folder / "old" / "ray-2.9.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.9.0\n")
    nodes = Nodes(1, cpus=1)
    try:
        path = f"{folder / 'old'}:{os.environ.get('PYTHONPATH', '')}"
        nodes.cluster.add_node(num_cpus=1, object_store_memory=STORE, env_vars={"PYTHONPATH": path})
        nodes.cluster.wait_for_nodes(60)
        driver = facts_here(own_requirements())
        found = [asdict(each) for each in examine_cluster(driver, str(folder / "run"), [])]
    finally:
        nodes.end()
    (folder / "found.json").write_text(json.dumps({"found": found}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
