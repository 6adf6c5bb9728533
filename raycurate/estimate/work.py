"""What a stage has to do, and how long a place takes for it.

    seconds = starting + max(devices, cores) + reading and writing          (without a card: cores do it all)

Devices and cores work side by side, files are read and written in between. Parts of a stage that wait for each other
are summed, which is the slow side; what runs beside is taken as hidden entirely, which is the fast side.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from raycurate.estimate.places import Cluster, Group
from raycurate.estimate.rates import Rates

LOADERS, TASKS = "loader_starts", "task_starts"
REQUESTS_AT_ONCE = 16
"""Of one node to an object store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One stage's work in all, and what it takes of a machine.

    Attributes:
        rows: that it handles.
        core_seconds: of work that cores share.
        network_flop: of a network, on the devices.
        training_flop: of a network that learns, there; cores take it in 32 bits.
        network_bytes: that their activations move there.
        product_flop: of large products, on the devices.
        serial_seconds: of work that cannot be shared.
        read_bytes: from the run directory and the source.
        write_bytes: to the run directory.
        requests: to an object store, were the run on one.
        disk_bytes: that stay in the run directory.
        memory_bytes: of the largest process beside the libraries; on a card where the stage has one.
        starts: times that actors or workers of a training are started one after the other.
        loader_starts: likewise processes of tasks that take a model's libraries; a session keeps them for later stages.
        task_starts: likewise processes of other tasks.
        use: extract or finetune for stages that take cards; '' for others.
        most_cards: that the settings allow.
        notes: what was assumed.
    """

    rows: int
    core_seconds: float = 0.0
    network_flop: float = 0.0
    training_flop: float = 0.0
    network_bytes: float = 0.0
    product_flop: float = 0.0
    serial_seconds: float = 0.0
    read_bytes: float = 0.0
    write_bytes: float = 0.0
    requests: float = 0.0
    disk_bytes: float = 0.0
    memory_bytes: float = 0.0
    starts: float = 0.0
    loader_starts: float = 0.0
    task_starts: float = 0.0
    use: str = ""
    most_cards: int = 1 << 30
    notes: tuple[str, ...] = ()

    def times(self, count: float) -> Work:
        """The work of so many such stages; memory, cards and what a session keeps are those of one."""
        return replace(self, rows=round(self.rows * count), **{name: getattr(self, name) * count for name in SUMMED})

    def without(self, kept: Collection[str]) -> Work:
        """The work where a session has these kinds of processes from earlier stages: `LOADERS`, `TASKS`."""
        loaders, tasks = (0.0 if kind in kept else getattr(self, kind) for kind in (LOADERS, TASKS))
        return replace(self, loader_starts=loaders, task_starts=tasks)

    @property
    def in_one_process(self) -> Work:
        """The work where no process is started for it."""
        return replace(self, starts=0.0, loader_starts=0.0, task_starts=0.0)

    @property
    def keeps(self) -> set[str]:
        """The kinds of processes that are there after it; one with a model's libraries does other tasks as well."""
        loaders = {LOADERS, TASKS} if self.loader_starts else set()
        return loaders | ({TASKS} if self.task_starts else set())

    def plus(self, other: Work) -> Work:
        """Both, one after the other."""
        return replace(
            self,
            rows=self.rows + other.rows,
            memory_bytes=max(self.memory_bytes, other.memory_bytes),
            use=self.use or other.use,
            loader_starts=max(self.loader_starts, other.loader_starts),
            task_starts=max(self.task_starts, other.task_starts),
            most_cards=min(self.most_cards, other.most_cards),
            notes=tuple(dict.fromkeys((*self.notes, *other.notes))),
            **{name: getattr(self, name) + getattr(other, name) for name in SUMMED},
        )


SUMMED = (
    *("core_seconds", "network_flop", "training_flop", "network_bytes", "product_flop", "serial_seconds"),
    *("read_bytes", "write_bytes", "requests", "disk_bytes", "starts"),
)
"""What the work of several stages has the sum of."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a place takes for a stage.

    Attributes:
        seconds: in all.
        parts: of them: starting, devices, cores, serial, files.
        nodes: by group, those that work.
        notes: what does not fit or was assumed.
    """

    seconds: float
    parts: dict[str, float]
    nodes: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def time_of(work: Work, cluster: Cluster, rates: Rates, *, on_store: bool = False) -> Taken:
    """Seconds of some work on a cluster.

    Args:
        work: of a stage.
        cluster: where.
        rates: of a core, a disk, a start.
        on_store: the run directory lies in an object store.
    """
    cpu = cluster.for_cores()
    device = cluster.for_cards(work.use) if work.use else None
    notes = list(work.notes)
    nodes = {cpu.name: cpu.most}
    cores = max(cpu.cores * cpu.most, 1.0)
    if device is None or device.card is None:
        devices = 0.0
        on_cores = work.core_seconds + work.network_flop / rates.network_flops + work.product_flop / rates.product_flops
        on_cores += work.training_flop / rates.training_flops
        shared = (on_cores + work.network_bytes / rates.memory_bytes) / cores
    else:
        cards = min(device.cards * device.most, work.most_cards)
        used = math.ceil(cards / device.cards)
        peak = device.card.flops * rates.peak_part
        flop = work.network_flop + work.training_flop + work.product_flop
        devices = (flop / peak + work.network_bytes / device.card.bandwidth) / cards
        if device.name != cpu.name:
            nodes[device.name] = used
            cores += device.cores * used
        shared = work.core_seconds / cores
        if work.memory_bytes > device.card.memory:
            notes.append(
                f"{work.memory_bytes / 1e9:.0f} GB do not fit {device.card.name}'s {device.card.memory / 1e9:.0f}"
            )
    parts = {
        "starting": (work.starts + work.loader_starts) * rates.worker_seconds
        + work.task_starts * rates.task_seconds
        + _waiting(cluster, nodes, rates),
        "devices": devices,
        "cores": shared,
        "serial": work.serial_seconds,
        "files": _files(work, rates, sum(nodes.values()), on_store),
    }
    seconds = parts["starting"] + max(devices, shared) + parts["serial"] + parts["files"]
    return Taken(seconds, parts, nodes, tuple(notes))


def _waiting(cluster: Cluster, nodes: dict[str, int], rates: Rates) -> float:
    """Seconds until the first node of a group that starts with none works; further ones come beside the work."""
    groups: dict[str, Group] = {group.name: group for group in cluster.groups}
    return rates.node_seconds if any(groups[name].standing == 0 for name in nodes) else 0.0


def _files(work: Work, rates: Rates, nodes: int, on_store: bool) -> float:
    if not on_store:
        return work.read_bytes / rates.disk_read + work.write_bytes / rates.disk_write
    carried = (work.read_bytes + work.write_bytes) / (rates.store_bytes * nodes)
    return max(carried, work.requests * rates.store_seconds / (REQUESTS_AT_ONCE * nodes))


def duration(seconds: float) -> str:
    """Seconds to read."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.{int(minutes < 10)}f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
