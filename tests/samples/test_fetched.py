"""Images of a window, fetched ahead of their decoding."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.run.filesystem import resolve, write_bytes
from raycurate.samples.fetched import FetchedImages
from raycurate.samples.images import ImageRoot
from raycurate.samples.quarantine import FaultError, Reason
from raycurate.samples.schema import ImageRef


def refs_of(names) -> list[ImageRef]:
    return [ImageRef(path=str(name)) for name in names]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> ImageRoot:
    """Forty images of which those that 7 divides are not there."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(40):
        if number % 7:
            (folder / str(number)).write_bytes(b"image %d" % number)
    return ImageRoot(str(folder))


@given(named=st.lists(st.integers(0, 39), max_size=60), asked=st.lists(st.integers(0, 39), max_size=60))
def test_whatever_is_asked_in_whatever_order_is_what_the_root_holds(root, named, asked):
    """In the window's order, in another, several times, not named at all; a missing image is missing each time."""
    fetched = FetchedImages(root, refs_of(named), 100, calls=3)
    for number in [*named, *asked]:
        if number % 7:
            assert fetched.read(ImageRef(path=str(number))) == b"image %d" % number
        else:
            with pytest.raises(FaultError) as caught:
                fetched.read(ImageRef(path=str(number)))
            assert caught.value.fault.reason == Reason.IMAGE_MISSING


def test_the_images_that_come_next_are_under_way(root, monkeypatch):
    """The first is given once two others are asked for as well; none is asked for beyond those, and none twice."""
    begun, together = [], threading.Barrier(3, timeout=30)
    read = ImageRoot.read

    def noted(self, ref, limit):
        begun.append(ref.path)
        if len(begun) <= 3:
            together.wait()
        return read(self, ref, limit)

    monkeypatch.setattr(ImageRoot, "read", noted)
    fetched = FetchedImages(root, refs_of([1, 1, 2, 3, 2, 4, 5]), 100, calls=3)
    assert fetched.read(ImageRef(path="1")) == b"image 1"
    assert sorted(begun) == ["1", "2", "3"]
    for number in (2, 3, 4, 5):
        fetched.read(ImageRef(path=str(number)))
    assert sorted(begun) == ["1", "2", "3", "4", "5"]


def test_images_that_no_row_needs_any_more_are_dropped(root):
    """Rows that failed before their images were looked at leave nothing behind."""
    fetched = FetchedImages(root, refs_of(range(1, 30)), 100, calls=4)
    fetched.read(ImageRef(path="1"))
    fetched.read(ImageRef(path="20"))
    assert sorted(fetched._under_way) == [20, 21, 22]


def test_an_image_on_a_store_is_two_requests(s3):
    """Its size with the opening, its bytes; one that is not there is one."""
    write_bytes(*resolve("s3://bucket/pictures/a.png"), b"image")
    root = ImageRoot("s3://bucket/pictures")
    s3.requests.clear()
    assert root.read(ImageRef(path="a.png")) == b"image"
    assert [line.split()[0] for line in s3.requests] == ["HEAD", "GET"]
    s3.requests.clear()
    for reason, path, limit in ((Reason.IMAGE_TOO_LARGE, "a.png", 4), (Reason.IMAGE_MISSING, "b.png", 9)):
        with pytest.raises(FaultError) as caught:
            root.read(ImageRef(path=path), limit)
        assert caught.value.fault.reason == reason
    assert [line.split()[0] for line in s3.requests] == ["HEAD", "HEAD"]
