"""The bounds of pyproject.toml are what the code and the packages that it is built on need."""

from __future__ import annotations

import inspect
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import transformers
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BOUNDS = {r.name: r for r in map(Requirement, PROJECT["dependencies"])}
PINS = {
    r.name: r
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if (text := line.split("#")[0].strip()) and (r := Requirement(text))
}
# The first version of a package that has a name of its that the code uses.
FIRST_WITH = {
    "torch": {
        r"torch\.AcceleratorError": "2.8",
        r"torch\.OutOfMemoryError": "2.5",
        r"torch\.cpu\._is_avx512_bf16_supported": "2.6",
        r"torch\.accelerator\.": "2.6",
        r"allow_splitk|fp32_precision": "2.9",
    },
    "numpy": {r"np\.(?:unstack|cumulative_sum)": "2.1", r"np\.(?:matvec|vecmat)": "2.2", r"np\.trapezoid": "2.0"},
}


def floor(name: str) -> Version:
    """The lowest version that a dependency allows."""
    return next(Version(s.version) for s in BOUNDS[name].specifier if s.operator in (">=", "=="))


def test_every_dependency_has_a_floor_and_the_pins_satisfy_the_bounds():
    """`pip install -c constraints.txt -e .` has a solution, and it is the one that is tested."""
    for name, bound in BOUNDS.items():
        assert floor(name)
        if name in PINS:
            version = next(iter(PINS[name].specifier)).version
            assert bound.specifier.contains(version), f"{name}=={version} is outside of {bound}"


def test_the_installed_packages_satisfy_the_bounds():
    """What the other tests ran with."""
    for name, bound in BOUNDS.items():
        assert bound.specifier.contains(Version(metadata.version(name)).public), name


@pytest.mark.parametrize("package", ["transformers", "ray", "peft", "accelerate", "pandas"])
def test_no_floor_is_below_what_a_dependency_needs_itself(package):
    """A lower one would promise an environment that pip never makes."""
    for line in metadata.requires(package) or []:
        needed = Requirement(line)
        extra = "data" if package == "ray" else ""
        if needed.name not in BOUNDS or (needed.marker and not needed.marker.evaluate({"extra": extra})):
            continue
        for each in needed.specifier:
            if each.operator == ">=":
                assert floor(needed.name) >= Version(each.version), f"{package} needs {needed}"


def test_transformers_own_table_is_satisfied():
    """The floors of what transformers imports only when asked, such as peft."""
    from transformers.dependency_versions_table import deps

    for name in ("torch", "peft", "accelerate", "deepspeed"):
        needed = Requirement(deps[name])
        assert floor(name) >= next(Version(s.version) for s in needed.specifier if s.operator == ">="), needed


@pytest.mark.parametrize("package", FIRST_WITH)
def test_the_code_uses_no_name_that_is_newer_than_the_floor(package):
    """Each name of the table that appears in the code exists in the lowest version that is allowed."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "raycurate").rglob("*.py")))
    for name, first in FIRST_WITH[package].items():
        if re.search(name, code):
            assert floor(package) >= Version(first), f"{name} came with {package} {first}"


def test_private_doors_of_transformers_are_bounded_and_there():
    """Where private functions are called, the next minor version is not allowed: 5.17 had another signature."""
    processor = transformers.ProcessorMixin
    merged = inspect.signature(processor._merge_kwargs).parameters
    assert merged["ModelProcessorKwargs"].default is None
    assert hasattr(processor, "_process_images")
    assert not BOUNDS["transformers"].specifier.contains("5.17.0")
    assert not BOUNDS["transformers"].specifier.contains("5.24.0")
