"""The output folder of a training whose run directory is not on a local (or shared) filesystem.

The training writes to a local folder; complete checkpoints, logs and the final model are copied to the run directory
as they appear, and the last complete checkpoint comes back when a worker starts. Every machine copies what its own
processes wrote (ZeRO's shards), the first one also the marker that makes a checkpoint count, after all have copied.
On a local run directory the training writes in place and nothing is copied.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

from raycurate.run.filesystem import exists, read_json
from raycurate.training.checkpoints import COMPLETE, checkpoint_name


@dataclass(frozen=True)
class Mirror:
    """A local folder and its copy at `path` of `filesystem`."""

    local: Path
    filesystem: pafs.FileSystem
    path: str

    def fetch_checkpoint(self) -> None:
        """Bring the last complete checkpoint here, in the place of what lies here under its name.

        That may be one machine's part of it, or half written.
        """
        marker = read_json(self.filesystem, f"{self.path}/checkpoints/{COMPLETE}")
        folder = self.local / "checkpoints"
        if marker is None:
            shutil.rmtree(folder, ignore_errors=True)
            return
        name = checkpoint_name(marker)
        shutil.rmtree(folder / name, ignore_errors=True)
        self._copy_in(f"checkpoints/{name}")
        self._copy_in(f"checkpoints/{COMPLETE}")

    def send_checkpoint(self, name: str, *, wait_for_all: Callable[[], None], first: bool, keep: int) -> None:
        """Copy a checkpoint out; `first` then makes it count and removes the ones beyond `keep`."""
        self._copy_out(f"checkpoints/{name}")
        wait_for_all()
        if first:
            self._copy_out(f"checkpoints/{COMPLETE}")
            infos = self.filesystem.get_file_info(pafs.FileSelector(f"{self.path}/checkpoints"))
            folders = [i.base_name for i in infos if i.base_name.startswith("checkpoint-")]
            for old in sorted(folders, key=lambda folder: int(folder.rsplit("-", 1)[1]))[:-keep]:
                self.filesystem.delete_dir(f"{self.path}/checkpoints/{old}")

    def send(self, *names: str) -> None:
        """Copy files or folders out, those that are there."""
        for name in names:
            if (self.local / name).exists():
                self._copy_out(name)

    def _copy_out(self, name: str) -> None:
        local = pafs.LocalFileSystem()
        target = f"{self.path}/{name}"
        folder = target if (self.local / name).is_dir() else target.rsplit("/", 1)[0]
        self.filesystem.create_dir(folder, recursive=True)
        pafs.copy_files(str(self.local / name), f"{self.path}/{name}", local, self.filesystem)

    def _copy_in(self, name: str) -> None:
        source = f"{self.path}/{name}"
        if exists(self.filesystem, source):
            is_file = self.filesystem.get_file_info(source).type == pafs.FileType.File
            folder = (self.local / name).parent if is_file else self.local / name
            folder.mkdir(parents=True, exist_ok=True)
            pafs.copy_files(source, str(self.local / name), self.filesystem, pafs.LocalFileSystem())
