"""Where stages run: this machine, or the groups of nodes that a cluster file names.

Files of Ray's launcher (AWS, Google Cloud, Azure) and of KubeRay (RayCluster, RayJob) are read: cores, cards and the
most nodes of each group. A launcher's file names the machine's type, which tells its card; KubeRay's does not, and one
is taken (`ASSUMED_CARD`) unless it is said which. Prices are never known: they are given by group or machine's type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from raycurate.errors import UserError, unknown_name
from raycurate.estimate.rates import Card, card_named

ASSUMED_CARD = "L40S"
USE = "raycurate/use"
USUAL_MOST = 2
"""Workers of a launcher's file that says of none how many, as Ray has it."""
_CARD_OF_MACHINE = {
    **{"g4dn.": "T4", "g5.": "A10G", "g6.": "L4", "g6e.": "L40S", "p3.": "V100"},
    **{"p4d.": "A100-40GB", "p4de.": "A100-80GB", "p5.": "H100", "p5e.": "H200", "p5en.": "H200", "p6-b200.": "B200"},
    **{"g2-": "L4", "a2-highgpu": "A100-40GB", "a2-ultragpu": "A100-80GB", "a2-megagpu": "A100-40GB"},
    **{"a3-ultragpu": "H200", "a3-": "H100", "a4-": "B200"},
    **{"standard_nc24ads_a100": "A100-80GB", "standard_nc48ads_a100": "A100-80GB"},
    **{"standard_nc96ads_a100": "A100-80GB"},
    **{"standard_nd96ams": "A100-80GB", "standard_nd96asr": "A100-40GB", "standard_nc40ads_h100": "H100"},
    **{"standard_nd96isr_h100": "H100", "standard_nd96isr_h200": "H200", "standard_nc16as_t4": "T4"},
}
"""Beginning of a machine type's name -> its card."""


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes of one kind.

    Attributes:
        name: in the file.
        machine: its type; '' where the file has none.
        cores: of a node, that tasks may use.
        cards: of a node.
        card: which; None without one.
        most: nodes at once.
        standing: nodes that are there from the start.
        use: what its label keeps it for; ''.
        head: it runs no tasks.
    """

    name: str
    machine: str
    cores: float
    cards: int = 0
    card: Card | None = None
    most: int = 1
    standing: int = 0
    use: str = ""
    head: bool = False

    @property
    def works(self) -> bool:
        """Whether it ever has a node that runs tasks."""
        return not self.head and self.most > 0


@dataclass(frozen=True, slots=True)
class Cluster:
    """The groups that stages can run on.

    Attributes:
        name: of the file; '' for this machine.
        groups: of nodes.
        notes: what was assumed.
    """

    name: str
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()

    def for_cores(self) -> Group:
        """The group of stages without a card."""
        able = [group for group in self.groups if group.works]
        return max(able, key=lambda group: (group.cards == 0, group.cores * group.most))

    def for_cards(self, use: str) -> Group | None:
        """The group with cards for `extract` or `finetune`, by its label, else by how many cards it has a node."""
        able = [group for group in self.groups if group.works and group.cards]
        named = [group for group in able if group.use == use]
        if named or not able:
            return named[0] if named else None
        return (max if use == "finetune" else min)(able, key=lambda group: group.cards)


def this_machine(cores: float, cards: int = 0, card: Card | None = None) -> Cluster:
    """One machine."""
    return Cluster("", (Group("machine", "", cores, cards, card, standing=1),))


def read_cluster(path: str | Path, cards: Mapping[str, str] | None = None) -> Cluster:
    """The groups of a cluster file.

    Args:
        path: of Ray's launcher or KubeRay.
        cards: group -> name of its card, where the file does not tell or is wrong; '' stands for all groups.

    Raises:
        UserError: a file that cannot be read or is of another kind; a group that is not there; an unknown card.
    """
    try:
        documents = list(yaml.safe_load_all(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        told = f"cannot read the cluster file {path}: {error.strerror}. cluster_configs/ has examples."
        raise UserError(told) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML: {error}") from None
    groups = next((found for document in documents if (found := _groups_of(document, str(path)))), None)
    if not any(group.works for group in groups or ()):
        raise UserError(
            f"{path} names no group of nodes that runs tasks: expected `available_node_types` of Ray's launcher, or a "
            "RayCluster or RayJob of KubeRay"
        )
    return _with_cards(Cluster(str(path), tuple(groups or ())), cards or {})


def _with_cards(cluster: Cluster, cards: Mapping[str, str]) -> Cluster:
    names = [group.name for group in cluster.groups]
    for name in cards:
        if name and name not in names:
            raise unknown_name(f"group of {cluster.name}", name, names)
    groups, notes = [], list(cluster.notes)
    for group in cluster.groups:
        told = cards.get(group.name, cards.get(""))
        if group.cards and told is not None:
            group = replace(group, card=card_named(told))
        elif group.cards and group.card is None:
            notes.append(f"the card of group '{group.name}' is not told: {ASSUMED_CARD} taken (--card NAME)")
            group = replace(group, card=card_named(ASSUMED_CARD))
        groups.append(group)
    return Cluster(cluster.name, tuple(groups), tuple(notes))


def _groups_of(document: Any, where: str) -> list[Group]:
    if not isinstance(document, Mapping):
        return []
    try:
        if isinstance(types := document.get("available_node_types"), Mapping):
            head, most = document.get("head_node_type"), document.get("max_workers", USUAL_MOST)
            return [_launcher_group(str(name), each, name == head, most) for name, each in types.items()]
        if document.get("kind") in ("RayCluster", "RayJob"):
            spec: Any = document.get("spec") or {}
            spec = spec.get("rayClusterSpec", spec)
            return [_pod_group(each) for each in spec.get("workerGroupSpecs") or ()]
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise UserError(f"{where}: a group of nodes cannot be read: {type(error).__name__}: {error}") from None
    return []


def _launcher_group(name: str, values: Mapping[str, Any], head: bool, most: Any) -> Group:
    node, resources = values.get("node_config") or {}, values.get("resources") or {}
    machine = str(node.get("InstanceType") or node.get("machineType") or _azure_size(node) or "")
    cards = int(_amount(name, "resources.GPU", resources.get("GPU", 0)))
    return Group(
        name=name,
        machine=machine,
        cores=_amount(name, "resources.CPU", resources.get("CPU", 0 if head else None)),
        cards=cards,
        card=_card_of(machine) if cards else None,
        most=1 if head else int(_amount(name, "max_workers", values.get("max_workers", most))),
        standing=1 if head else int(_amount(name, "min_workers", values.get("min_workers", 0))),
        use=str((values.get("labels") or {}).get(USE, "")),
        head=head,
    )


def _azure_size(node: Mapping[str, Any]) -> str | None:
    return node.get("azure_arm_parameters", {}).get("vmSize")


def _pod_group(values: Mapping[str, Any]) -> Group:
    name = str(values["groupName"])
    resources = values["template"]["spec"]["containers"][0].get("resources") or {}
    # Kubernetes takes a limit for the request where only one is there, and so does KubeRay for Ray's number of cores.
    found = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    return Group(
        name=name,
        machine="",
        cores=_amount(name, "resources.limits.cpu", found.get("cpu")),
        cards=int(_amount(name, "resources.limits of nvidia.com/gpu", found.get("nvidia.com/gpu", 0))),
        most=int(_amount(name, "maxReplicas", values.get("maxReplicas", values.get("replicas", 1)))),
        standing=int(_amount(name, "minReplicas", values.get("minReplicas", 0))),
        use=str((values.get("labels") or {}).get(USE, "")),
    )


def _amount(group: str, name: str, value: Any) -> float:
    """A number or a Kubernetes quantity, `30` or `1500m`. Raises `ValueError` for what is none or below 0."""
    text = str(value)
    try:
        found = float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        told = "is not there" if value is None else f"is {value!r}"
        raise ValueError(f"group '{group}' cannot be read: {name} {told}; it must be a number of at least 0")
    return found


def _card_of(machine: str) -> Card | None:
    found = [start for start in _CARD_OF_MACHINE if machine.lower().startswith(start)]
    return card_named(_CARD_OF_MACHINE[max(found, key=len)]) if found else None


def price_of(group: Group, prices: Mapping[str, float]) -> float | None:
    """Of one node-hour: by the group's name, else by its machine's type; None where neither has one."""
    return prices.get(group.name, prices.get(group.machine))


def parse_prices(texts: tuple[str, ...], cluster: Cluster) -> dict[str, float]:
    """``NAME=PRICE`` -> price of a node-hour. Raises `UserError` for a wrong form, number or name."""
    known = [name for group in cluster.groups for name in (group.name, group.machine) if name]
    found: dict[str, float] = {}
    for text in texts:
        name, separator, value = text.rpartition("=")
        try:
            price = float(value)
        except ValueError:
            price = -1.0
        if not separator or not 0 <= price < float("inf"):
            raise UserError(f"--price {text!r} is not of the form NAME=PRICE of a node-hour, for example gpu_spot=1.2")
        if name not in known:
            raise unknown_name("group or machine to give a price", name, known)
        found[name] = price
    return found
