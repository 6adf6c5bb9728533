"""Every export can be read again and gives the same content; a failed export leaves nothing behind."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raycurate.config import ExportConfig
from raycurate.errors import UserError
from raycurate.samples.alternate import ALTERNATING
from raycurate.samples.exporters import EXPORTERS, ExportOptions, export_samples, samples_from_tables
from raycurate.samples.images import ImageRoot
from raycurate.samples.parse import ParseOptions, parse_row
from raycurate.samples.readers import open_source
from raycurate.samples.rows import RawRow
from raycurate.samples.schema import ImageRef, Message, Sample, samples_to_table
from raycurate.samples.task_folders import FOLDERS
from tests.checked import check_samples
from tests.hostile import encoded, good_rows, write_images

NAMES = {"llava": "out.json", "parquet": "out.parquet"}
TEXTS = ("<image>What?", "a <image> b", "<image>\n\n x", "x\n<image>", "<image> \n<script>alert(1)</script>\r\n\u2028")


@pytest.fixture(scope="module")
def samples():
    rows = [parse_row(RawRow("f", i, row), ParseOptions()) for i, row in enumerate(good_rows(200, 9))]
    extra = [
        Sample(
            (Message("system", "s"), Message("user", text), Message("assistant", "a")), (ImageRef(path="a/b c.jpg"),)
        )
        for text in TEXTS
    ]
    two = Sample((Message("user", "<image><image>\nx"), Message("assistant", "a")), (ImageRef(path="a"),) * 2)
    return [*rows, *extra, two]


def read_again(path):
    reader = open_source(str(path))
    found = [parse_row(raw, ParseOptions()) for part in reader.slices() for raw in reader.read(part)]
    assert all(isinstance(item, Sample) for item in found), found
    return found


@pytest.mark.parametrize("name", sorted(EXPORTERS))
def test_a_round_trip_keeps_content_tasks_and_order(name, samples, tmp_path):
    """Export, then ingest: the same content hashes, tasks and order for every format."""
    path = tmp_path / NAMES.get(name, "out.jsonl")
    counts = export_samples(iter(samples), str(path), name)
    again = read_again(path)
    assert counts.rows == len(samples)
    assert [item.content_hash for item in again] == [item.content_hash for item in samples]
    assert [item.task for item in again] == [item.task for item in samples]
    assert [item.messages for item in again] == [item.messages for item in samples]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", sorted(EXPORTERS))
def test_embedded_images_come_out_as_files_once_or_as_bytes(name, tmp_path):
    """Bytes become one file per image with the right extension below the output's folder, or stay bytes in Parquet."""
    datas = [encoded(format_="JPEG"), encoded(format_="PNG"), encoded(format_="WEBP")]
    rows = [
        {
            "conversations": [{"from": "human", "value": f"<image>\n{i}"}, {"from": "gpt", "value": "a"}],
            "image": {"bytes": datas[i % 3], "path": "../../evil.sh"},
        }
        for i in range(12)
    ]
    samples = [parse_row(RawRow("f", i, row), ParseOptions()) for i, row in enumerate(rows)]
    path = tmp_path / "deep" / NAMES.get(name, "out.jsonl")
    counts = export_samples(samples, str(path), name)
    again = read_again(path) if name == "parquet" else check_samples(read_again(path), ImageRoot(str(path.parent)))
    files = sorted(file for file in path.parent.rglob("*") if file.is_file() and file != path)
    if name == "parquet":
        assert [item.key for item in again] == [item.key for item in samples]
        assert files == []
        return
    assert counts.images_written == len(files) == 3
    assert Counter(file.suffix for file in files) == {".jpg": 1, ".png": 1, ".webp": 1}
    root = ImageRoot(str(path.parent))
    assert [root.read(item.images[0]) for item in again] == [datas[i % 3] for i in range(12)]


def test_llava_rows_have_the_shape_of_llava(tmp_path):
    """The id is kept, one image is a string unless a row has several, a text row has no image."""
    texts = ["Hi", "<image>\nHi", "<image><image>\nHi"]
    samples = [
        Sample((Message("user", text), Message("assistant", "a")), (ImageRef(path="a.jpg"),) * i, source_id=f"id-{i}")
        for i, text in enumerate(texts)
    ]
    export_samples(samples[:2], str(tmp_path / "one.json"), "llava")
    assert json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))[1]["image"] == "a.jpg"
    export_samples(samples, str(tmp_path / "out.json"), "llava", ExportOptions(image_lists=True))
    rows = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [row.get("image") for row in rows] == [None, ["a.jpg"], ["a.jpg", "a.jpg"]]
    assert [row["id"] for row in rows] == ["id-0", "id-1", "id-2"]
    assert rows[1]["conversations"] == [{"from": "human", "value": "<image>\nHi"}, {"from": "gpt", "value": "a"}]
    export_samples([], str(tmp_path / "none.json"), "llava")
    assert json.loads((tmp_path / "none.json").read_text(encoding="utf-8")) == []


