"""The demo's recipe as a submitted job: killed, submitted again with the same line, and as if nothing had happened."""

from __future__ import annotations

import pytest

from tests.nodes.programs import output_of

pytestmark = pytest.mark.nodes


def test_a_killed_job_that_is_submitted_again_ends_as_an_undisturbed_one(tmp_path):
    """It fails, then succeeds; same selection, same file; the log begins with the run; a wrong token is refused."""
    found = output_of("submit_and_kill.py", tmp_path)
    assert found["ends"] == ["failed", "succeeded", "succeeded"]
    assert found["shards_before_the_kill"] > 0
    assert found["same_selection"]
    assert found["same_file"]
    assert f"run {tmp_path}/struck" in found["logs"]
    assert found["refused_without_token"]
