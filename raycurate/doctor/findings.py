"""What is wrong with a machine: one function per trap, each with what was found, what it means and what mends it.

Pure functions of `Facts`. A check that finds nothing wrong gives a line too: what was looked at is part of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from raycurate.doctor.facts import Facts

State = Literal["ok", "warn", "fail"]
GIB = 2**30
LEAST_PYTHON = "3.11"
LEAST_FILES, GOOD_FILES = 1024, 4096
LEAST_SHARED = 2 * GIB
LEAST_FREE, GOOD_FREE = GIB, 10 * GIB
GOOD_SKEW, WORST_SKEW = 5.0, 300.0
"""Seconds between two clocks: S3 refuses requests that are 15 minutes off, and times of files mislead long before."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer.

    Attributes:
        check: what was looked at.
        state: ok; warn: it runs, worse than it could; fail: it will not run.
        where: host, '' where it is no machine's.
        found: what is so.
        meaning: what follows from it, '' where all is well.
        fix: the command or setting that mends it, '' likewise.
    """

    check: str
    state: State
    where: str
    found: str
    meaning: str = ""
    fix: str = ""


def judge(facts: Facts, tested: Mapping[str, str] | None = None) -> list[Finding]:
    """All findings about a machine.

    Args:
        facts: of it.
        tested: package -> version of a combination that is known to work (constraints.txt), if there is one.
    """
    found = [each for check in CHECKS for each in check(facts)]
    return [*found, *_tested(facts, tested or {})]


def _python(facts: Facts) -> Iterator[Finding]:
    if Version(facts.python) < Version(LEAST_PYTHON):
        yield Finding(
            "python",
            "fail",
            facts.host,
            f"Python {facts.python}",
            f"raycurate needs {LEAST_PYTHON} or newer",
            f"python{LEAST_PYTHON} -m venv .venv",
        )
    else:
        yield Finding("python", "ok", facts.host, f"Python {facts.python}")


def _packages(facts: Facts) -> Iterator[Finding]:
    wrong = False
    for line in facts.requirements:
        need = Requirement(line)
        versions = facts.packages.get(canonicalize_name(need.name), ())
        asked = f"{need.name}{need.specifier}"
        if not versions:
            wrong = True
            yield Finding(
                "packages",
                "fail",
                facts.host,
                f"{need.name} is not installed",
                "it is needed",
                f"pip install '{asked}'",
            )
        elif not need.specifier.contains(versions[0], prereleases=True):
            wrong = True
            yield Finding(
                "packages",
                "fail",
                facts.host,
                f"{need.name} {versions[0]}",
                f"{asked} is needed",
                f"pip install '{asked}'",
            )
    if not wrong:
        yield Finding("packages", "ok", facts.host, f"{len(facts.requirements)} packages as needed")


def _twice(facts: Facts) -> Iterator[Finding]:
    for name in ("ray", "torch", "transformers"):
        if len(versions := facts.packages.get(name, ())) > 1:
            yield Finding(
                "packages",
                "fail",
                facts.host,
                f"{name} is installed {len(versions)} times: {', '.join(versions)}",
                "which of them is imported depends on the order of sys.path, and workers may take another one",
                f"pip uninstall {name}, until none is left, then pip install '{name}=={versions[-1]}'",
            )


def _faiss(facts: Facts) -> Iterator[Finding]:
    kinds = sorted(name for name in facts.packages if name.startswith("faiss"))
    if len(kinds) > 1:
        yield Finding(
            "faiss",
            "fail",
            facts.host,
            " and ".join(kinds),
            "both put their files into the same folder: what is imported is a mixture",
            f"pip uninstall -y {' '.join(kinds)}, then pip install {'faiss-gpu-cu12' if facts.nvidia else 'faiss-cpu'}",
        )
    elif kinds:
        yield Finding("faiss", "ok", facts.host, f"{kinds[0]} {facts.packages[kinds[0]][0]}")


def _torch(facts: Facts) -> Iterator[Finding]:
    version = next(iter(facts.packages.get("torch", ("",))))
    if facts.torch_error:
        yield Finding(
            "torch",
            "fail",
            facts.host,
            facts.torch_error,
            "torch cannot be imported",
            "pip install --force-reinstall torch",
        )
    elif facts.nvidia and facts.torch_cuda is None:
        yield Finding(
            "torch",
            "fail",
            facts.host,
            f"an NVIDIA GPU, and torch {version} is a CPU build",
            "no GPU will be used",
            "pip install --force-reinstall torch, from an index with CUDA builds",
        )
    elif facts.nvidia and facts.torch_devices == 0:
        yield Finding(
            "torch",
            "fail",
            facts.host,
            f"an NVIDIA driver, and torch {version} (CUDA {facts.torch_cuda}) sees no GPU",
            "the driver is older than that CUDA, or CUDA_VISIBLE_DEVICES hides the GPUs",
            "nvidia-smi, then a torch for the CUDA version that it shows; unset CUDA_VISIBLE_DEVICES",
        )
    else:
        cuda = f", CUDA {facts.torch_cuda}, {facts.torch_devices} GPUs" if facts.torch_devices else ", no GPU"
        yield Finding("torch", "ok", facts.host, f"torch {version}{cuda}")


def _deepspeed(facts: Facts) -> Iterator[Finding]:
    if facts.torch_devices and not facts.nvcc:
        yield Finding(
            "deepspeed",
            "warn",
            facts.host,
            "GPUs, and no nvcc",
            "DeepSpeed cannot build its own operators: offloaded optimizers fail, others are slower",
            "install the CUDA toolkit of torch's version and set CUDA_HOME",
        )


def _shared_memory(facts: Facts) -> Iterator[Finding]:
    wanted = min(LEAST_SHARED, facts.memory // 10)
    shown = f"/dev/shm has {_gib(facts.shared_memory)} of {_gib(facts.memory)} memory"
    if facts.shared_memory < wanted:
        yield Finding(
            "shared memory",
            "warn",
            facts.host,
            shown,
            "Ray keeps objects in a file on disk instead: every pass of rows is slower",
            f"docker run --shm-size={-(-wanted // GIB)}g, or an emptyDir with medium: Memory at /dev/shm",
        )
    else:
        yield Finding("shared memory", "ok", facts.host, shown)


def _open_files(facts: Facts) -> Iterator[Finding]:
    limit = facts.open_files
    if 0 <= limit < GOOD_FILES:
        most = facts.hard_open_files if facts.hard_open_files > 0 else 65_536
        fix = f"ulimit -n {min(most, 65_536)}"
        if most < GOOD_FILES:
            fix = f"nofile {65_536} in /etc/security/limits.conf, or LimitNOFILE= of the service"
        state: State = "fail" if limit < LEAST_FILES else "warn"
        meaning = "Ray opens several files per worker and connection; at the limit tasks fail in odd places"
        yield Finding("open files", state, facts.host, f"a limit of {limit:,} open files", meaning, fix)
    else:
        yield Finding("open files", "ok", facts.host, "no limit" if limit < 0 else f"a limit of {limit:,}")


def _encoding(facts: Facts) -> Iterator[Finding]:
    wrong = [e for e in (facts.encoding, facts.preferred_encoding) if e.lower().replace("-", "") != "utf8"]
    if wrong:
        yield Finding(
            "locale",
            "fail",
            facts.host,
            f"text is read as {wrong[0]}",
            "names of images that are not ASCII cannot be opened",
            "export LC_ALL=C.UTF-8 PYTHONUTF8=1, before Ray starts",
        )
    else:
        yield Finding("locale", "ok", facts.host, "UTF-8")


def _disk(facts: Facts) -> Iterator[Finding]:
    for folder, free in facts.free.items():
        if free < GOOD_FREE:
            state: State = "fail" if free < LEAST_FREE else "warn"
            yield Finding(
                "disk",
                state,
                facts.host,
                f"{_gib(free)} free at {folder}",
                "Ray spills there and runs are written there; a full disk stops a stage, which goes on afterwards",
                "free some, or name a larger disk: RAY_TMPDIR=, TMPDIR=, the run directory",
            )
        else:
            yield Finding("disk", "ok", facts.host, f"{_gib(free)} free at {folder}")


def _models(facts: Facts) -> Iterator[Finding]:
    if not facts.hf_writable:
        yield Finding(
            "model cache",
            "fail",
            facts.host,
            f"{facts.hf_home} cannot be written",
            "models of the hub cannot be loaded; local folders can",
            "export HF_HOME=/a/folder/that/can, on all nodes",
        )
    else:
        yield Finding("model cache", "ok", facts.host, facts.hf_home)


def _interfaces(facts: Facts) -> Iterator[Finding]:
    for setting, names in facts.named_interfaces.items():
        gone = [name for name in names if not any(there.startswith(name) for there in facts.interfaces)]
        if gone:
            yield Finding(
                "network",
                "fail",
                facts.host,
                f"{setting} names {', '.join(gone)}; there are {', '.join(facts.interfaces)}",
                "training processes will not find each other",
                f"unset {setting}, or name one of those",
            )


def _tested(facts: Facts, tested: Mapping[str, str]) -> Iterator[Finding]:
    """Versions that differ from a combination that is known to work."""
    asked = {canonicalize_name(Requirement(line).name) for line in facts.requirements}
    others = [
        f"{name} {facts.packages[name][0]} (tested: {version})"
        for name, version in sorted(tested.items())
        if name in asked and name in facts.packages and facts.packages[name][0].split("+")[0] != version
    ]
    if others:
        yield Finding(
            "constraints",
            "warn",
            facts.host,
            ", ".join(others),
            "within what is allowed, but not the versions that were tested together",
            "pip install -c constraints.txt raycurate",
        )


def differing(machines: Sequence[Facts]) -> list[Finding]:
    """What must be alike on all machines of a cluster and is not; the first is the driver's."""
    first, found = machines[0], []
    needed = {canonicalize_name(Requirement(line).name) for line in first.requirements}
    names = ("python", *sorted({*first.packages} & needed))
    for other in machines[1:]:
        for name in names:
            mine = first.python if name == "python" else ", ".join(first.packages[name])
            theirs = other.python if name == "python" else ", ".join(other.packages.get(name, ())) or "none"
            if mine != theirs:
                found.append(
                    Finding(
                        "same everywhere",
                        "fail" if name in ("python", "ray") else "warn",
                        other.host,
                        f"{name} {theirs}, and {mine} on {first.host}",
                        "tasks are sent as pickled code: they need the same versions on both sides",
                        f"pip install {name}=={mine}" if name != "python" else f"Python {mine} on all nodes",
                    )
                )
    return found or [Finding("same everywhere", "ok", "", f"{len(machines)} machines with the same versions")]


def skewed(host: str, seconds: float) -> Finding:
    """What a clock that is `seconds` off the driver's means."""
    if abs(seconds) <= GOOD_SKEW:
        return Finding("clock", "ok", host, f"{abs(seconds):.1f} s off the driver's")
    state: State = "fail" if abs(seconds) > WORST_SKEW else "warn"
    meaning = "object stores refuse requests with a wrong time, and which file is newer is told wrongly"
    return Finding("clock", state, host, f"{seconds:+.0f} s off the driver's", meaning, "timedatectl set-ntp true")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _python, _packages, _twice, _faiss, _torch, _deepspeed, _shared_memory, _open_files, _encoding, _disk, _models,
    _interfaces,
)  # fmt: skip