def test_messages_are_content_blocks(tmp_path):
    """Chat templates get the image and the text behind its newline as blocks."""
    sample = Sample((Message("user", "<image>\nHi"), Message("assistant", "a")), (ImageRef(path="a.jpg"),))
    export_samples([sample], str(tmp_path / "out.jsonl"), "messages")
    row = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    assert row["messages"][0]["content"] == [{"type": "image"}, {"type": "text", "text": "Hi"}]
    assert row["images"] == ["a.jpg"]


def test_parquet_is_a_hugging_face_dataset_with_images(tmp_path):
    """Images read below a root are embedded, and ``datasets`` shows them as pictures."""
    write_images(tmp_path / "images", 9)
    rows = [parse_row(RawRow("f", i, row), ParseOptions()) for i, row in enumerate(good_rows(30, 9))]
    options = ExportOptions(ImageRoot(str(tmp_path / "images")), embed=True)
    export_samples(rows, str(tmp_path / "out.parquet"), "parquet", options)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["key"].to_pylist() == [row.key for row in rows]
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "cache"))
    shown = next(row for row in dataset if row["images"])
    assert shown["images"][0].size[0] >= 20
    assert shown["messages"][0]["role"] == "user"


def test_a_failed_export_leaves_nothing_and_keeps_the_old_file(samples, tmp_path):
    """The file is replaced when the new one is complete, never before."""
    path = tmp_path / "out.json"
    path.write_text("old", encoding="utf-8")

    def failing():
        yield samples[0]
        raise RuntimeError("lost")

    for name in EXPORTERS:
        with pytest.raises(RuntimeError, match="lost"):
            export_samples(failing(), str(path), name)
    assert path.read_text(encoding="utf-8") == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]
    export_samples(samples, str(path), "llava")
    assert len(json.loads(path.read_text(encoding="utf-8"))) == len(samples)


def test_unknown_formats_and_tables(samples, tmp_path):
    """A wrong format is a user error with a hint; samples come back from tables."""
    with pytest.raises(UserError, match="Did you mean 'parquet'"):
        export_samples([], str(tmp_path / "x"), "parqet")
    assert list(samples_from_tables([samples_to_table(samples)])) == samples


def test_parquet_has_content_blocks_or_text_and_paths_that_are_found(tmp_path):
    """A block for each image and no mark, as TRL counts them; text on request; absolute paths instead of bytes."""
    write_images(tmp_path / "images", 9)
    rows = [parse_row(RawRow("f", i, row), ParseOptions()) for i, row in enumerate(good_rows(30, 9))]
    root = ImageRoot(str(tmp_path / "images"))
    export_samples(rows, str(tmp_path / "out.parquet"), "parquet", ExportOptions(root))
    for row in pq.read_table(tmp_path / "out.parquet").to_pylist():
        blocks = [block for message in row["messages"] for block in message["content"]]
        assert sum(block["type"] == "image" for block in blocks) == len(row["images"])
        assert not any("<image>" in (block["text"] or "") for block in blocks)
        assert all((tmp_path / "images") in Path(image["path"]).parents for image in row["images"])
    export_samples(rows, str(tmp_path / "text.parquet"), "parquet", ExportOptions(root, blocks=False))
    texts = pq.read_table(tmp_path / "text.parquet")["messages"].to_pylist()
    assert [m["content"] for m in texts[0]] == [m.text for m in rows[0].messages]


def test_an_image_that_is_gone_is_told_with_its_root(tmp_path):
    """Embedding names the row, the root and what to do, and leaves no file."""
    (tmp_path / "images").mkdir()
    sample = Sample((Message("user", "<image>\nHi"), Message("assistant", "a")), (ImageRef(path="a.jpg"),))
    options = ExportOptions(ImageRoot(str(tmp_path / "images")), embed=True)
    with pytest.raises(UserError, match=r"a\.jpg.*--set images="):
        export_samples([sample], str(tmp_path / "out.parquet"), "parquet", options)
    assert [file.name for file in tmp_path.iterdir()] == ["images"]
    with pytest.raises(UserError, match="is a folder"):
        export_samples([sample], str(tmp_path / "images"), "parquet")


FILE_AND_BYTES = Sample(
    (Message("user", "<image><image>q"), Message("assistant", "a")),
    (ImageRef(path="a/b.png"), ImageRef(data=encoded(), sha="ab" * 32)),
)


@pytest.mark.parametrize("name", ["llava", "messages", "sharegpt", "swift"])
def test_files_and_bytes_of_one_export_are_found_from_anywhere(name, tmp_path):
    """All by absolute paths, which every image folder leaves as they are; the same when they are read again."""
    root, out = tmp_path / "pictures", tmp_path / "out" / "rows.json"
    for uri in (str(root), f"file://{root}"):
        (root / "a").mkdir(parents=True, exist_ok=True)
        (root / "a" / "b.png").write_bytes(b"a file")
        export_samples([FILE_AND_BYTES], str(out), name, ExportOptions(ImageRoot(uri), one_kind=False))
        row = json.loads(out.read_text().strip().removeprefix("[").removesuffix("]"))
        paths = row.get("images") or row["image"]
        assert all(path.startswith("/") for path in paths)
        assert [Path("/elsewhere", path).read_bytes() for path in paths] == [b"a file", encoded()]
    reader = open_source(str(out))
    (raw,) = [raw for part in reader.slices() for raw in reader.read(part)]
    again = parse_row(raw, ParseOptions(image_root=str(root), image_links=(str(out.parent),)))
    assert [each.path for each in again.images] == ["a/b.png", paths[1]]


