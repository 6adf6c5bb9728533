"""`raycurate doctor` in set-ups that are broken on purpose: each is found, named, and told by the exit code."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path


def ask(*arguments: str, environment: dict[str, str] | None = None, files: int = 0) -> tuple[int, list[dict[str, str]]]:
    """Exit code and findings of the command in a process of its own."""

    def limit() -> None:
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    command = [sys.executable, "-m", "raycurate.cli", "doctor", *arguments, "--json"]
    done = subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.startswith("["), done.stderr
    return done.returncode, json.loads(done.stdout)


def package(folder: Path, name: str, version: str) -> str:
    """A folder for PYTHONPATH in which a package is installed, as far as pip can tell."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return f"{folder}:{os.environ.get('PYTHONPATH', '')}"


def failed(findings: list[dict[str, str]]) -> dict[str, str]:
    """Check -> what was found, of those that will not work."""
    return {each["check"]: each["found"] for each in findings if each["state"] == "fail"}


def test_several_broken_things_are_each_named(tmp_path):
    """512 open files, a model cache that is a device, an interface and packages of the past."""
    path = package(tmp_path, "faiss-gpu-cu12", "1.8.0")
    package(tmp_path / "other", "ray", "2.9.0")
    broken = {
        "PYTHONPATH": f"{tmp_path / 'other'}:{path}",
        "HF_HOME": "/dev/null/models",
        "GLOO_SOCKET_IFNAME": "eth77",
    }
    code, findings = ask(environment=broken, files=512)
    found = failed(findings)
    assert code == 1
    assert found["faiss"] == "faiss-cpu and faiss-gpu-cu12"
    assert "2.9.0" in found["packages"]
    assert found["open files"] == "a limit of 512 open files"
    assert found["model cache"] == "/dev/null/models cannot be written"
    assert "names eth77" in found["network"]
    assert all(each["fix"] for each in findings if each["state"] != "ok")


def test_a_good_machine_and_run_directory_end_with_zero(tmp_path):
    """With the versions that are known to work; the folder that was not there is not there."""
    code, findings = ask(str(tmp_path / "run"), environment={"HF_HOME": str(tmp_path)})
    assert (code, failed(findings)) == (0, {})
    assert not (tmp_path / "run").exists()
