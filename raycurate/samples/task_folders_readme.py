"""The README of an exported folder: what it is, rows and weights by task, and the line that trains on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MEANING = {
    "llamafactory": "One file of conversations per task for LLaMA-Factory, found by `dataset_info.json`.",
    "swift_tasks": "One file of messages per task for ms-swift.",
    "webdataset": "Tar shards per task: `KEY.json` (id, task, messages) beside its images `KEY.000.jpg`, ...",
    "fiftyone": "For FiftyOne: a sample per image of every row, kept or not, with what the selection says of it.",
}
_COOKER = """\
Megatron-Energon: `bash prepare.sh` indexes the shards once, then `get_train_dataset("metadataset.yaml", ...)`
mixes them. Rows are crude samples, which your task encoder's cooker makes its own:

    @stateless
    def cook(sample: dict) -> YourSample:
        row = sample["json"]                                   # id, task, messages; "loss": false is context only
        images = [sample[name] for name in sorted(sample) if name[:3].isdigit()]

Whoever reads the shards with `webdataset` alone finds the same members; `metadataset.yaml` has the weights.
"""

_SCALED = """\
Every answer carries the weight of its task as `loss_scale`, by which ms-swift multiplies the loss of its tokens:

{scaled}

Without that option ms-swift reads over the weights. In ms-swift 4.6 the token that ends a row's last answer counts 1 in
every task, and LLaVA 1.5's template does not move the scales of an answer behind an image: with that model, or with
answers of a word or two, draw the tasks instead. Both together would weigh twice.

{drawn}
"""


_LOOK = """\
    import fiftyone as fo

    dataset = fo.Dataset.from_dir(dataset_dir="{output}", dataset_type=fo.types.FiftyOneDataset)
    fo.launch_app(dataset)

Fields: `key` (of the row; `dataset.group_by("key", order_by="image")` puts its images together), `source_id`, `task`,
`question`, `answer`, `conversation`, `kept`, `cluster`, `rank`, `score`, `reason`, and ratings as `rating_NAME`.
{without} rows have no image and are not here.
"""


def readme(card: Mapping[str, Any], output: str) -> str:
    """The text of the README.

    Args:
        card: what `export.json` holds.
        output: where the folder lies, as the user named it.
    """
    weights = card["weights"]
    lines = [f"# {card['rows']:,} rows of {len(card['tasks'])} tasks", "", _MEANING[card["format"]], ""]
    lines += [f"Made from {card['made_from']}, fingerprint `{card['fingerprint']}`, by `raycurate export`.", ""]
    if card["format"] == "fiftyone":
        rows = [f"| {in_table(task)} | {facts['rows']:,} |" for task, facts in card["tasks"].items()]
        return "\n".join([*lines, "| task | rows |", "|---|---|", *rows, "", _how(card, output)]).rstrip() + "\n"
    lines += ["| task | name here | rows | weight | drawn with |", "|---|---|---|---|---|"]
    for task, facts in card["tasks"].items():
        weight = "" if weights is None else f"{weights[task]:.4g}"
        lines.append(
            f"| {in_table(task)} | {facts['name']} | {facts['rows']:,} | {weight} | {facts['probability']:.4f} |"
        )
    lines += ["", _how(card, output)]
    return "\n".join(lines).rstrip() + "\n"


def in_table(task: str) -> str:
    """The name of a task as one cell of a table."""
    return task.replace("|", "\\|").replace("\n", " ")


def _how(card: Mapping[str, Any], output: str) -> str:
    names = [facts["name"] for facts in card["tasks"].values()]
    parts = [repr(facts["probability"]) for facts in card["tasks"].values()]
    weighted = card["weights"] is not None
    if card["format"] == "llamafactory":
        lines = ["In the YAML file of `llamafactory-cli train`:", "", f"    dataset_dir: {output}"]
        lines.append(f"    dataset: {','.join(names)}")
        if weighted:
            lines += ["    mix_strategy: interleave_over", f"    interleave_probs: {','.join(parts)}"]
            lines += [
                "",
                "`interleave_over` draws until every task was seen whole; `max_steps` ends it.",
            ]
        return "\n".join(lines)
    if card["format"] == "swift_tasks":
        files = " ".join(f"'{output}/{name}.jsonl'" for name in names)
        command = f"    ROOT_IMAGE_DIR='{output}' swift sft --model MODEL --dataset {files}"
        if not weighted:
            return command
        drawn = f"{command} --interleave_prob {' '.join(parts)} --stopping_strategy all_exhausted"
        return _SCALED.format(scaled=f"{command} --is_binary_loss_scale false", drawn=drawn)
    if card["format"] == "fiftyone":
        return _LOOK.format(output=output, without=card["without_image"])
    return _COOKER