def test_images_of_one_kind_are_named_from_one_folder(tmp_path):
    """LLaVA's from the image folder, bytes of every format from the output's; from a far root as they are."""
    fsspec = pytest.importorskip("fsspec")
    (tmp_path / "a").mkdir()
    fsspec.filesystem("memory").makedirs("/pictures", exist_ok=True)
    turns, images = FILE_AND_BYTES.messages, FILE_AND_BYTES.images
    files, data = Sample(turns, images[:1] * 2), Sample(turns, images[1:] * 2)
    kept = f"rows_images/ab/{'ab' * 32}.png"
    cases = (("llava", files, str(tmp_path), "a/b.png"), ("llava", data, None, kept), ("swift", data, None, kept))
    far = ("swift", files, "memory://pictures", "a/b.png"), ("swift", data, "memory://pictures", kept)
    for name, sample, root, path in (*cases, *far):
        export_samples([sample], str(tmp_path / "rows.json"), name, ExportOptions(ImageRoot(root)))
        row = json.loads((tmp_path / "rows.json").read_text().strip().removeprefix("[").removesuffix("]"))
        assert (row.get("images") or row["image"]) == [path] * 2


def test_media_tags_are_counted(tmp_path):
    """The rows that hold <video> or <audio> as text, which trainers take for a file."""
    samples = [Sample((Message("user", text), Message("assistant", "a"))) for text in ("see <video>", "<audio>", "x")]
    assert export_samples(samples, str(tmp_path / "out.jsonl"), "swift").media_texts == 2


def _context_only() -> Sample:
    turns = ("q", True), ("a", False), ("q2", True), ("b", True)
    return Sample(tuple(Message(("user", "assistant")[i % 2], *turn) for i, turn in enumerate(turns)), ())


def test_an_answer_that_is_context_only_is_said_where_the_format_can(tmp_path):
    """And comes back from the file; other formats refuse the row, or write it when that is asked for."""
    sample = _context_only()
    counts = export_samples([sample], str(tmp_path / "out.jsonl"), "swift")
    assert counts.context_only == 1
    assert read_again(tmp_path / "out.jsonl")[0].messages == sample.messages
    for name in sorted({*EXPORTERS} - {"swift"}):
        with pytest.raises(UserError, match=f"'{name}' cannot say.*Export as swift"):
            export_samples([sample], str(tmp_path / "other"), name)
        assert not (tmp_path / "other").exists()
    export_samples([sample], str(tmp_path / "out.json"), "llava", ExportOptions(train_all=True))
    assert [m.train for m in read_again(tmp_path / "out.json")[0].messages] == [True] * 4


def test_turns_in_a_row_are_refused_or_joined_where_trainers_stop_at_them(tmp_path):
    """As LLaVA's and LLaMA-Factory's do; other formats keep them apart. The row keeps its name."""
    turns = (
        ("system", "s"),
        ("system", "t"),
        ("user", "q"),
        ("user", "<image>\nr"),
        ("assistant", "a"),
        ("assistant", "b"),
    )
    sample = Sample(tuple(Message(*turn) for turn in turns), (ImageRef(path="a.jpg"),))
    for name in sorted(EXPORTERS):
        path = tmp_path / NAMES.get(name, f"{name}.jsonl")
        if name not in ALTERNATING:
            export_samples([sample], str(path), name)
            assert read_again(path)[0].messages == sample.messages
            continue
        with pytest.raises(UserError, match=r"turns of one role in a row.*join_turns=true"):
            export_samples([sample], str(path), name)
        assert export_samples([sample], str(path), name, ExportOptions(join_turns=True)).turns_joined == 1
        (again,) = read_again(path)
        assert [m.text for m in again.messages] == ["s\nt", "q\n<image>\nr", "a\nb"]
        assert again.source_id == sample.key


@pytest.mark.parametrize("name", ["llava", "swift", "messages", "sharegpt"])
def test_a_failed_export_leaves_no_image_files(name, tmp_path):
    """Those of an earlier export of the same name stay."""
    image = ImageRef(data=encoded(), sha="ab" * 32)
    good = Sample((Message("user", "<image>q"), Message("assistant", "a")), (image,))

    def failing():
        yield good
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        export_samples(failing(), str(tmp_path / "out.json"), name)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    export_samples([good], str(tmp_path / "out.json"), name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RuntimeError, match="stopped"):
        export_samples(failing(), str(tmp_path / "out.json"), name)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_help_names_every_format():
    """In the words of the setting, which the command line shows."""
    described = ExportConfig.model_fields["format"].description
    assert all(name in described for name in (*EXPORTERS, *FOLDERS))
