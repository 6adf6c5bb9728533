"""Check a manifest against the fields of KubeRay's CRDs, as `kuberay_crd_fields.yaml` has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FIELDS = yaml.safe_load((Path(__file__).parent / "kuberay_crd_fields.yaml").read_text(encoding="utf-8"))
QUANTITY = re.compile(r"(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?[0-9]+))?")
TYPES: dict[str, type | tuple[type, ...]] = {"string": str, "integer": int, "boolean": bool, "number": (int, float)}


def faults(manifest: dict[str, Any]) -> list[str]:
    """What the API server would refuse, or drop without a word."""
    found = [] if manifest.get("apiVersion") == "ray.io/v1" else ["apiVersion"]
    return [*found, *_faults(manifest["spec"], FIELDS[manifest["kind"]], "spec")]


def _faults(value: Any, wanted: Any, path: str) -> Iterator[str]:
    if isinstance(wanted, str) and wanted in FIELDS:
        wanted = FIELDS[wanted]
    if isinstance(wanted, str):
        yield from _of_type(value, wanted, path)
    elif isinstance(wanted, list):
        for number, item in enumerate(value if isinstance(value, list) else ["no list"]):
            yield from _faults(item, wanted[0], f"{path}[{number}]")
    elif not isinstance(value, dict):
        yield f"{path} is {value!r}, no mapping"
    else:
        known = {name.rstrip("!"): kind for name, kind in wanted.items()}
        yield from (f"{path}.{name} is required" for name in wanted if name[-1] == "!" and name[:-1] not in value)
        for name, item in value.items():
            if name in known:
                yield from _faults(item, known[name], f"{path}.{name}")
            else:
                yield f"{path}.{name} is no field"


def _of_type(value: Any, wanted: str, path: str) -> Iterator[str]:
    if wanted.startswith("{"):
        for name, item in value.items():
            yield from _of_type(item, wanted[1:-1], f"{path}.{name}")
    elif wanted == "quantity":
        if not (type(value) is int or (isinstance(value, str) and QUANTITY.fullmatch(value))):
            yield f"{path} is {value!r}, no quantity"
    elif "|" in wanted:
        if value not in wanted.split("|"):
            yield f"{path} is {value!r}, not {wanted}"
    elif wanted != "any":
        is_bool = isinstance(value, bool)  # which is an int for Python
        if not isinstance(value, TYPES[wanted]) or is_bool != (wanted == "boolean"):
            yield f"{path} is {value!r}, no {wanted}"
