"""A file that was exported has a README beside it, with what it is and the line that trains on it."""

from __future__ import annotations

import pytest

from raycurate.errors import UserError
from raycurate.samples.exporters import EXPORTERS, ExportFacts, ExportOptions
from raycurate.samples.file_readme import SUFFIX, delete_readme, export_file
from raycurate.samples.images import ImageRoot
from raycurate.samples.schema import ImageRef, Message, Sample

FACTS = ExportFacts("runs/mine, selection `main`", "abc")
ANSWER = Message("assistant", "a")
ROWS = [
    Sample((Message("user", "q"), ANSWER), task="a|b"),
    Sample((Message("user", "<image>q"), ANSWER), (ImageRef(path="1.png"),), task="vqa"),
    Sample((Message("user", "r"), ANSWER), task="vqa"),
    Sample((Message("user", "s"), ANSWER)),
]


def written(tmp_path, name, options=None):
    out = tmp_path / "deep" / "out.any"
    export_file(ROWS, str(out), name, options or ExportOptions(ImageRoot(str(tmp_path))), FACTS)
    return out, (out.parent / f"{out.name}{SUFFIX}").read_text()


@pytest.mark.parametrize("name", sorted(EXPORTERS))
def test_every_format_says_what_it_is(name, tmp_path):
    """Rows by task, where it is from, and a command with its place in it."""
    out, text = written(tmp_path, name)
    lines = text.splitlines()
    assert lines[0] == "# out.any: 4 rows of 3 tasks"
    assert [line for line in lines if line.startswith("| ")][1:] == ["| a\\|b | 1 |", "| unknown | 1 |", "| vqa | 2 |"]
    assert "runs/mine, selection `main`, fingerprint `abc`" in text
    command = next(line for line in lines if line.startswith("    "))
    assert str(out) in command or name == "sharegpt"
    assert str(out.parent) in command
    assert "{" not in command


def test_the_root_of_paths_is_said(tmp_path):
    """LLaVA's image folder; a root as a URI; one that is far away; none; a Parquet file of paths."""
    text = written(tmp_path, "llava")[1]
    assert f"--image_folder '{tmp_path}'" in text
    assert f"Image paths count from `{tmp_path}`." in text
    here = ImageRoot(f"file://{tmp_path}")
    assert f"--image_folder '{tmp_path}'" in written(tmp_path, "llava", ExportOptions(here))[1]
    mixed = written(tmp_path, "llava", ExportOptions(here, one_kind=False))[1]
    assert "named by absolute paths; what was bytes lies in `out_images/`" in mixed
    assert "Images are named by absolute paths" in written(tmp_path, "swift")[1]
    pytest.importorskip("fsspec").filesystem("memory").makedirs("/pictures", exist_ok=True)
    far = ExportOptions(ImageRoot("memory://pictures"))
    assert "Image paths count from `memory://pictures`, where no trainer reads" in written(tmp_path, "swift", far)[1]
    bare = written(tmp_path, "messages", ExportOptions(ImageRoot(None)))[1]
    assert "lie in `out_images/` and are named from the folder of this file" in bare
    assert f"(in `{tmp_path}/deep`, if there are images)" in bare
    assert f"absolute paths below `{tmp_path}`" in written(tmp_path, "parquet")[1]


def test_what_fails_leaves_the_readme_of_before(tmp_path):
    """And a file without one is no error when it goes."""
    out, text = written(tmp_path, "swift")
    with pytest.raises(UserError, match="nobody says where|no image"):
        written(tmp_path, "parquet", ExportOptions(ImageRoot(str(tmp_path)), embed=True))
    assert (out.parent / f"{out.name}{SUFFIX}").read_text() == text
    delete_readme(str(out))
    delete_readme(str(out))
    assert [path.name for path in out.parent.iterdir()] == [out.name]
