"""Write samples as one file, and beside it a README: what the file is, rows by task, and the line that trains on it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from raycurate.run.filesystem import exists, resolve, write_bytes
from raycurate.samples.export_images import local_folder
from raycurate.samples.exporters import ExportCounts, ExportFacts, ExportOptions, export_samples
from raycurate.samples.schema import Sample
from raycurate.samples.task_folders_readme import in_table

SUFFIX = ".README.md"
"""Behind the name of the file."""
_MEANING = {
    "llava": "A JSON array of conversations for LLaVA and TinyLLaVA.",
    "sharegpt": "JSON Lines of conversations for LLaMA-Factory.",
    "swift": "JSON Lines of messages with <image> marks for ms-swift; `channel` is the task.",
    "messages": "JSON Lines of messages of content blocks for TRL and chat templates.",
    "parquet": "A Parquet file of messages and images for `datasets` and TRL.",
}
_LINES = {
    "llava": "python llava/train/train_mem.py --data_path '{file}' --image_folder '{root}' ...",
    "sharegpt": "llamafactory-cli train --dataset_dir '{folder}' --media_dir '{folder}' --dataset coreset ...",
    "swift": "ROOT_IMAGE_DIR='{folder}' swift sft --model MODEL --dataset '{file}'",
    "messages": 'rows = load_dataset("json", data_files="{file}", split="train").cast_column("images", [Image()])',
    "parquet": 'rows = load_dataset("parquet", data_files="{file}", split="train")',
}
_INDEX = """\
where `{folder}/dataset_info.json` has the entry

    "coreset": {{"file_name": "{name}", "formatting": "sharegpt",
                "columns": {{"messages": "conversations", "images": "images"}}}}
"""
_AFTERWARDS = {
    "sharegpt": _INDEX,
    "messages": "{standing}then `SFTTrainer(MODEL, train_dataset=rows)`.\n",
    "parquet": "then `SFTTrainer(MODEL, train_dataset=rows)`.\n",
}


def export_file(
    samples: Iterable[Sample], output: str, format: str, options: ExportOptions, facts: ExportFacts
) -> ExportCounts:
    """Write samples to the file ``output`` as `export_samples`, and then its README beside it."""
    counts = export_samples(samples, output, format, options)
    filesystem, path = resolve(output)
    write_bytes(filesystem, f"{path}{SUFFIX}", _text(counts, output, format, options, facts).encode())
    return counts


def delete_readme(output: str) -> None:
    """Remove the README of a file that is removed, where there is one."""
    filesystem, path = resolve(f"{output}{SUFFIX}")
    if exists(filesystem, path):
        filesystem.delete_file(path)


def _text(counts: ExportCounts, output: str, format: str, options: ExportOptions, facts: ExportFacts) -> str:
    folder, name = posixpath.split(output)
    far = options.images.root if options.images is not None else None
    root = local_folder(options.images) or far or folder
    standing = "" if local_folder(options.images) else f"(in `{folder}`, if there are images), "
    names = {"standing": standing, "file": output, "folder": folder, "name": name, "root": root}
    lines = [f"# {name}: {counts.rows:,} rows of {len(counts.tasks)} tasks", "", _MEANING[format], ""]
    lines += [f"Made from {facts.made_from}, fingerprint `{facts.fingerprint}`, by `raycurate export`.", ""]
    lines += ["| task | rows |", "|---|---|"]
    lines += [f"| {in_table(task)} | {rows:,} |" for task, rows in sorted(counts.tasks.items())]
    lines += ["", "Tasks have no weights here: the formats llamafactory, swift_tasks and webdataset carry them.", ""]
    lines += [_where_images_are(format, options, root, f"{posixpath.splitext(name)[0]}_images"), ""]
    lines += [f"    {_LINES[format].format(**names)}", "", _AFTERWARDS.get(format, "").format(**names)]
    return "\n".join(lines).rstrip() + "\n"


def _where_images_are(format: str, options: ExportOptions, root: str, written: str) -> str:
    """What the names of images mean."""
    known = options.images is not None and options.images.root is not None
    if format == "parquet":
        inside = options.embed or not known
        return "Images are inside." if inside else f"Images are named by absolute paths below `{root}`."
    if not known:
        return f"Images, if there are any, lie in `{written}/` and are named from the folder of this file."
    if local_folder(options.images) is None:
        far = f"Image paths count from `{root}`, where no trainer reads: copy the images and name their folder"
        return f"{far}; what was bytes lies in `{written}/`, which belongs into the same folder."
    if format == "llava" and options.one_kind:
        return f"Image paths count from `{root}`."
    return f"Images are named by absolute paths; what was bytes lies in `{written}/`."
