"""A small local Ray cluster for all tests of a process, and an offline environment.

`make test` runs two processes, each with a cluster of its own for its half of the tests with Ray: most of what such a
test takes is waiting for workers to start.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "0"
os.environ["RAY_metrics_report_interval_ms"] = "1000"  # noqa: SIM112 - Ray's name for it
# Starting a worker is most of what a test with Ray takes: those of one test serve the next.
os.environ["RAY_idle_worker_killing_time_threshold_ms"] = "600000"  # noqa: SIM112 - Ray's name for it
os.environ.pop("RAY_ADDRESS", None)

import pytest
from hypothesis import HealthCheck, settings

from tests.object_store import Proxy, s3_server, use_endpoint

settings.register_profile("ci", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep each half of the tests with Ray together: they share a cluster."""
    for item in items:
        if "ray_cluster" in item.fixturenames:
            half = "stages" if "/stages/" in item.nodeid else "others"
            item.add_marker(pytest.mark.xdist_group(f"ray-{half}"))


def pytest_make_parametrize_id(val, argname):
    """Name bytes by their parameter: a file's bytes are no name, and both processes must read the same one."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def endpoint():
    """Where every process of the test run looks for S3; nobody answers there until `s3` is asked for."""
    proxy = Proxy()
    use_endpoint(proxy.port)
    return proxy


@pytest.fixture(scope="session")
def s3(endpoint):
    """A real S3 server with the bucket `bucket`, behind a connection that a test can cut."""
    with s3_server("bucket") as port:
        endpoint.target = port
        yield endpoint


@pytest.fixture(scope="session")
def ray_cluster(endpoint):
    """A local cluster of four logical CPUs, shared by every test of this process that needs one."""
    import ray

    from raycurate.config import SessionConfig
    from raycurate.ray_session import ray_session

    with ray_session(SessionConfig(num_cpus=4, object_store_mb=256)):
        yield ray
