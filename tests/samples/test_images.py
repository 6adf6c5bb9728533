"""Untrusted images: what is accepted, what is refused and why, and what a model gets to see."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from raycurate.errors import UserError
from raycurate.run.paths import absolute_images
from raycurate.samples.images import (
    ImageLimits,
    ImageRoot,
    check_image,
    image_extension,
    inspect_image,
    load_image,
)
from raycurate.samples.quarantine import FaultError, Reason, Reject
from raycurate.samples.schema import ImageRef, Message, Sample
from tests.checked import check_samples
from tests.hostile import encoded, png_bomb


def save(picture, format_, **options):
    buffer = io.BytesIO()
    picture.save(buffer, format_, **options)
    return buffer.getvalue()


def sample_of(*paths, row=0):
    messages = (Message("user", "<image>" * len(paths)), Message("assistant", "a"))
    return Sample(messages, tuple(ImageRef(path=path) for path in paths), source_file="f", source_row=row)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO"])
def test_accepted_formats(format_):
    """Every accepted format is checked, loaded as RGB, and named by its content."""
    data = save(Image.new("RGB", (20, 10), (255, 0, 0)), format_)
    assert check_image(data) is None
    loaded = load_image(data)
    assert (loaded.mode, loaded.size) == ("RGB", (20, 10))
    extension = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}.get(format_, format_.lower())
    assert image_extension(data) == extension


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_images_are_refused(format_, share):
    """A file that ends early is never accepted, whatever the format and wherever it ends."""
    data = encoded((64, 64), format_)
    fault = check_image(data[: int(len(data) * share)])
    assert fault is not None
    assert fault.reason in (Reason.IMAGE_TRUNCATED, Reason.IMAGE_CORRUPT)


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_never_raises(seed):
    """Flipped bytes give None or a fault, no other exception."""
    rng = np.random.default_rng(seed)
    data = bytearray(encoded((32, 32), ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"][seed % 6]))
    for place in rng.integers(0, len(data), 6):
        data[place] ^= int(rng.integers(1, 256))
    fault = check_image(bytes(data))
    assert fault is None or fault.reason.startswith("image_")
    with contextlib.suppress(FaultError):
        load_image(bytes(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.IMAGE_CORRUPT),
        (b"GIF89a", Reason.IMAGE_CORRUPT),
        (png_bomb(30_000, 30_000), Reason.IMAGE_BOMB),
        (png_bomb(10_000, 10_000), Reason.IMAGE_BOMB),
        (png_bomb(2**31 - 1, 2**31 - 1), Reason.IMAGE_BOMB),
        (png_bomb(20, 20), Reason.IMAGE_TRUNCATED),
        (b"<?xml version='1.0'?><svg/>", Reason.IMAGE_UNSUPPORTED),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", Reason.IMAGE_UNSUPPORTED),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", Reason.IMAGE_UNSUPPORTED),
        (encoded((1, 40)), Reason.IMAGE_TOO_SMALL),
        (encoded((1000, 4)), Reason.IMAGE_TOO_NARROW),
    ],
)
def test_refused_images_and_their_reason(data, reason):
    """Each kind of bad image has its reason, and is refused without decoding a bomb."""
    fault = check_image(data)
    assert fault is not None
    assert fault.reason in (reason, Reason.IMAGE_CORRUPT if reason == Reason.IMAGE_TRUNCATED else reason)
    with pytest.raises(FaultError):
        load_image(data)


def test_limits_are_checked():
    """Byte and pixel limits refuse; limits that make no sense are a user error."""
    data = encoded((50, 50))
    assert check_image(data, ImageLimits(max_bytes=len(data) - 1)).reason == Reason.IMAGE_TOO_LARGE
    assert check_image(data, ImageLimits(max_pixels=2499)).reason == Reason.IMAGE_BOMB
    assert check_image(data, ImageLimits(max_pixels=2500)) is None
    with pytest.raises(UserError, match="max_pixels is 0"):
        ImageLimits(max_pixels=0)


def test_truncation_is_found_even_where_pillow_was_told_to_ignore_it(monkeypatch, tmp_path):
    """Another library may have set LOAD_TRUNCATED_IMAGES; a cut JPEG is refused all the same, the setting is kept."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded((64, 64), "JPEG")
    (tmp_path / "whole.jpg").write_bytes(data)
    (tmp_path / "cut.jpg").write_bytes(data[:-900])
    whole, cut = check_samples([sample_of("whole.jpg"), sample_of("cut.jpg")], ImageRoot(str(tmp_path)))
    assert isinstance(whole, Sample)
    assert cut.reason == Reason.IMAGE_TRUNCATED
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_alpha_is_flattened_on_white():
    """Transparent pixels are white, half transparent ones mixed with it; also with a palette."""
    picture = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    picture.putpixel((1, 1), (0, 0, 0, 255))
    picture.putpixel((2, 2), (255, 0, 0, 128))
    loaded = load_image(save(picture, "PNG"))
    assert [loaded.getpixel(p) for p in ((0, 0), (1, 1))] == [(255, 255, 255), (0, 0, 0)]
    assert loaded.getpixel((2, 2))[1] == pytest.approx(127, abs=1)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 1), 1)
    flattened = load_image(save(palette, "PNG", transparency=0))
    assert [flattened.getpixel(p) for p in ((0, 0), (1, 1))] == [(255, 255, 255), (40, 50, 60)]


