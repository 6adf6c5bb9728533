"""Open, check and decode untrusted images.

``check_image`` decides whether a trainer can use the bytes: they must be of an accepted format (told by content,
never by name), within the limits of bytes, pixels and shape *before* any pixel is decoded, and then decode to the
end. A JPEG is decoded at an eighth of its size, which reads every byte of its entropy-coded data at a fraction of the
cost. Only the first frame of an animation counts. Formats that run other programs or are not pictures (EPS, PDF, SVG)
are not accepted.

``load_image`` gives RGB as a viewer shows it: EXIF orientation applied, alpha flattened on white, palettes and CMYK
converted, 16-bit grey scaled down (not clipped) from the fewest of 8, 10, 12, 14 and 16 bits that hold its largest
value: cameras, scanners and depth sensors store their 10 to 14 bits as they are, which 16 would make near black. A
float or 32-bit image is scaled from its own range to 0..255.
Cost: about 1 ms to check and 5 ms to load a 640 x 480 JPEG on one core.
"""

from __future__ import annotations

import io
import os
import posixpath
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow.fs as pafs
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from raycurate.errors import UserError
from raycurate.run.filesystem import resolve
from raycurate.run.paths import image_roots
from raycurate.samples.quarantine import Fault, FaultError, Reason
from raycurate.samples.schema import ImageRef

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "PPM": "ppm"}
_PILLOW_MAX_PIXELS = 178_956_970
_UNSUPPORTED_SIGNS = (b"%PDF", b"%!PS", b"8BPS", b"<svg", b"<?xml", b"\x00\x00\x00\x0cjP")
_UNSUPPORTED_BRANDS = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif", b"ftypmp4", b"ftypisom")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What an acceptable image is."""

    max_bytes: int = 64 << 20
    max_pixels: int = 50_000_000
    min_side: int = 2
    max_aspect: float = 200.0
    """Longer over shorter side; processors of the Qwen family refuse more."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= _PILLOW_MAX_PIXELS:
            raise UserError(
                f"max_pixels is {self.max_pixels}; allowed is 1 to {_PILLOW_MAX_PIXELS} (Pillow's own bound)"
            )
        if self.max_bytes < 1 or self.min_side < 1 or self.max_aspect < 1:
            raise UserError("max_bytes, min_side and max_aspect must be at least 1")


DEFAULT_LIMITS = ImageLimits()


def accepted_limits(ingested: Mapping[str, Any]) -> ImageLimits:
    """The limits that a `samples` noun was made with, from its description: what it took, later stages read."""
    settings = ingested.get("config", {})
    return ImageLimits(
        max_bytes=settings.get("max_image_bytes", DEFAULT_LIMITS.max_bytes),
        max_pixels=settings.get("max_pixels", DEFAULT_LIMITS.max_pixels),
    )


@dataclass(frozen=True, slots=True)
class ImageRoot:
    """The folder that image paths are relative to, on any pyarrow filesystem; None where all images are embedded."""

    root: str | None
    links: tuple[str, ...] = ()
    """Other local folders, which links inside of the root may lead to."""

    @classmethod
    def of(cls, images: str | None) -> Self:
        """The root that a setting names, ``ROOT`` or ``ROOT:OTHER:OTHER``."""
        roots = image_roots(images)
        return cls(roots[0], tuple(roots[1:])) if roots else cls(None)

    def __post_init__(self) -> None:
        if self.root is None:
            return
        try:
            filesystem, path = resolve(self.root)
            info = filesystem.get_file_info(path)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot use the image root {self.root}: {error}") from None
        if info.type != pafs.FileType.Directory:
            fix = "Unpack it, and name the folder." if info.type == pafs.FileType.File else "Check the path."
            raise UserError(f"the image root {self.root} is not a folder. {fix}")

    def read(self, ref: ImageRef, max_bytes: int = DEFAULT_LIMITS.max_bytes) -> bytes:
        """The encoded bytes of an image. Raises ``FaultError``: missing, outside the root, too large."""
        if ref.data is not None:
            _check_size(len(ref.data), max_bytes)
            return ref.data
        filesystem, path = self.locate(ref.path or "")
        try:
            if isinstance(filesystem, pafs.S3FileSystem):  # opening asks for the size, and one question is enough
                with filesystem.open_input_file(path) as file:
                    _check_size(file.size(), max_bytes)
                    return file.read()
            info = filesystem.get_file_info(path)
            if info.type != pafs.FileType.File:
                raise FaultError(Reason.IMAGE_MISSING, self._missing(ref))
            _check_size(info.size, max_bytes)
            with filesystem.open_input_stream(path) as stream:
                return stream.read()
        except FileNotFoundError:
            raise FaultError(Reason.IMAGE_MISSING, self._missing(ref)) from None

    def exists(self, ref: ImageRef) -> Fault | None:
        """Whether an image is there and of what a file is, without reading it; None where it is."""
        if ref.data is not None:
            return None
        try:
            filesystem, path = self.locate(ref.path or "")
        except FaultError as error:
            return error.fault
        if filesystem.get_file_info(path).type == pafs.FileType.File:
            return None
        return Fault(Reason.IMAGE_MISSING, self._missing(ref))

    def _missing(self, ref: ImageRef) -> str:
        return f"there is no image {ref.path!r} below the image root {self.root} (--images, or --set images=FOLDER)"

    def locate(self, relative: str) -> tuple[pafs.FileSystem, str]:
        """Where an image is. Raises ``FaultError``: no root, or a link that leads out of it."""
        if self.root is None:
            raise FaultError(
                Reason.IMAGE_MISSING,
                f"the row names the image {relative!r}, but no image root was given (--images FOLDER)",
            )
        filesystem, root = resolve(self.root)
        path = posixpath.join(root, relative)
        if not isinstance(filesystem, pafs.LocalFileSystem):
            return filesystem, path
        real_path = os.path.realpath(_as_written(path))
        allowed = (os.path.realpath(each).rstrip("/") + "/" for each in (root, *self.links))
        if not real_path.startswith(tuple(allowed)):
            raise FaultError(
                Reason.IMAGE_PATH_ESCAPE,
                f"the image {relative!r} is a link that leads out of the root, to {real_path!r}. If links may "
                f"lead there, name that folder behind the root: --images {self.root}:{os.path.dirname(real_path)}",
            )
        return filesystem, real_path


def _as_written(path: str) -> str:
    """A path in the Unicode form that its name has on disk: archives from macOS spell accents apart."""
    if path.isascii() or os.path.lexists(path):
        return path
    forms = (unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
    return next((form for form in forms if os.path.lexists(form)), path)


def inspect_image(ref: ImageRef, root: ImageRoot, limits: ImageLimits = DEFAULT_LIMITS) -> Fault | None:
    """What is wrong with a referenced image, or None. Reads and decodes it."""
    try:
        data = root.read(ref, limits.max_bytes)
    except FaultError as error:
        return error.fault
    return check_image(data, limits)


@contextmanager
def strict_decoding() -> Iterator[None]:
    """Have Pillow report truncated images, also where another library told it to fill them up with grey."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def check_image(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Fault | None:
    """What is wrong with an encoded image, or None. Decodes it to the end."""
    try:
        _check_size(len(data), limits.max_bytes)
        with _open(data, limits) as image:
            _guarded(image.verify)
        with _open(data, limits) as image:
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            _guarded(image.load)
            _check_values(image)
    except FaultError as error:
        return error.fault
    return None


