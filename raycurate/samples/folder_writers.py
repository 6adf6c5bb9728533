"""What the writers of folders (`task_folders.py`) have in common: rows come one by one, images stay files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from raycurate.errors import UserError
from raycurate.samples.exporters import ExportOptions, ImageFolder, found_anywhere, json_bytes
from raycurate.samples.schema import Sample


class FolderWriter(ABC):
    """Writes the rows of one task after another into a folder of this machine."""

    def __init__(self, folder: str, options: ExportOptions, weights: Mapping[str, float] | None) -> None:
        self.folder, self.options, self.weights = folder, options, weights
        self.images_written = self.without_image = 0

    @abstractmethod
    def add(self, name: str, sample: Sample) -> None:
        """One more row of the task of that name."""

    @abstractmethod
    def finish(self, drawn: Mapping[str, float]) -> None:
        """What names the parts, with the probability of each."""


class ImagesBesideWriter(FolderWriter):
    """One that names images by their paths."""

    def __init__(self, folder: str, options: ExportOptions, weights: Mapping[str, float] | None) -> None:
        super().__init__(folder, options, weights)
        self._images = ImageFolder(f"{folder}/data")
        root = None if options.images is None else options.images.root
        self._root = None if root is None else str(root)

    def paths(self, sample: Sample) -> list[str]:
        """Where the images of a row lie: files by absolute paths, bytes as files in this folder, named from there."""
        if self._root is not None and "://" in self._root and any(image.data is None for image in sample.images):
            raise UserError(
                f"the images lie at {self._root}, where readers of this format do not look. Export as webdataset, "
                "which holds them, or copy them and name the folder with --set images=FOLDER."
            )
        found = found_anywhere(sample, self._images.paths_of(sample), self._root)
        self.images_written = len(self._images.written)
        return found


class LinesWriter(ImagesBesideWriter):
    """A file of JSON lines per task."""

    def add(self, name: str, sample: Sample) -> None:
        """See the base."""
        with open(f"{self.folder}/{name}.jsonl", "ab") as stream:
            stream.write(json_bytes(self.row(sample, self.paths(sample))) + b"\n")

    @abstractmethod
    def row(self, sample: Sample, paths: list[str]) -> dict[str, Any]:
        """The object of one line."""