def test_deep_grey_is_scaled_not_clipped():
    """16-bit grey keeps its shades; a float image uses its own range."""
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for format_ in ("PNG", "TIFF"):
        loaded = np.asarray(load_image(save(Image.fromarray(ramp), format_)))
        assert np.array_equal(loaded[..., 0], ramp >> 8)
    floats = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)
    loaded = np.asarray(load_image(save(Image.fromarray(floats), "TIFF")))
    assert (loaded.min(), loaded.max()) == (0, 255)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_grey_of_fewer_bits_is_not_near_black(bits):
    """What a camera's 8 to 14 bits hold, stored in 16 as they are, comes out as bright as 16 bits would."""
    ramp = np.linspace(0, (1 << bits) - 1, 64).astype(np.uint16).reshape(8, 8)
    for format_ in ("PNG", "TIFF"):
        loaded = np.asarray(load_image(save(Image.fromarray(ramp), format_)))
        assert np.array_equal(loaded[..., 0], ramp >> (bits - 8))
    assert np.asarray(load_image(save(Image.fromarray(np.zeros((8, 8), np.uint16)), "PNG"))).max() == 0


def test_orientation_and_colour_spaces():
    """EXIF orientation is applied, broken EXIF ignored, CMYK becomes RGB, an animation shows its first frame."""
    picture = Image.new("RGB", (30, 10), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_image(save(picture, "JPEG", exif=exif.tobytes())).size == (10, 30)
    assert load_image(save(picture, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")).size == (30, 10)
    cmyk = load_image(save(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=95))
    assert cmyk.getpixel((4, 4)) == pytest.approx((0, 255, 255), abs=4)
    frames = [Image.new("P", (8, 8), 0), Image.new("P", (8, 8), 1)]
    for frame in frames:
        frame.putpalette([255, 0, 0, 0, 255, 0])
    data = save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(data).getpixel((0, 0)) == (255, 0, 0)


def test_a_png_with_a_text_bomb_is_refused():
    """A compressed text chunk that unpacks to gigabytes does not fill the memory."""
    body = b"k\0\0" + zlib.compress(b"a" * (80 << 20), 9)
    good = encoded((8, 8))
    bomb = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    fault = check_image(good[:33] + bomb + good[33:])
    assert fault is None or fault.reason in (Reason.IMAGE_BOMB, Reason.IMAGE_CORRUPT)


def test_a_name_with_accents_is_found_in_the_form_of_the_disk(tmp_path):
    """Archives from macOS hold the decomposed form of a name, rows mostly the composed one, and the other way."""
    for on_disk, in_row in (("NFD", "NFC"), ("NFC", "NFD")):
        folder = tmp_path / on_disk
        folder.mkdir()
        path = folder / unicodedata.normalize(on_disk, "caf\u00e9.png")
        path.write_bytes(encoded())
        ref = ImageRef(path=unicodedata.normalize(in_row, "caf\u00e9.png"))
        assert ImageRoot(str(folder)).read(ref) == encoded()
        assert inspect_image(ref, ImageRoot(str(folder))) is None


def test_links_stay_inside_the_root(tmp_path):
    """A link inside the root is fine, one that leads out of it is refused, as is a path through such a folder."""
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "rooted").mkdir()
    for path in (root / "a" / "x.png", tmp_path / "secret.png", tmp_path / "rooted" / "y.png"):
        path.write_bytes(encoded())
    os.symlink(root / "a" / "x.png", root / "inside.png")
    os.symlink(tmp_path / "secret.png", root / "outside.png")
    os.symlink(tmp_path / "rooted", root / "folder")
    images = ImageRoot(str(root))
    assert images.read(ImageRef(path="inside.png")) == encoded()
    for path in ("outside.png", "folder/y.png", "../secret.png", "a/../../rooted/y.png"):
        with pytest.raises(FaultError) as caught:
            images.read(ImageRef(path=path))
        assert caught.value.fault.reason == Reason.IMAGE_PATH_ESCAPE
        assert images.exists(ImageRef(path=path)).reason == Reason.IMAGE_PATH_ESCAPE


def test_links_may_lead_to_folders_that_are_named_behind_the_root(tmp_path):
    """To these and no others; the refusal says how to name one."""
    for name in ("root", "coco", "secret"):
        (tmp_path / name).mkdir()
    for name in ("coco", "secret"):
        (tmp_path / name / "1.png").write_bytes(encoded())
        os.symlink(tmp_path / name, tmp_path / "root" / name)
    setting = absolute_images(f"{tmp_path}/root:{tmp_path}/x/../coco")
    assert setting == f"{tmp_path}/root:{tmp_path}/coco"
    images = ImageRoot.of(setting)
    assert images.read(ImageRef(path="coco/1.png")) == encoded()
    refused = images.exists(ImageRef(path="secret/1.png"))
    assert refused.reason == Reason.IMAGE_PATH_ESCAPE
    assert f"--images {tmp_path}/root:{tmp_path}/secret" in refused.detail
    (tmp_path / "a:b").mkdir()
    assert ImageRoot.of(f"{tmp_path}/a:b").root == f"{tmp_path}/a:b"
    assert ImageRoot.of(None).root is None


def test_roots(tmp_path):
    """The root may be a link or a URI; a missing one is a user error; without one, paths are missing images."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.png").write_bytes(encoded())
    os.symlink(tmp_path / "real", tmp_path / "link")
    for root in (f"{tmp_path}/link", f"file://{tmp_path}/real", f"{tmp_path}/real/"):
        assert ImageRoot(root).read(ImageRef(path="x.png")) == encoded()
    with pytest.raises(UserError, match="not a folder"):
        ImageRoot(str(tmp_path / "none"))
    with pytest.raises(UserError, match="Unpack it"):
        ImageRoot(str(tmp_path / "real" / "x.png"))
    with pytest.raises(FaultError, match="no image root"):
        ImageRoot(None).read(ImageRef(path="x.png"))
    assert ImageRoot(None).read(ImageRef(data=b"abc", sha="0")) == b"abc"


def test_a_shared_image_is_checked_once(tmp_path, monkeypatch):
    """Many rows of one image read it once; the rows of a bad image are all refused."""
    (tmp_path / "good.png").write_bytes(encoded())
    (tmp_path / "bad.png").write_bytes(b"no")
    seen = []
    read = ImageRoot.read
    monkeypatch.setattr(ImageRoot, "read", lambda self, ref, limit: seen.append(ref.path) or read(self, ref, limit))
    samples = [sample_of(path, row=i) for i, path in enumerate(["good.png", "bad.png"] * 10)]
    samples.append(sample_of("good.png", "bad.png", row=20))
    results = check_samples(samples, ImageRoot(str(tmp_path)), threads=4)
    assert sorted(seen) == ["bad.png", "good.png"]
    assert [isinstance(result, Reject) for result in results] == [False, True] * 10 + [True]
    assert [r.source_row if isinstance(r, Reject) else None for r in results[:4]] == [None, 1, None, 3]
    assert results[1].key == samples[1].key


def test_presence_alone_can_be_checked(tmp_path):
    """Without decoding, a broken image passes and a missing one does not."""
    (tmp_path / "bad.png").write_bytes(b"no")
    results = check_samples([sample_of("bad.png"), sample_of("none.png")], ImageRoot(str(tmp_path)), decode=False)
    assert isinstance(results[0], Sample)
    assert results[1].reason == Reason.IMAGE_MISSING


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_float_image_with_values_that_are_no_numbers_is_refused(value):
    """At ingest as later: scaled with an infinite value all else would be black."""
    pixels = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    for strange in (None, value):
        if strange is not None:
            pixels[1, 2] = strange
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "TIFF")
        fault = check_image(stream.getvalue())
        if strange is None:
            assert fault is None
            assert np.asarray(load_image(stream.getvalue())).max() == 255
        else:
            assert fault is not None
            assert "1 of 16 values are not finite" in fault.detail
            with pytest.raises(FaultError):
                load_image(stream.getvalue())
