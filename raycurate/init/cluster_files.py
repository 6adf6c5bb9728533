"""The shipped files of `cluster_configs/`, with the names and places of one user's run filled in.

They are edited as text, so that their comments stay. A text that an edit looks for and does not find is a bug of this
module, not of the user: the tests make every target from the files as they are.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from raycurate.recipe import FILL_IN
from raycurate.version import __version__

MOUNTED = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "raycurate/")
RECIPE_FOLDER = "/etc/raycurate"
"""Where the pods of a job see the recipe."""


def checkout() -> str:
    """The folder that raycurate was installed from, which holds what an image or a node is made of; else a mark."""
    root = Path(str(files("raycurate"))).parent
    return str(root) if (root / "pyproject.toml").is_file() and (root / "constraints.txt").is_file() else FILL_IN


def launcher_file(cloud: str, name: str, path: str) -> str:
    """The file of Ray's launcher for a cloud.

    Args:
        cloud: aws, gcp or azure.
        name: of the cluster.
        path: of the file to be, which its comments name.
    """
    text = _shipped(f"{cloud}.yaml")
    text = _edit(text, " from the root of the repository.", ".")
    text = _edit(text, f"cluster_configs/{cloud}.yaml", path)
    text = _edit(text, "cluster_name: raycurate", f"cluster_name: {name}")
    root = checkout()
    for item in MOUNTED:
        text = _edit(text, f"  ~/raycurate/{item}: {item}", f"  ~/raycurate/{item}: {root}/{item}")
    text = _edit(text, "Paths are relative to where `ray up` runs.", "Sources are paths of this machine.")
    if cloud == "gcp":
        text = _edit(text, "project_id: null ", f"project_id: {FILL_IN} ")
    if cloud == "aws":
        head, *workers = text.split("      InstanceType:")
        profile = f"      IamInstanceProfile: {{Name: {FILL_IN}}}   # a profile that may read and write the bucket\n"
        text = "      InstanceType:".join([head, workers[0], *(_behind_first_line(w, profile) for w in workers[1:])])
    return text


def ray_job(name: str, path: str, gpu_groups: str) -> str:
    """A KubeRay job on a cluster of its own; its pods find the recipe in a ConfigMap of the job's name.

    Args:
        name: of the job, at most 47 characters.
        path: of the file to be, which its comments name.
        gpu_groups: what to say of the number of GPU nodes.
    """
    text = _shipped("kuberay/rayjob.yaml")
    text = _edit(text, "cluster_configs/kuberay/rayjob.yaml", path)
    text = _edit(text, "  name: raycurate-curate\n", f"  name: {name}\n")
    text, found = re.subn(
        r"(?m)^  # The code is in the image\..*\n  entrypoint: >-\n(?:    .*\n)+",
        f"  # The code is in the image, the recipe in the ConfigMap. {gpu_groups}\n"
        f"  entrypoint: raycurate run {RECIPE_FOLDER}/recipe.yaml\n",
        text,
    )
    assert found == 1, "the shipped job has one entry point"
    image = r"image: raycurate:[\w.]+ +# yours, built from kuberay/Dockerfile"
    text, found = re.subn(image, f"image: {FILL_IN}/raycurate:{__version__}   # your registry", text)
    assert found, "the shipped job has images"
    mount = f"- {{name: recipe, mountPath: {RECIPE_FOLDER}}}"
    text = _behind_match(text, r"- \{name: shm, mountPath: /dev/shm\}", mount)
    return _behind_match(text, r"- \{name: shm, emptyDir: .*", f"- {{name: recipe, configMap: {{name: {name}}}}}")


def _shipped(name: str) -> str:
    return files("raycurate.init").joinpath("cluster_configs", *name.split("/")).read_text(encoding="utf-8")


def _edit(text: str, old: str, new: str) -> str:
    assert old in text, f"{old!r} is no longer in the shipped file"
    return text.replace(old, new)


def _behind_first_line(text: str, line: str) -> str:
    first, rest = text.split("\n", 1)
    return f"{first}\n{line}{rest}"


def _behind_match(text: str, pattern: str, line: str) -> str:
    """The text with a line behind the first one that matches, as deep as that: the head's group comes first."""
    text, found = re.subn(rf"(?m)^( *){pattern}$", rf"\g<0>\n\g<1>{line}", text, count=1)
    assert found, f"{pattern!r} is no longer in the shipped file"
    return text
