"""What a machine is like, as plain values that travel from a node to the driver. Nothing is judged here.

Cost: seconds, most of them the import of torch.
"""

from __future__ import annotations

import importlib.metadata
import locale
import os
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from raycurate.run.filesystem import TEMPORARY

SHARED_MEMORY = "/dev/shm"
RAYS_COPIES = "thirdparty_files"
"""Folder of packages inside Ray's, which its workers have on their path beside the installed ones."""
SOCKET_SETTINGS = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@dataclass(frozen=True, slots=True)
class Facts:
    """One machine.

    Attributes:
        host: its name.
        python: version.
        packages: versions that are installed, by canonical name; two where a package is there twice.
        requirements: what was asked for, as pip writes it.
        torch_cuda: the CUDA version that torch was built with; None for a CPU build, '' where torch fails to import.
        torch_devices: GPUs that torch sees.
        torch_error: why it fails to import.
        nvidia: whether an NVIDIA driver is there.
        nvcc: whether CUDA's compiler is there.
        shared_memory: bytes of /dev/shm, 0 without one.
        memory: bytes.
        open_files: soft limit, -1 without one.
        hard_open_files: hard limit, likewise.
        encoding: of file names.
        preferred_encoding: of text.
        free: bytes free by folder.
        hf_home: where models are cached.
        hf_writable: whether it can be written, or made.
        interfaces: network interfaces.
        named_interfaces: setting -> the interfaces that it names.
        auth_mode: Ray's, '' for none.
    """

    host: str
    python: str
    packages: dict[str, tuple[str, ...]]
    requirements: tuple[str, ...]
    torch_cuda: str | None
    torch_devices: int
    torch_error: str
    nvidia: bool
    nvcc: bool
    shared_memory: int
    memory: int
    open_files: int
    hard_open_files: int
    encoding: str
    preferred_encoding: str
    free: dict[str, int]
    hf_home: str
    hf_writable: bool
    interfaces: tuple[str, ...]
    named_interfaces: dict[str, tuple[str, ...]]
    auth_mode: str


def own_requirements() -> tuple[str, ...]:
    """What raycurate itself needs here, without its extras; nothing where it runs from a folder that is no package."""
    try:
        lines = importlib.metadata.requires("raycurate") or []
    except importlib.metadata.PackageNotFoundError:
        return ()
    kept = [Requirement(line) for line in lines]
    return tuple(str(each).split(";")[0].strip() for each in kept if each.marker is None or each.marker.evaluate())


def facts_here(requirements: Sequence[str], folders: Sequence[str] = ()) -> Facts:
    """Look at this machine.

    Args:
        requirements: of the driver, as pip writes them.
        folders: local ones whose free space counts, beside the temporary folder.
    """
    torch_cuda, devices, error = _torch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hf_home = os.environ.get("HF_HOME") or os.path.join(os.path.expanduser("~"), ".cache", "huggingface")
    return Facts(
        host=socket.gethostname(),
        python=".".join(map(str, sys.version_info[:3])),
        packages=_packages(),
        requirements=tuple(requirements),
        torch_cuda=torch_cuda,
        torch_devices=devices,
        torch_error=error,
        nvidia=os.path.exists("/proc/driver/nvidia/version") or shutil.which("nvidia-smi") is not None,
        nvcc=shutil.which("nvcc") is not None or os.path.exists(f"{os.environ.get('CUDA_HOME', '/none')}/bin/nvcc"),
        shared_memory=shutil.disk_usage(SHARED_MEMORY).total if os.path.isdir(SHARED_MEMORY) else 0,
        memory=psutil.virtual_memory().total,
        open_files=soft,
        hard_open_files=hard,
        encoding=sys.getfilesystemencoding(),
        preferred_encoding=locale.getpreferredencoding(False),
        free={folder: shutil.disk_usage(_existing(folder)).free for folder in (*folders, tempfile.gettempdir())},
        hf_home=hf_home,
        hf_writable=can_write(_existing(hf_home)),
        interfaces=tuple(sorted(psutil.net_if_addrs())),
        named_interfaces={name: _names(os.environ[name]) for name in SOCKET_SETTINGS if os.environ.get(name)},
        auth_mode=os.environ.get("RAY_AUTH_MODE", ""),
    )


def _packages() -> dict[str, tuple[str, ...]]:
    """All versions of each installed package; a folder on the path twice counts once, Ray's own copies never."""
    found: dict[str, dict[str, str]] = {}
    for each in importlib.metadata.distributions():
        name = each.metadata["Name"]
        if name:
            place = str(Path(str(each.locate_file(""))).resolve())
            if os.path.basename(place) == RAYS_COPIES:
                continue
            found.setdefault(canonicalize_name(name), {}).setdefault(place, each.version)
    return {name: tuple(sorted(versions.values())) for name, versions in sorted(found.items())}


def _torch() -> tuple[str | None, int, str]:
    try:
        import torch
    except Exception as error:  # a broken library may raise anything: that is the fact
        return "", 0, f"{type(error).__name__}: {error}".splitlines()[0]
    return torch.version.cuda, torch.cuda.device_count(), ""


def _existing(path: str) -> str:
    """The nearest folder above that is there."""
    while not os.path.exists(path):
        path = os.path.dirname(path) or "/"
    return path


def can_write(folder: str) -> bool:
    """Whether a file can be made in a folder; it is gone at once. Rights alone do not tell: root has them in /proc."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=TEMPORARY):
            return True
    except OSError:
        return False


def _names(value: str) -> tuple[str, ...]:
    """The interfaces that a setting of gloo or NCCL names; none where it excludes some (^)."""
    return tuple(name.strip() for name in value.removeprefix("=").split(",") if name.strip() and value[0] not in "^")
