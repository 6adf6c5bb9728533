"""What the writers of folders (`task_folders.py`) have in common: rows come one by one, images stay files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from raycurate.errors import UserError
from raycurate.samples.export_images import ImageNames, local_folder
from raycurate.samples.exporters import ExportOptions, json_bytes
from raycurate.samples.schema import Sample


class FolderWriter(ABC):
    """Writes the rows of one task after another into a folder of this machine."""

    def __init__(self, folder: str, options: ExportOptions, weights: Mapping[str, float] | None, place: str) -> None:
        """`place`: the folder of this machine that `folder` will be; empty where it goes to an object store."""
        self.folder, self.options, self.weights, self.place = folder, options, weights, place
        self.images_written = self.without_image = 0

    @abstractmethod
    def add(self, name: str, sample: Sample) -> None:
        """One more row of the task of that name."""

    @abstractmethod
    def finish(self, drawn: Mapping[str, float]) -> None:
        """What names the parts, with the probability of each."""


class ImagesBesideWriter(FolderWriter):
    """One that names images by their paths."""

    def __init__(self, folder: str, options: ExportOptions, weights: Mapping[str, float] | None, place: str) -> None:
        super().__init__(folder, options, weights, place)
        self._images = ImageNames(f"{folder}/data", options.images, place=place)
        self._is_far = options.images is not None and local_folder(options.images) is None

    def paths(self, sample: Sample) -> list[str]:
        """The names of a row's images. `UserError` for files that readers of the format do not find."""
        root = self.options.images
        if self._is_far and root is not None and root.root and any(image.data is None for image in sample.images):
            raise UserError(
                f"the images lie at {root.root}, where readers of this format do not look. Export as webdataset, "
                "which holds them, or copy them and name the folder with --set images=FOLDER."
            )
        found = self._images.of(sample)
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
