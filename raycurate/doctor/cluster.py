"""The same questions to every node of a Ray cluster, by one small task on each, and what must be alike among them.

    driver --facts_here--> node i, side by side;  clock of i - middle of the driver's clocks before and after
    driver writes RUN/.doctor-<random>/probe; every node looks for it

A node whose Python cannot even run the task is told by its error. Cost: one task per node, torch's import on each.
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


def examine_cluster(requirements: Sequence[str], run_uri: str | None, folders: Sequence[str]) -> list[Finding]:
    """Findings about all nodes of the cluster that this process has joined."""
    probe = None if run_uri is None else f"{run_uri.rstrip('/')}/.doctor-{uuid.uuid4().hex}/probe"
    if probe is not None:
        write_bytes(*resolve(probe), b"probe")
    try:
        answers, found = _ask_all(requirements, folders, probe)
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
    machines = [facts_here(requirements), *(answer.facts for answer in answers.values())]
    return [*found, *differing(machines), *_open_port(machines[0])]


def _ask_all(
    requirements: Sequence[str], folders: Sequence[str], probe: str | None
) -> tuple[dict[str, Answer], list[Finding]]:
    """The answers by node, and what is wrong with those that gave none or whose clock is off."""
    look = ray.remote(num_cpus=0, max_retries=0)(look_here)
    answers, found = {}, []
    for node in (node for node in ray.nodes() if node["Alive"]):
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        here = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        before = time.time()
        try:
            answer = ray.get(
                look.options(scheduling_strategy=here).remote(requirements, folders, probe), timeout=SECONDS
            )
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
            told = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            meaning = "no task can run there"
            found.append(Finding("node", "fail", name, f"it gives no answer: {told}", meaning, "ray status"))
            continue
        answers[name] = answer
        # How far outside of the driver's own interval: the way there and back is no skew.
        clock, after = answer.facts.clock, time.time()
        found.append(skewed(name, min(clock - before, 0.0) + max(clock - after, 0.0)))
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
