"""Each trap, made by changing one fact of a good machine, is named with what mends it, and nothing else is."""

from __future__ import annotations

import dataclasses

import pytest

from raycurate.doctor.facts import Facts, facts_here, own_requirements
from raycurate.doctor.findings import GIB, differing, judge, skewed

GOOD = Facts(
    host="one",
    python="3.11.7",
    packages={"ray": ("2.60.0",), "torch": ("2.13.0",), "numpy": ("2.4.6",), "faiss-cpu": ("1.15.1",)},
    requirements=("ray[data,train]>=2.55", "torch>=2.8", "numpy>=2.0.2"),
    torch_cuda=None,
    torch_devices=0,
    torch_error="",
    nvidia=False,
    nvcc=False,
    shared_memory=16 * GIB,
    memory=24 * GIB,
    open_files=65_536,
    hard_open_files=65_536,
    encoding="utf-8",
    preferred_encoding="UTF-8",
    free={"/tmp": 80 * GIB},
    hf_home="/root/.cache/huggingface",
    hf_writable=True,
    interfaces=("eth0", "lo"),
    named_interfaces={},
    auth_mode="",
)
BOTH_FAISS = {**GOOD.packages, "faiss-gpu-cu12": ("1.8.0",)}


def wrong(facts: Facts) -> list[tuple[str, str, str]]:
    """(check, state, fix) of what is not well."""
    return [(each.check, each.state, each.fix) for each in judge(facts) if each.state != "ok"]


def test_a_good_machine_has_nothing_to_mend():
    """Every check says what it saw."""
    assert wrong(GOOD) == []
    assert {each.check for each in judge(GOOD)} >= {"python", "packages", "torch", "open files", "disk", "locale"}


@pytest.mark.parametrize(
    ("change", "check", "state", "fix"),
    [
        ({"python": "3.10.2"}, "python", "fail", "python3.11 -m venv"),
        ({"packages": {**GOOD.packages, "numpy": ()}}, "packages", "fail", "pip install 'numpy>=2.0.2'"),
        ({"packages": {**GOOD.packages, "numpy": ("1.26.4",)}}, "packages", "fail", "pip install 'numpy>=2.0.2'"),
        ({"packages": {**GOOD.packages, "ray": ("2.60.0", "2.9.0")}}, "packages", "fail", "pip uninstall ray"),
        ({"packages": BOTH_FAISS}, "faiss", "fail", "pip install faiss-cpu"),
        ({"packages": BOTH_FAISS, "nvidia": True, "torch_cuda": "12.6", "torch_devices": 1, "nvcc": True},
         "faiss", "fail", "pip install faiss-gpu-cu12"),
        ({"torch_error": "OSError: libcudart.so"}, "torch", "fail", "--force-reinstall torch"),
        ({"nvidia": True}, "torch", "fail", "CUDA builds"),
        ({"nvidia": True, "torch_cuda": "13.0"}, "torch", "fail", "CUDA_VISIBLE_DEVICES"),
        ({"nvidia": True, "torch_cuda": "12.6", "torch_devices": 2}, "deepspeed", "warn", "CUDA_HOME"),
        ({"shared_memory": 64 << 20}, "shared memory", "warn", "--shm-size=2g"),
        ({"open_files": 256}, "open files", "fail", "ulimit -n 65536"),
        ({"open_files": 2048, "hard_open_files": 2048}, "open files", "warn", "limits.conf"),
        ({"preferred_encoding": "ANSI_X3.4-1968"}, "locale", "fail", "LC_ALL=C.UTF-8"),
        ({"free": {"/data": 5 * GIB}}, "disk", "warn", "RAY_TMPDIR"),
        ({"free": {"/data": GIB // 2}}, "disk", "fail", "RAY_TMPDIR"),
        ({"hf_writable": False}, "model cache", "fail", "HF_HOME="),
        ({"named_interfaces": {"GLOO_SOCKET_IFNAME": ("eth7",)}}, "network", "fail", "unset GLOO_SOCKET_IFNAME"),
    ],
)  # fmt: skip
def test_a_trap_is_named_alone(change, check, state, fix):
    """One change, one finding, with the command that mends it."""
    ((found_check, found_state, found_fix),) = wrong(dataclasses.replace(GOOD, **change))
    assert (found_check, found_state) == (check, state)
    assert fix in found_fix


def test_limits_that_are_not_there_are_well():
    """No limit of open files, an interface by its beginning as gloo and NCCL take it, a local version of torch."""
    facts = dataclasses.replace(GOOD, open_files=-1, named_interfaces={"NCCL_SOCKET_IFNAME": ("eth",)})
    assert wrong(facts) == []
    local = dataclasses.replace(GOOD, packages={**GOOD.packages, "torch": ("2.13.0+cpu",)})
    assert [each for each in judge(local, {"torch": "2.13.0"}) if each.state != "ok"] == []


def test_versions_that_were_not_tested_together_are_a_warning():
    """Those that are asked for and pinned otherwise, in one line."""
    (found,) = [each for each in judge(GOOD, {"numpy": "2.4.0", "ray": "2.60.0", "pillow": "1"}) if each.state != "ok"]
    assert (found.check, found.state) == ("constraints", "warn")
    assert found.found == "numpy 2.4.6 (tested: 2.4.0)"


def test_machines_that_differ_are_told_by_name():
    """Python and Ray stop the cluster, others may."""
    other = dataclasses.replace(
        GOOD, host="two", python="3.12.1", packages={"ray": ("2.9.0",), "torch": ("2.13.0",), "faiss-cpu": ("1",)}
    )
    found = {(each.where, each.found.split()[0], each.state) for each in differing([GOOD, other])}
    assert found == {("two", "python", "fail"), ("two", "ray", "fail"), ("two", "numpy", "warn")}
    assert [each.state for each in differing([GOOD, GOOD])] == ["ok"]


@pytest.mark.parametrize(("seconds", "state"), [(0.0, "ok"), (-4.9, "ok"), (30.0, "warn"), (-1000.0, "fail")])
def test_a_clock_is_judged_both_ways(seconds, state):
    """Five seconds are nothing, five minutes break things."""
    assert skewed("two", seconds).state == state


def test_this_machine_can_be_asked():
    """The facts of the machine that runs the tests hold together."""
    facts = facts_here(own_requirements(), ["/tmp/not/there"])
    assert facts.packages["ray"]
    assert facts.free["/tmp/not/there"] > 0
    assert not [each for each in judge(facts) if each.check == "packages" and each.state != "ok"]


def test_what_ray_brings_for_itself_is_no_package_that_is_there_twice(monkeypatch):
    """Its workers have that folder on their path, a driver has not: each node would differ from it."""
    import ray

    monkeypatch.syspath_prepend(f"{ray.__path__[0]}/thirdparty_files")
    assert len(facts_here(()).packages["psutil"]) == 1
