"""One small local Ray cluster for the whole test run, and an offline environment."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "0"
os.environ.pop("RAY_ADDRESS", None)

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("ci", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci")


@pytest.fixture(scope="session")
def ray_cluster():
    """A local cluster of four logical CPUs, shared by every test that needs one."""
    import ray

    from raycurate.config import SessionConfig
    from raycurate.ray_session import ray_session

    with ray_session(SessionConfig(num_cpus=4, object_store_mb=256)):
        yield ray
