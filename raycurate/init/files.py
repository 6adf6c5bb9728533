"""What `raycurate init` writes for one target: a recipe, the files of its cluster and a README with the commands."""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, FunctionLoader, StrictUndefined

from raycurate.config import IngestConfig
from raycurate.errors import UserError
from raycurate.init.choices import CARDS, MODEL, SMALL_MODEL, Machine, choose, slurm_node, this_machine
from raycurate.init.cluster_files import checkout, launcher_file, ray_job
from raycurate.init.look import Look, find_images
from raycurate.recipe import FILL_IN
from raycurate.version import __version__

CLOUDS = ("aws", "gcp", "azure")
BUCKETS = {
    "aws": f"s3://{FILL_IN}",
    "gcp": f"gs://{FILL_IN}",
    "azure": f"abfss://{FILL_IN}",
    "kuberay": f"s3://{FILL_IN}",
}
COPY = {"s3": ("aws s3 cp", "aws s3 sync"), "gs": ("gcloud storage cp", "gcloud storage rsync -r")}
"""What copies a file and a folder to a bucket, by its scheme."""
RECIPE, README = "recipe.yaml", "README.md"
SHOWN_TASKS = 8


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user asks of `raycurate init`.

    Attributes:
        folder: absolute path of the folder to write to.
        target: one of `TARGETS`.
        ingest: the source and how it is read.
        storage: URI or folder that all nodes reach; None: the data's bucket, or the folder.
        model: reference model; None: by the target.
        ratio: part of the rows to keep.
        nodes: of a Slurm allocation.
        cpus: of each of its nodes.
        gpus: of each of its nodes.
    """

    folder: str
    target: str
    ingest: IngestConfig
    storage: str | None = None
    model: str | None = None
    ratio: float = 0.2
    nodes: int = 1
    cpus: int = 8
    gpus: int = 1


def files_for(wishes: Wishes, look: Look) -> dict[str, str]:
    """Text by file name of everything that a target needs.

    Raises:
        UserError: a ratio that keeps none of so few rows.
    """
    from raycurate.stages.select import check_target  # it brings Ray

    check_target(wishes.ratio, look.usable)
    facts = _facts(wishes, look)
    made = {RECIPE: _render("recipe.yaml", facts)}
    described = {RECIPE: "the stages and their settings, with what each line means"}
    target, name = wishes.target, facts["name"]
    if target == "slurm":
        made["slurm.sh"] = _render("slurm.sh", facts)
        described["slurm.sh"] = "starts Ray on the nodes of an allocation and runs raycurate there"
    elif target in CLOUDS:
        made["cluster.yaml"] = launcher_file(target, name, facts["script"])
        described["cluster.yaml"] = "the nodes, for Ray's launcher (`ray up`)"
    elif target == "kuberay":
        made["rayjob.yaml"] = ray_job(name, facts["script"], "Its extract and cluster sections start the GPU pods.")
        described["rayjob.yaml"] = "the job and its cluster, for KubeRay 1.6 or newer"
    made[README] = _render("README.md", {**facts, "described": described})
    return made


def write_files(folder: str, made: dict[str, str], *, force: bool) -> list[str]:
    """Write files; their paths.

    Raises:
        UserError: one of them is there, and `force` is not set; then none is written.
    """
    paths = {name: os.path.join(folder, name) for name in made}
    there = [path for path in paths.values() if os.path.lexists(path)]
    if there and not force:
        raise UserError(
            f"{there[0]} is there already and nothing was written. Name another folder, or say --force to replace "
            f"{', '.join(map(os.path.basename, there))}."
        )
    os.makedirs(folder, exist_ok=True)
    for name, text in made.items():
        with open(paths[name], "w", encoding="utf-8") as file:
            file.write(text)
    return list(paths.values())


def _facts(wishes: Wishes, look: Look) -> dict[str, Any]:
    """What the templates name."""
    target, folder, config = wishes.target, wishes.folder, wishes.ingest
    local = target in ("local", "slurm")
    name = _plain_name(config.source)
    images, images_found = find_images(look, config.source, config.images)
    storage, source_there, images_there = _places(wishes, images)
    if look.image_paths and images is None:
        images_there = FILL_IN
    machine = _machine(wishes)
    script = os.path.join(folder, {"slurm": "slurm.sh", "kuberay": "rayjob.yaml"}.get(target, "cluster.yaml"))
    facts: dict[str, Any] = {
        "look": look,
        "source": config.source,
        "source_there": source_there,
        "images": images_there,
        "images_found": images_found,
        "format": config.format,
        "columns": config.columns,
        "local": target == "local",
        "target": target,
        "name": name,
        "mark": FILL_IN,
        "folder": folder,
        "folder_word": shlex.quote(folder),
        "recipe": shlex.quote(os.path.join(folder, RECIPE)),
        "script": shlex.quote(script),
        "run": f"{storage}/run" if local else f"{storage}/runs/{name}",
        "out": f"{storage}/coreset.json" if local else f"{storage}/runs/{name}/coreset.json",
        "ratio": wishes.ratio,
        "kept": round(look.usable * wishes.ratio),
        "choices": choose(look.usable, machine, wishes.model),
        "machine": machine,
        "small_model": SMALL_MODEL,
        "larger_model": MODEL,
        "nodes": wishes.nodes,
        "cpus": wishes.cpus,
        "gpus": wishes.gpus,
        "bin": shlex.quote(os.path.dirname(sys.executable)),
        **_texts(look),
    }
    facts["open_places"] = _open_places(target, facts)
    facts["commands"] = _commands(wishes, facts, images)
    return facts


def _machine(wishes: Wishes) -> Machine:
    if wishes.target == "local":
        return this_machine()
    return slurm_node(wishes.gpus) if wishes.target == "slurm" else CARDS[wishes.target]


def _places(wishes: Wishes, images: str | None) -> tuple[str, str, str | None]:
    """Where a run goes, and the data and its images as the nodes see them."""
    source = wishes.ingest.source
    if wishes.target in ("local", "slurm"):
        return wishes.storage or wishes.folder, source, images
    bucket = "/".join(source.split("/")[:3]) if "://" in source else BUCKETS[wishes.target]
    storage = (wishes.storage or bucket).rstrip("/")

    def there(path: str | None) -> str | None:
        return path if path is None or "://" in path else f"{storage}/data/{os.path.basename(path.rstrip('/'))}"

    return storage, str(there(source)), there(images)


def _texts(look: Look) -> dict[str, str]:
    """What was seen, in words."""
    total = sum(look.tasks.values())
    shown = [f"{task} {count / total:.0%}" for task, count in list(look.tasks.items())[:SHOWN_TASKS]]
    if len(look.tasks) > SHOWN_TASKS:
        shown.append(f"{len(look.tasks) - SHOWN_TASKS} more")
    rejected = sum(look.rejects.values())
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in look.rejects.items())
    size = f"{look.size / (1 << 20):,.1f} MiB" if look.size >= 1 << 20 else f"{look.size / 1024:,.1f} KiB"
    return {
        "rows_text": f"{look.rows:,} rows" if look.counted else f"about {look.rows:,} rows (estimated from bytes)",
        "size_text": size,
        "tasks_text": _one_line(", ".join(shown)),
        "rejects_text": _one_line(
            f"{rejected:,} of the first {look.parsed:,} rows cannot be used ({reasons}): {look.first_reject}"
        ),
    }


def _open_places(target: str, facts: dict[str, Any]) -> list[str]:
    """What the user must still fill in, in words."""
    places = []
    if FILL_IN in f"{facts['run']}{facts['source_there']}{facts['out']}":
        places.append(
            "recipe.yaml: the bucket, or another place that all nodes reach, of run, source, images and out; "
            "copy the data there"
        )
    if facts["images"] == FILL_IN:
        places.append(f"recipe.yaml, ingest.images: the folder of images such as {facts['look'].image_paths[0]}")
    if target == "aws":
        places.append("cluster.yaml, IamInstanceProfile of the workers: a profile that may read and write the bucket")
    if target == "gcp":
        places.append("cluster.yaml, provider.project_id: your project")
    if target in CLOUDS and checkout() == FILL_IN:
        places.append("cluster.yaml, file_mounts: the folder of raycurate's sources")
    if target == "kuberay":
        places.append("rayjob.yaml, image of every group: your registry")
    return places


def _commands(wishes: Wishes, facts: dict[str, Any], images: str | None) -> dict[str, list[str]]:
    """Commands of the README by their headings."""
    recipe, script, run = facts["recipe"], facts["script"], shlex.quote(facts["run"])
    folder = shlex.quote(wishes.folder)
    look = [f"raycurate status {run}"]
    check = f"raycurate run {recipe} --dry-run"
    if wishes.target == "local":
        return {"Run it": [f"raycurate doctor {run}", f"raycurate run {recipe}", *look]}
    if wishes.target == "slurm":
        array = f"sbatch --array=0-2 {script} run {recipe} --set run={run}-%a --set select.seed=%a"
        balance = f"sbatch {script} balance {run} --help"
        return {"Run it": [check, f"sbatch {script}", "squeue --me", *look], "Experiments": [balance, array]}
    data = [wishes.ingest.source, *([images] if images is not None else [])]
    goals = [facts["source_there"], facts["images"]]
    copy = COPY.get(facts["run"].split("://")[0], ("cp", "cp -r"))
    copies = [
        f"{copy[os.path.isdir(place)]} {shlex.quote(place)} {shlex.quote(str(goal))}"
        for place, goal in zip(data, goals, strict=False)
        if place != goal and not goal.startswith("abfss://")
    ]
    if wishes.target == "kuberay":
        image = f"{FILL_IN}/raycurate:{__version__}"
        root, name = checkout(), facts["name"]
        build = f"docker build -f {root}/cluster_configs/kuberay/Dockerfile -t {image} {root}"
        recipe_map = f"kubectl create configmap {name} --from-file=recipe.yaml={recipe}"
        return {
            "Once": [*copies, build, f"docker push {image}"],
            "Run it": [check, recipe_map, f"kubectl apply -f {script}", f"kubectl logs -f job/{name}", *look],
        }
    return {
        "Once": [*copies, "ray get-auth-token --generate"],
        "Run it": [
            check,
            f"ray up {script}",
            f"ray dashboard {script}",
            "export RAY_ADDRESS=http://localhost:8265 RAY_AUTH_MODE=token",
            f"ray job submit --working-dir {folder} -- raycurate run {RECIPE}",
            *look,
            f"ray down {script}",
        ],
    }


def _plain_name(source: str) -> str:
    """A name that clouds and Kubernetes take, from the file's."""
    stem = os.path.basename(source.rstrip("/")).split(".")[0].lower()
    return f"raycurate-{re.sub('[^a-z0-9]+', '-', stem).strip('-')}"[:40].rstrip("-")


def _one_line(text: str) -> str:
    """Text of the data as part of a comment."""
    return "".join(sign if sign.isprintable() else " " for sign in text)[:400]


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _render(template: str, facts: dict[str, Any]) -> str:
    def source(name: str) -> str:
        return files("raycurate.init").joinpath("templates", f"{name}.j2").read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(source),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["yaml"] = _yaml
    return environment.get_template(template).render(facts)
