"""`raycurate init --target slurm`: its script, on a real Slurm of two nodes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from raycurate.cli.main import main
from raycurate.run.store import Run
from tests.init.data import write_data
from tests.nodes.slurm import slurm, why_not

pytestmark = [pytest.mark.nodes, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A folder with spaces in its name, as `init` leaves it."""
    place = tmp_path_factory.mktemp("a place")
    write_data(place, rows=48)
    options = ["--target", "slurm", "--nodes", "2", "--cpus", "2", "--gpus", "0"]
    done = CliRunner().invoke(main, ["init", str(place / "mine"), "--data", str(place / "train.json"), *options])
    assert done.exit_code == 0, done.output
    return place / "mine"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment of users: `raycurate` is on the path that the script names."""
    with slurm(cpus=2) as environment:
        yield {name: value for name, value in environment.items() if not name.startswith("RAY")}


def submit(cluster: dict[str, str], *words: str) -> tuple[int, str]:
    """Exit code of a job, when it is over, and the names of its nodes' Ray folders that are left."""
    done = subprocess.run(["sbatch", "--wait", "--parsable", *words], env=cluster, capture_output=True, text=True)
    return done.returncode, done.stdout.strip().split("_")[0]


def test_the_script_runs_the_recipe_on_all_nodes_and_leaves_nothing_behind(written, cluster):
    """The README's line, as it stands: Ray on both nodes, the coreset, no process and no folder of Ray's after it."""
    line = next(line for line in (written / "README.md").read_text().splitlines() if line.startswith("    sbatch"))
    shell = line.strip().replace("sbatch", "sbatch --wait --parsable", 1)
    done = subprocess.run(["bash", "-c", shell], env=cluster, capture_output=True, text=True)
    job = done.stdout.strip()
    assert job, done.stderr
    log = (written / f"slurm-{job}.log").read_text()
    assert done.returncode == 0, log + (written / f"ray-{job}.log").read_text()
    assert "Ray runs on 2 nodes, 4 CPUs" in log
    assert len(json.loads((written / "coreset.json").read_text())) == 10
    assert not Path(f"/tmp/ray-{job}").exists()
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert f"/tmp/ray-{job}" not in processes


def test_an_element_of_an_array_has_a_run_of_its_own(written, cluster):
    """`%a` is the element's index."""
    run = f"{written}/array-%a"
    words = ["ingest", str(written.parent / "train.json"), "--images", str(written.parent), "--out", run]
    code, job = submit(cluster, "--array=3", str(written / "slurm.sh"), *words)
    logs = [path.read_text() for path in sorted(written.glob("slurm-*.log"))]
    assert code == 0, (job, logs)
    assert Run(f"{written}/array-3").noun("samples").require("ingest").rows_out == 48
