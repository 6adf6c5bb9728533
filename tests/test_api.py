"""The package's front door: quick to import, five lines to a coreset."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import raycurate as rc
from tests.nouns import write_clusters, write_features, write_samples
from tests.selection.selection_cases import clustered_case


def test_import_loads_neither_ray_nor_torch():
    """`import raycurate` and `--help` do not wait for Ray or torch, nor for what single commands need."""
    names = ("ray", "torch", "transformers", "jinja2", "duckdb", "raycurate.estimate", "raycurate.init.files")
    program = f"import sys, raycurate, raycurate.cli.main; print([m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_selection_does_not_wait_for_torch():
    """Neither the command nor a worker that selects or ranks imports it, unless an order clusters rows itself."""
    program = "import sys, raycurate.stages.select; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    """Names are loaded on first use; others are attribute errors."""
    assert all(getattr(rc, name) is not None for name in rc.__all__)
    with pytest.raises(AttributeError, match="no attribute 'slect'"):
        rc.slect  # noqa: B018


def test_a_notebook_needs_a_few_lines(ray_cluster, tmp_path):
    """Stages are functions of a run and a typed config."""
    case = clustered_case(3)
    run = rc.Run(str(tmp_path / "run"))
    write_samples(run, case.keys, ["t"] * len(case.keys), shards=2)
    write_features(run, case.keys, case.features, shards=2, block_dim=case.block_dim)
    write_clusters(run, case.keys, case.features, case.labels, np.asarray(case.centroids), shards=2)
    rc.select(run, rc.SelectConfig(ratio=0.5))
    rows = rc.export(run, rc.ExportConfig(out=str(tmp_path / "coreset.json")))
    assert rows == len(json.loads((tmp_path / "coreset.json").read_text(encoding="utf-8"))) == 30
