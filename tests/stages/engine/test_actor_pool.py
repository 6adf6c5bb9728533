"""The streaming pipeline of the GPU stages: what it says in a user's terminal."""

from __future__ import annotations

import logging

from raycurate.config import ExtractConfig
from raycurate.settings import make_config
from raycurate.stages.engine.actor_pool import actor_lines


class Actor:
    """Stands where a model's would; the pipeline is not run."""


def test_rays_own_lines_stay_out_of_the_terminal_unless_they_are_asked_for(ray_cluster, monkeypatch):
    """Importing Ray Data sets its logger to everything; errors pass in any case."""
    logger = logging.getLogger("ray.data")
    made = ([0], lambda rows: rows, Actor, {}, make_config(ExtractConfig, {}), 0.0, 1 << 28)
    logger.setLevel(logging.DEBUG)
    actor_lines(*made)
    assert logger.level == logging.ERROR
    logger.setLevel(logging.DEBUG)
    monkeypatch.setenv("RAYCURATE_RAY_LOGS", "1")
    actor_lines(*made)
    assert logger.level == logging.DEBUG
    logger.setLevel(logging.ERROR)
