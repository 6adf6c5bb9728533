"""Which files a model's name means, and whether they are the same as before. Imports no network code."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

from raycurate.errors import UserError

SMALL_FILE = 64 << 20


def resolve_model(model: str) -> str:
    """The path or hub id to load; "tiny" is the model in this package."""
    if model != "tiny":
        return model
    folder = Path(str(resources.files("raycurate.models") / "tiny" / "weights"))
    if not (folder / "config.json").is_file():
        raise UserError(f"the embedded model is not installed: no config.json in {folder}. Reinstall raycurate.")
    return str(folder)


def model_fingerprint(source: str, model_config: Any) -> str:
    """A hash of a local folder's files (small ones whole, large ones by size and ends), or the hub's commit."""
    folder = Path(source)
    if not folder.is_dir():
        return f"{source}@{getattr(model_config, '_commit_hash', None)}"
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in (".json", ".safetensors", ".jinja")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as stream:
            digest.update(stream.read(SMALL_FILE))
            if size > SMALL_FILE:
                stream.seek(max(SMALL_FILE, size - SMALL_FILE))
                digest.update(stream.read(SMALL_FILE))
    return digest.hexdigest()
