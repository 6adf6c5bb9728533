"""How an export names images, so that its trainer finds all of them, and where those go that a format cannot hold.

    rows hold                 JSON Lines, folders                LLaVA's format
    files                     absolute paths                     from the image folder on
    bytes                     from the output's folder on        from the output's folder on
    both                      absolute paths                     absolute paths

LLaVA's loaders put their one image folder in front of every name, which leaves an absolute one as it is; so do
LLaMA-Factory's and ms-swift's with theirs, and TRL's opens paths as they are. Files stay where they are; bytes are
written once each to ``<name>_images/<sha>.<ext>`` beside the output. Where the files or the output lie in an object
store no path is absolute: what is copied from there into one folder is named from that folder on.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.fs as pafs

from raycurate.run.filesystem import exists, resolve, write_bytes
from raycurate.samples.images import ImageRoot, image_extension
from raycurate.samples.schema import ImageRef, Sample


def local_folder(root: ImageRoot | None) -> str | None:
    """The absolute path of an image root; None without one, and for one in an object store."""
    if root is None or root.root is None:
        return None
    filesystem, path = resolve(root.root)
    return path if isinstance(filesystem, pafs.LocalFileSystem) else None


class ImageNames:
    """The images of one output by name; embedded ones are written once each beside it."""

    def __init__(self, output: str, root: ImageRoot | None, *, absolute: bool = True, place: str | None = None) -> None:
        """Write nothing yet.

        Args:
            output: a file; the images are written beside it.
            root: of the rows' image files; None where no row names one.
            absolute: name images by absolute paths where files of a folder of this machine are among them.
            place: the folder that the output's folder will be moved to; None: it stays, ``""``: it is copied away.
        """
        self._filesystem, path = resolve(output)
        self._base, name = posixpath.split(path)
        self._folder = f"{posixpath.splitext(name)[0]}_images"
        near = local_folder(root) if absolute else None
        self._files = near or ""
        is_local = isinstance(self._filesystem, pafs.LocalFileSystem)
        self._written = "" if near is None or not is_local else self._base if place is None else place
        self.written: list[str] = []

    @contextmanager
    def kept_if_written(self) -> Iterator[None]:
        """Removes the image files of a body that fails: an output that is not there needs none."""
        try:
            yield
        except BaseException:
            for path in self.written:
                self._filesystem.delete_file(path)
            raise

    def of(self, sample: Sample) -> list[str]:
        """The names of a sample's images: of their files, or of where their bytes were written."""
        return [
            posixpath.join(self._files, image.path or "")
            if image.data is None
            else posixpath.join(self._written, self._write(image))
            for image in sample.images
        ]

    def _write(self, image: ImageRef) -> str:
        """The path of an embedded image from the output's folder on."""
        assert image.data is not None
        assert image.sha is not None
        relative = f"{self._folder}/{image.sha[:2]}/{image.sha}.{image_extension(image.data)}"
        target = f"{self._base}/{relative}"
        if not exists(self._filesystem, target):  # the name is the content's hash
            write_bytes(self._filesystem, target, image.data)
            self.written.append(target)
        return relative