def load_image(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """An encoded image as RGB. Raises ``FaultError`` for what ``check_image`` would refuse."""
    _check_size(len(data), limits.max_bytes)
    with _open(data, limits) as image:
        _guarded(image.load)
        _check_values(image)
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:  # broken EXIF raises whatever its parser stumbles over; the pixels are fine
            upright = image
        return _to_rgb(upright)


def image_extension(data: bytes) -> str:
    """The file extension that fits the content (without the dot), ``bin`` where it is no accepted image."""
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            name = image.format or ""
    except Exception:  # the same as in _open: any parser's error means "not readable"
        return "bin"
    return _EXTENSIONS.get(name, name.lower())


def _check_size(size: int, max_bytes: int) -> None:
    if size == 0:
        raise FaultError(Reason.IMAGE_CORRUPT, "the image file is empty")
    if size > max_bytes:
        raise FaultError(Reason.IMAGE_TOO_LARGE, f"the image has {size} bytes; at most {max_bytes} are accepted")


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    """The image with its header read and its size checked, no pixel decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise FaultError(Reason.IMAGE_BOMB, str(error)) from None
    except UnidentifiedImageError:
        raise FaultError(*_unidentified(data)) from None
    except MemoryError:
        raise
    except Exception as error:  # format plug-ins raise struct.error, SyntaxError, KeyError, ... on hostile bytes
        raise FaultError(Reason.IMAGE_CORRUPT, _describe(error)) from None
    width, height = image.size
    shape = f"{width} x {height} pixels"
    if width * height > limits.max_pixels:
        raise FaultError(Reason.IMAGE_BOMB, f"the image has {shape}; at most {limits.max_pixels} are accepted")
    if min(width, height) < limits.min_side:
        raise FaultError(Reason.IMAGE_TOO_SMALL, f"the image has {shape}; a side needs {limits.min_side} at least")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise FaultError(
            Reason.IMAGE_TOO_NARROW, f"the image has {shape}; sides may differ {limits.max_aspect:g} times"
        )
    return image


def _guarded(decode: Callable[[], Any]) -> None:
    """Run one of Pillow's decoding steps; its errors become faults."""
    try:
        decode()
    except MemoryError:
        raise
    except Exception as error:  # as in _open
        text = _describe(error)
        bomb = "decompress" in text.lower() and "too large" in text.lower()
        cut = "truncated" in text.lower() or isinstance(error, EOFError)
        reason = Reason.IMAGE_BOMB if bomb else Reason.IMAGE_TRUNCATED if cut else Reason.IMAGE_CORRUPT
        raise FaultError(reason, text) from None


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _unidentified(data: bytes) -> tuple[Reason, str]:
    head = data[:64].lstrip().lower()
    signs = [sign.lower() for sign in _UNSUPPORTED_SIGNS]
    if head.startswith(tuple(signs)) or any(brand in data[:16] for brand in _UNSUPPORTED_BRANDS):
        return Reason.IMAGE_UNSUPPORTED, f"the format is not accepted; accepted are {', '.join(IMAGE_FORMATS)}"
    return Reason.IMAGE_CORRUPT, f"the bytes are no image; accepted are {', '.join(IMAGE_FORMATS)}"


def _check_values(image: Image.Image) -> None:
    """Refuse a float image with values that are no numbers: an infinite one would scale all others to black."""
    if image.mode == "F":
        values = np.asarray(image)
        if strange := int((~np.isfinite(values)).sum()):
            raise FaultError(Reason.IMAGE_CORRUPT, f"{strange} of {values.size} values are not finite numbers")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint16)
        used = max(8, int(grey.max()).bit_length())
        return Image.fromarray((grey >> (used + used % 2 - 8)).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        scaled = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()
