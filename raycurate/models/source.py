"""Which files a model's name means, and whether they are the same as before. Asks no network.

A folder is known by the content of its files: every weight format, configuration, tokenizer, template and code, the
folders inside it too. Left out is what no loader reads: documentation and licences, pictures, hidden files, what a
trainer keeps for itself (optimizer states, logs, its checkpoint folders) and copies in formats for other programs.

A configuration can name code of another repository of the hub (`auto_map`, ``owner/name--module.Class``), which is
loaded with `trust_remote_code`. It counts by the commit that lies in the hub's cache here, which is the one loaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import socket
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from raycurate.errors import UserError
from raycurate.models.file_hashes import hash_files

NOT_READ = re.compile(
    r"(readme|licen[cs]e|notice|notes?|copying|changelog|citation|use_policy|requirements)([._-].*)?"
    r"|.*\.(md|rst|log|pdf|png|jpe?g|gif|webp|svg|mp4|onnx|pyc|lock|tmp)"
    r"|(optimizer|scheduler|scaler|rng_state|training_args|trainer_state|events\.out)[._].*|rng_state.*|events\..*",
    re.IGNORECASE,
)
FOREIGN_CODE = re.compile(r"([^\s]+)--([\w.]+)\.\w+")
FOLDERS_NOT_READ = re.compile(r"checkpoint-\d+|global_step\d+|runs|logs|onnx|openvino|coreml|original|__pycache__")


def resolve_model(model: str) -> str:
    """The path or hub id to load; "tiny" is the model in this package.

    Raises:
        UserError: what can only be a path, and is no folder here.
    """
    if model != "tiny":
        if model.startswith(("/", "./", "../", "~")) and not Path(model).expanduser().is_dir():
            raise UserError(
                f"there is no model folder {model} on {socket.gethostname()}. Give a folder written by save_pretrained "
                "that every node reaches, a Hugging Face model id, or 'tiny'"
            )
        return model
    folder = Path(str(resources.files("raycurate.models") / "tiny" / "weights"))
    if not (folder / "config.json").is_file():
        raise UserError(f"the embedded model is not installed: no config.json in {folder}. Reinstall raycurate.")
    return str(folder)


def model_fingerprint(source: str, model_config: Any) -> str:
    """A hash of what a local folder holds, or the hub's id with the commit that its config came from.

    Behind it ``+owner/name@commit`` for each other repository of the hub that code is loaded from.

    Raises:
        UserError: a hub id whose commit is not known: it could be any state of the model.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return hash_folder(folder) + _foreign_code(folder, source)
    commit = getattr(model_config, "_commit_hash", None) or _cached_commit(source)
    if commit is None:
        raise UserError(
            f"the version of the model '{source}' is not known: neither its config nor the hub's cache names a commit. "
            "Download it into a folder (`hf download`) and give that, so that a changed model is seen."
        )
    config = _cached_file(source, "config.json", commit)
    return f"{source}@{commit}" + (_foreign_code(config.parent, source) if config else "")


def _cached_commit(source: str) -> str | None:
    """The commit of the cached `main` of a hub id, which is what was loaded just before; no network is asked."""
    found = _cached_file(source, "config.json")
    return found.parent.name if found else None


def _cached_file(source: str, name: str, revision: str | None = None) -> Path | None:
    """A file of a hub id in the hub's cache, in the folder of its commit; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(source, name, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _foreign_code(folder: Path, source: str) -> str:
    """``+owner/name@commit`` of each other repository that the configurations in a folder take code from, sorted.

    One that is not in the cache was not loaded here; code that is named without a repository lies in the folder.
    """
    named: set[tuple[str, str]] = set()
    for path in sorted(folder.glob("*config.json")):
        try:
            named.update(_code_of(json.loads(path.read_text(encoding="utf-8"))))
        except ValueError:  # whoever loads it says so
            continue
    found = {repository: _cached_file(repository, file) for repository, file in sorted(named) if repository != source}
    return "".join(f"+{repository}@{file.parent.name}" for repository, file in found.items() if file)


def _code_of(value: Any, *, mapped: bool = False) -> Iterator[tuple[str, str]]:
    """Repository and file of each class of another repository below an `auto_map` of a configuration."""
    if isinstance(value, str):
        if mapped and (found := FOREIGN_CODE.fullmatch(value)):
            yield found[1], f"{found[2]}.py"
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _code_of(each, mapped=mapped or name == "auto_map")
    elif isinstance(value, list):
        for each in value:
            yield from _code_of(each, mapped=mapped)


def hash_folder(folder: Path) -> str:
    """Hex blake2b-128 of the names and contents of all files in a folder that a loader may read."""
    names = sorted(_read_files(folder))
    digest = hashlib.blake2b(digest_size=16)
    for name, content in zip(names, hash_files([folder / name for name in names]), strict=True):
        digest.update(f"{name}\0{content}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _read_files(folder: Path) -> Iterator[str]:
    """Names, below the folder, of the files that count."""
    entered: set[str] = set()
    for path, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        if real in entered:  # a link that leads back
            folders.clear()
            continue
        entered.add(real)
        folders[:] = [name for name in folders if name[0] != "." and not FOLDERS_NOT_READ.fullmatch(name)]
        inside = os.path.relpath(path, folder)
        for name in files:
            if name[0] != "." and not NOT_READ.fullmatch(name) and os.path.isfile(os.path.join(path, name)):
                yield os.path.normpath(os.path.join(inside, name))


def image_backend() -> str:
    """What transformers' image processors resize with here: torchvision, where it is installed, gives other pixels."""
    return "torchvision" if importlib.util.find_spec("torchvision") else "pillow"
