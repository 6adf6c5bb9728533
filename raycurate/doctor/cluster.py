"""The same questions to every node of a Ray cluster, by one small task on each, and what must be alike among them.

    driver --look_here--> all nodes, side by side;  then --clock_here--> one after another: a clock that reads earlier
    than the driver's before it asked, or later than after it was answered, is off by at least so much
    driver writes RUN/.doctor-<random>/probe; every node looks for it

A node whose Python cannot even run the task is told by its error. Cost: two tasks per node, torch's import on each.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raycurate.doctor.facts import Facts, facts_here
from raycurate.doctor.findings import Finding, differing, judge, skewed
from raycurate.run.filesystem import delete_folder, exists, resolve, write_bytes

SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node says: its facts, and whether it sees the probe; None where there is none."""

    facts: Facts
    sees: bool | None


def look_here(requirements: Sequence[str], folders: Sequence[str], probe: str | None) -> Answer:
    """Task: on a node."""
    return Answer(facts_here(requirements, folders), None if probe is None else exists(*resolve(probe)))


def clock_here() -> float:
    """Task: the node's seconds since 1970."""
    return time.time()


def examine_cluster(driver: Facts, run_uri: str | None, folders: Sequence[str]) -> list[Finding]:
    """Findings about all nodes of the cluster that this process has joined.

    Args:
        driver: facts of this machine, with what it needs.
        run_uri: run directory that all nodes must see, if there is one.
        folders: local ones whose free space counts.
    """
    probe = None if run_uri is None else f"{run_uri.rstrip('/')}/.doctor-{uuid.uuid4().hex}/probe"
    if probe is not None:
        write_bytes(*resolve(probe), b"probe")
    try:
        answers, found = _ask_all(driver.requirements, folders, probe)
    finally:
        if probe is not None:
            delete_folder(*resolve(probe.rsplit("/", 1)[0]))
    for name, answer in answers.items():
        found += [finding for finding in judge(answer.facts) if finding.state != "ok"]
        if answer.sees is False:
            found.append(
                Finding(
                    "run directory",
                    "fail",
                    name,
                    f"it does not see {run_uri}",
                    "its workers would write where nobody reads",
                    "a folder that all nodes mount at the same place, or s3://... or gs://...",
                )
            )
    return [*found, *differing([driver, *(answer.facts for answer in answers.values())]), *_open_port(driver)]


def _ask_all(
    requirements: Sequence[str], folders: Sequence[str], probe: str | None
) -> tuple[dict[str, Answer], list[Finding]]:
    """The answers by node, and what is wrong with those that gave none or whose clock is off."""
    look = ray.remote(num_cpus=0, max_retries=0)(look_here)
    clock = ray.remote(num_cpus=0, max_retries=0)(clock_here)
    answers, found = {}, []
    nodes = {
        f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:6]})": node["NodeID"]
        for node in ray.nodes()
        if node["Alive"]
    }
    places = {name: NodeAffinitySchedulingStrategy(node_id=node, soft=False) for name, node in nodes.items()}
    asked = {
        name: look.options(scheduling_strategy=place).remote(requirements, folders, probe)
        for name, place in places.items()
    }
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=SECONDS)
    for name, answer in asked.items():
        try:
            answers[name] = ray.get(answer, timeout=0)
            # A task of its own, on a worker that stands: how far outside of the driver's own interval, for the way
            # there and back is no skew.
            before = time.time()
            seconds = ray.get(clock.options(scheduling_strategy=places[name]).remote(), timeout=SECONDS)
            found.append(skewed(name, min(seconds - before, 0.0) + max(seconds - time.time(), 0.0)))
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
            told = (str(error).strip().splitlines() or [f"nothing within {SECONDS:.0f} s"])[-1]
            meaning = "no task can run there"
            found.append(Finding("node", "fail", name, f"it gives no answer: {told}", meaning, "ray status"))
    return answers, found


def _open_port(driver: Facts) -> list[Finding]:
    """Whether others on the network may send jobs to the cluster."""
    open_nodes = [n["NodeManagerAddress"] for n in ray.nodes() if not n["NodeManagerAddress"].startswith("127.")]
    address = os.environ.get("RAY_ADDRESS", "")
    if not open_nodes or not address or driver.auth_mode == "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return []
    return [
        Finding(
            "token",
            "warn",
            "",
            f"the cluster at {address} asks for no token",
            "whoever reaches its ports runs code on it",
            "RAY_AUTH_MODE=token and ray get-auth-token --generate before `ray start`; close the ports to others",
        )
    ]
