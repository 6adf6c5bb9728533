"""Every format: the same data gives the same samples; sources that are wrong give one readable error."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import os
import tarfile
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.samples.parse import ParseOptions, parse_row
from raycurate.samples.quarantine import Reason, Reject
from raycurate.samples.readers import left_out, open_source
from raycurate.samples.rows import ReadError, ReadOptions
from raycurate.samples.schema import Sample
from raycurate.samples.unread import UnreadColumns
from tests.hostile import encoded, good_rows, write_images

NUM_IMAGES = 12


@pytest.fixture(scope="module")
def rows():
    """Good LLaVA rows; ids are strings so that every format can hold them."""
    return [{**row, "id": str(row["id"])} for row in good_rows(120, NUM_IMAGES)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    write_images(root, NUM_IMAGES)
    return root


def paths_of(row):
    value = row.get("image", [])
    return [value] if isinstance(value, str) else value


def as_messages(row, blocks=False):
    """The Hugging Face spelling of a LLaVA row's conversation."""
    roles = {"human": "user", "gpt": "assistant"}
    messages = []
    for turn in row["conversations"]:
        content = turn["value"]
        if blocks:
            marks = content.count("<image>\n")
            content = [{"type": "image", "text": None}] * marks + [
                {"type": "text", "text": content.replace("<image>\n", "")}
            ]
        messages.append({"role": roles[turn["from"]], "content": content})
    return messages


def embedded(row, root):
    return [{"bytes": (root / path).read_bytes(), "path": path} for path in paths_of(row)]


def write_tar(path, rows, root, mode="w"):
    with tarfile.open(path, mode) as archive:
        for i, row in enumerate(rows):
            members = [(f"{i:05d}.json", json.dumps(row).encode())]
            members += [(f"{i:05d}.{j}.jpg", (root / p).read_bytes()) for j, p in enumerate(paths_of(row))]
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def write_stream(folder, table, chunk=17):
    """What ``datasets.save_to_disk`` writes."""
    folder.mkdir()
    half = table.num_rows // 2
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for name, part in zip(names, (table.slice(0, half), table.slice(half)), strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(part, max_chunksize=chunk)
    state = {"_data_files": [{"filename": name} for name in names], "_indices_data_files": None}
    (folder / "state.json").write_text(json.dumps(state))


def read_all(source, **options):
    reader = open_source(str(source), options=ReadOptions(**options))
    return [parse_row(raw, ParseOptions()) for part in reader.slices() for raw in reader.read(part)]


def content(items):
    assert all(isinstance(item, Sample) for item in items), next(i for i in items if isinstance(i, Reject))
    return [(item.content_hash, item.source_id, item.task) for item in items]


def test_formats_with_paths_give_the_same_samples(rows, tmp_path):
    """LLaVA JSON, JSON Lines, Parquet (both spellings), save_to_disk and content blocks: the same content hashes."""
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    (tmp_path / "b.jsonl").write_bytes(b"\r\n".join(json.dumps(row).encode() for row in rows))
    listed = [{**row, "image": None, "images": paths_of(row)} for row in rows]
    pq.write_table(pa.Table.from_pylist(listed), tmp_path / "c.parquet", row_group_size=13)
    hf = [{"id": r["id"], "task": r["task"], "messages": as_messages(r), "images": paths_of(r)} for r in rows]
    pq.write_table(pa.Table.from_pylist(hf), tmp_path / "d.parquet")
    blocks = [{**row, "messages": as_messages(source, True)} for row, source in zip(hf, rows, strict=True)]
    pq.write_table(pa.Table.from_pylist(blocks), tmp_path / "e.parquet")
    write_stream(tmp_path / "f", pa.Table.from_pylist(hf))
    expected = content(read_all(tmp_path / "a.json"))
    assert len(expected) == len(rows)
    for name in ("b.jsonl", "c.parquet", "d.parquet", "e.parquet", "f"):
        assert content(read_all(tmp_path / name, slice_rows=20)) == expected, name


def test_formats_with_embedded_images_give_the_same_samples(rows, images, tmp_path):
    """Hugging Face Parquet, save_to_disk and tar shards with the same image bytes: the same content hashes."""
    hf = [{"id": r["id"], "task": r["task"], "messages": as_messages(r), "images": embedded(r, images)} for r in rows]
    pq.write_table(pa.Table.from_pylist(hf), tmp_path / "a.parquet", row_group_size=50)
    write_stream(tmp_path / "b", pa.Table.from_pylist(hf))
    write_tar(tmp_path / "c.tar", rows, images)
    write_tar(tmp_path / "d.tar.gz", rows, images, "w:gz")
    write_tar(tmp_path / "e.tar.bz2", rows, images, "w:bz2")
    write_tar(tmp_path / "f.tar.xz", rows, images, "w:xz")
    expected = content(read_all(tmp_path / "a.parquet"))
    assert len(expected) == len(rows)
    for name in ("b", "c.tar", "d.tar.gz", "e.tar.bz2", "f.tar.xz"):
        assert content(read_all(tmp_path / name)) == expected, name


def test_datasets_library_writes_what_is_read(rows, images, tmp_path):
    """A real ``Dataset`` with an image column, saved to disk as a dataset and as a dict of splits."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "messages": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
            "images": datasets.Sequence(datasets.Image()),
        }
    )
    hf = [{"messages": as_messages(row), "images": embedded(row, images)} for row in rows]
    dataset = datasets.Dataset.from_list(hf, features=features)
    dataset.save_to_disk(str(tmp_path / "one"), num_shards=2)
    datasets.DatasetDict(train=dataset, test=dataset.select(range(9))).save_to_disk(str(tmp_path / "dict"))
    dataset.to_parquet(str(tmp_path / "two.parquet"))
    expected = [item.content_hash for item in read_all(tmp_path / "two.parquet")]
    assert [item.content_hash for item in read_all(tmp_path / "one")] == expected
    assert [item.content_hash for item in read_all(tmp_path / "dict", split="test")] == expected[:9]
    with pytest.raises(UserError, match="choose a split of train, test"):
        open_source(str(tmp_path / "dict"))


@settings(max_examples=15)
@given(slice_rows=st.integers(1, 130), slice_bytes=st.sampled_from([1, 3000, 1 << 20]))
def test_slices_cover_every_row_once(slice_rows, slice_bytes, rows, tmp_path_factory):
    """For any slice size, every row is in one slice, with one number."""
    folder = tmp_path_factory.getbasetemp() / "cover"
    if not folder.exists():
        folder.mkdir()
        (folder / "a.json").write_text(json.dumps(rows))
        (folder / "b.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        table = pa.Table.from_pylist([{**row, "image": paths_of(row)} for row in rows])
        pq.write_table(table, folder / "c.parquet", row_group_size=7)
        write_stream(folder / "d", table, chunk=7)
    for name in ("a.json", "b.jsonl", "c.parquet", "d"):
        reader = open_source(str(folder / name), options=ReadOptions(slice_rows=slice_rows, slice_bytes=slice_bytes))
        slices = reader.slices()
        raws = [raw for part in slices for raw in reader.read(part)]
        assert [raw.value["id"] for raw in raws] == [row["id"] for row in rows]
        assert len({(raw.source_file, raw.source_row) for raw in raws}) == len(rows)
        assert sum(part.num_rows for part in slices) == len(rows)


def test_text_cases_of_json(tmp_path):
    """A byte-order mark, CRLF, blank lines, white space and a trailing comma change no row."""
    row = {"conversations": [{"from": "human", "value": 'a],[" \\ {'}, {"from": "gpt", "value": "\u00e9\U0001f600"}]}
    text = json.dumps(row, ensure_ascii=False)
    cases = {
        "bom.json": f"\ufeff \r\n[\r\n{text} ,\r\n{text}\r\n]\r\n",
        "comma.json": f"[{text},{text},\n]",
        "bom.jsonl": f"\ufeff{text}\r\n\r\n  \n{text}\r\n",
        "plain": f"\n\n{text}\n{text}",
        "spaces.json": " " * 200_000 + f"[{text},{text}]",
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data.encode())
        samples = read_all(tmp_path / name)
        assert len(content(samples)) == 2, name
        assert samples[0].messages[0].text == 'a],[" \\ {'
        assert samples[0].messages[1].text == "\u00e9\U0001f600"
    assert [item.source_row for item in read_all(tmp_path / "bom.jsonl")] == [0, 3]


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        ("", Reason.CUT_OFF),
        (",", Reason.CUT_OFF),
        (',{"conversations": [{"from": "hum', Reason.CUT_OFF),
        ("] and more", Reason.INVALID_JSON),
    ],
)
@pytest.mark.parametrize("slice_rows", [1, 2, 100])
def test_a_broken_array_keeps_its_rows_and_refuses_one(tail, reason, slice_rows, tmp_path):
    """A file cut short, or with text behind its end: the rows before survive, and one reject says what happened."""
    good = json.dumps({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]})
    (tmp_path / "a.json").write_text("[" + ",".join([good] * 3) + tail)
    items = read_all(tmp_path / "a.json", slice_rows=slice_rows)
    rejects = [item for item in items if isinstance(item, Reject)]
    assert len(items) - len(rejects) == 3
    assert [(item.reason, item.source_row) for item in rejects] == [(reason, 3)]


def test_a_broken_element_of_an_array_is_one_row(tmp_path):
    """An element that is no JSON (or nothing at all) is refused by itself; the next one is read."""
    good = json.dumps({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]})
    (tmp_path / "a.json").write_text(f"[{good},{{'a': 1}},{good},,{good}]")
    items = read_all(tmp_path / "a.json", slice_rows=2)
    assert [type(item).__name__ for item in items] == ["Sample", "Reject", "Sample", "Reject", "Sample"]
    assert [item.source_row for item in items] == [0, 1, 2, 3, 4]


def test_a_row_beyond_the_limit_is_refused(tmp_path):
    """One endless row does not fill the memory and does not take its neighbours along."""
    good = json.dumps({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]})
    (tmp_path / "a.jsonl").write_text("\n".join([good, '"' + "x" * 50_000 + '"', good]))
    items = read_all(tmp_path / "a.jsonl", max_row_bytes=10_000)
    assert [getattr(item, "reason", None) for item in items] == [None, Reason.OVERLONG, None]


def test_memory_does_not_grow_with_an_array(tmp_path):
    """A 50 MB array is cut and read in a few MB."""
    row = json.dumps({"conversations": [{"from": "human", "value": "q" * 20_000}, {"from": "gpt", "value": "[a]"}]})
    with open(tmp_path / "a.json", "w", encoding="utf-8") as file:
        file.write("[")
        file.writelines(row + "," for _ in range(2_499))
        file.write(row + "]")
    reader = open_source(str(tmp_path / "a.json"), options=ReadOptions(slice_rows=1000))
    tracemalloc.start()
    slices = reader.slices()
    count = sum(1 for part in slices for _ in reader.read(part))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(slices), count) == (3, 2_500)
    assert peak < 12 << 20


def test_folders_globs_and_lists(rows, tmp_path):
    """Files come sorted and named by their path below the source; hidden files and images are not data."""
    for i, name in enumerate(("x/b.jsonl", "x/a.jsonl", "c.jsonl", "_skip.jsonl", ".hidden/d.jsonl")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(rows[i]))
    (tmp_path / "picture.jpg").write_bytes(encoded())
    assert [file.name for file in open_source(str(tmp_path)).files] == ["c.jsonl", "x/a.jsonl", "x/b.jsonl"]
    assert [file.name for file in open_source(f"{tmp_path}/x/*.jsonl").files] == ["a.jsonl", "b.jsonl"]
    assert [f.name for f in open_source(f"{tmp_path}/**/[ab].jsonl").files] == ["a.jsonl", "b.jsonl"]
    both = open_source([f"{tmp_path}/x/b.jsonl", f"{tmp_path}/c.jsonl"])
    assert [file.name for file in both.files] == ["c.jsonl", "x/b.jsonl"]
    uri = open_source(f"file://{tmp_path}/x")
    assert len(uri.slices()) == 2


def test_damaged_containers_keep_what_comes_before(rows, images, tmp_path):
    """A tar file and an Arrow stream cut short give the rows before the cut and one refused row."""
    write_tar(tmp_path / "a.tar", rows, images)
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: len(data) * 2 // 3])
    table = pa.Table.from_pylist([{**row, "image": paths_of(row)} for row in rows])
    write_stream(tmp_path / "b", table)
    shard = tmp_path / "b" / "data-00001-of-00002.arrow"
    shard.write_bytes(shard.read_bytes()[:-3000])
    for name in ("a.tar", "b"):
        items = read_all(tmp_path / name)
        rejects = [item for item in items if isinstance(item, Reject)]
        assert [item.reason for item in rejects] == [Reason.FILE_CORRUPT if name == "b" else Reason.CUT_OFF], name
        assert 40 < len(items) < len(rows), name


def test_tar_links_and_strange_names_are_refused_or_harmless(rows, images, tmp_path):
    """A link in an archive refuses its row; names like ``../x`` are keys, nothing is written anywhere."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        single = next(row for row in rows if len(paths_of(row)) == 1)
        row = json.dumps({"conversations": single["conversations"]}).encode()
        for stem in ("../../evil", "linked", "/abs", "alone"):
            info = tarfile.TarInfo(f"{stem}.json")
            info.size = len(row)
            archive.addfile(info, io.BytesIO(row))
            picture = tarfile.TarInfo(f"{stem}.png")
            data = encoded()
            picture.size = len(data)
            if stem == "linked":
                picture.type, picture.linkname, picture.size = tarfile.SYMTYPE, "/etc/passwd", 0
            if stem != "alone":
                archive.addfile(picture, io.BytesIO(data))
    before = sorted(tmp_path.parent.iterdir())
    items = read_all(tmp_path / "a.tar")
    wanted = [None, Reason.IMAGE_PATH_ESCAPE, None, Reason.IMAGE_MARK_MISMATCH]
    assert [getattr(item, "reason", None) for item in items] == wanted
    assert sorted(tmp_path.parent.iterdir()) == before


def test_strings_that_are_not_utf8_in_columns_refuse_one_row(tmp_path):
    """A columnar file may hold any bytes in a string column; only that row is refused."""
    texts = pa.array([b"fine", b"\xff\xfe", b"fine"], pa.binary()).view(pa.string())
    turns = pa.StructArray.from_arrays([pa.array(["human"] * 3), texts], names=["from", "value"])
    column = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), turns)
    pq.write_table(pa.table({"conversations": column}), tmp_path / "a.parquet")
    reader = open_source(str(tmp_path / "a.parquet"))
    values = [raw.value for part in reader.slices() for raw in reader.read(part)]
    assert [isinstance(value, ReadError) for value in values] == [False, True, False]
    assert values[1].fault.reason == Reason.INVALID_UTF8


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.jsonl", b"", "no rows"),
        ("empty.json", b" \n", "no rows"),
        ("zero.json", b"[ ]", "no rows"),
        ("empty", b"", "is empty"),
        ("wrong.json", b"id,image\n1,2", "not a JSON array or JSON Lines"),
        ("wrapped.json", b'{\n "data": []\n}', "not rows"),
        ("twice.json", b'[{"a": 1}][{"a": 1}]', "several arrays"),
        ("wide.json", "[]".encode("utf-16"), "UTF-16"),
        ("a.parquet", b"PAR1 nothing", "not a readable Parquet file"),
        ("a.tar", b"nothing", "not a readable tar file"),
        ("a.csv", b"id,image", "Supported: llava"),
        ("packed", gzip.compress(b"[]", mtime=0), "compressed"),
    ],
)
def test_wrong_sources_end_with_one_readable_message(name, data, message, tmp_path):
    """What cannot be a source says why, and what is supported."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        open_source(str(tmp_path / name)).slices()


def test_sources_that_are_not_there(tmp_path):
    """A missing path, an empty folder, a glob without matches, mixed and unknown formats."""
    for source, message in (("none.json", "does not exist"), ("*.json", "no file matches"), ("", "holds no files")):
        with pytest.raises(UserError, match=message):
            open_source(f"{tmp_path}/{source}")
    (tmp_path / "a.tar").write_bytes(b"")
    (tmp_path / "a.json").write_bytes(b"[]")
    with pytest.raises(UserError, match="mixes the formats llava, webdataset"):
        open_source(str(tmp_path))
    with pytest.raises(UserError, match="Did you mean 'parquet'"):
        open_source(str(tmp_path), "parkett")
    with pytest.raises(UserError, match="slice_rows is 0"):
        ReadOptions(slice_rows=0)
    table = pa.table({"text": ["a"]})
    pq.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(UserError, match="no column 'conversations'"):
        open_source(str(tmp_path / "b.parquet")).slices()


def test_save_to_disk_folders_that_cannot_be_read(rows, tmp_path):
    """A row index beside the data, and data files outside the folder, are refused with the reason."""
    write_stream(tmp_path / "a", pa.Table.from_pylist([{**row, "image": paths_of(row)} for row in rows]))
    state = tmp_path / "a" / "state.json"
    for change, message in (
        ({"_indices_data_files": [{"filename": "i.arrow"}]}, "flatten_indices"),
        ({"_data_files": [{"filename": "../b.arrow"}]}, "outside its folder"),
        ({"_data_files": [{"filename": "b.arrow"}]}, "missing"),
    ):
        state.write_text(json.dumps({"_data_files": [], **change}))
        with pytest.raises(UserError, match=message):
            open_source(str(tmp_path / "a"))


GOOD = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}


def _faults(path, **options):
    items = read_all(path, **options)
    rejects = [item for item in items if isinstance(item, Reject)]
    return len(items) - len(rejects), [(str(item.reason), item.source_row) for item in rejects]


@pytest.mark.parametrize("slice_rows", [1, 3, 100])
def test_lines_cut_inside_a_row_say_so(slice_rows, tmp_path):
    """A last line without its newline that is no JSON is a cut file; a broken line elsewhere is not."""
    lines = [json.dumps(GOOD)] * 7
    (tmp_path / "a.jsonl").write_text("\n".join(lines)[:-9])
    assert _faults(tmp_path / "a.jsonl", slice_rows=slice_rows) == (6, [("cut_off", 6)])
    (tmp_path / "b.jsonl").write_text("\n".join([lines[0][:-3], *lines[1:]]))
    assert _faults(tmp_path / "b.jsonl", slice_rows=slice_rows) == (6, [("invalid_json", 0)])
    (tmp_path / "c.jsonl").write_text("\n".join(lines)[:-9] + "\n")
    assert _faults(tmp_path / "c.jsonl", slice_rows=slice_rows) == (6, [("invalid_json", 6)])


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_compressed_text_is_read_and_a_cut_one_says_so(suffix, pack, kind, tmp_path):
    """The same rows as without compression; of a stream cut short those before the cut, and one reject."""
    rows = [{**GOOD, "id": os.urandom(30).hex()} for _ in range(4000)]
    text = json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows))
    (tmp_path / f"a.{kind}").write_text(text)
    packed = pack(text.encode())
    (tmp_path / f"b.{kind}{suffix}").write_bytes(packed)
    plain, unpacked = (read_all(tmp_path / name) for name in (f"a.{kind}", f"b.{kind}{suffix}"))
    assert [item.source_id for item in unpacked] == [row["id"] for row in rows]
    assert [item.key for item in plain] == [item.key for item in unpacked]
    (tmp_path / f"c.{kind}{suffix}").write_bytes(packed[: len(packed) // 2])
    good, faults = _faults(tmp_path / f"c.{kind}{suffix}")
    assert 0 <= good < len(rows)
    assert faults == [("cut_off", good)]


@pytest.mark.parametrize(
    ("text", "good", "faults"),
    [
        ("[{g},{g},nope]", 2, [("invalid_json", 2)]),
        ("[{g},{g}", 2, [("cut_off", 2)]),
        ("[{g},{g},", 2, [("cut_off", 2)]),
        ("[{g}] and more", 1, [("invalid_json", 1)]),
        ("[{g}]\n[{g}]", 1, [("invalid_json", 1)]),
        ("[{g}]" + " " * (1 << 21) + "x", 1, [("invalid_json", 1)]),
        ("\ufeff  [{g}]\n\n", 1, []),
        (" " * (1 << 21) + "[{g},{g}]", 2, []),
        ("[]", 0, []),
        ("{g}\n{{\n", 1, [("invalid_json", 1)]),
        ("{g}\n{{", 1, [("cut_off", 1)]),
        ("\n{g}\n\n{g}", 2, []),
    ],
)
@pytest.mark.parametrize("plain", [True, False])
def test_how_a_text_ends_is_told_the_same_packed_or_not(text, good, faults, plain, tmp_path):
    """A bad last row of a whole text is no cut one, text behind an array is told, a cut row is one reject."""
    if plain and text.startswith(("[{g}]\n[", "[]")):
        pytest.skip("a plain file says it before any row is read")
    data = text.replace("{g}", json.dumps(GOOD)).replace("{{", "{").encode()
    kind = "json" if text.lstrip("\ufeff ").startswith("[") else "jsonl"
    path = tmp_path / (f"a.{kind}" if plain else f"a.{kind}.gz")
    path.write_bytes(data if plain else gzip.compress(data))
    assert _faults(path) == (good, faults)


def test_damage_behind_the_rows_of_a_compressed_text_is_told(tmp_path):
    """A checksum that is wrong at the very end: all rows were read, and one reject says that the file is damaged."""
    for kind, text in (("json", json.dumps([GOOD] * 3)), ("jsonl", (json.dumps(GOOD) + "\n") * 3)):
        packed = bytearray(gzip.compress(text.encode()))
        packed[-8] ^= 1
        (tmp_path / f"a.{kind}.gz").write_bytes(packed)
        assert _faults(tmp_path / f"a.{kind}.gz") == (3, [("cut_off", 3)])


def test_every_file_of_a_folder_is_read_or_named(tmp_path):
    """Lines beside compressed lines are both read; what is no rows is named, an index file does not stop the rest."""
    (tmp_path / "part-0.jsonl").write_text(json.dumps(GOOD))
    (tmp_path / "part-1.jsonl.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    for name in ("dataset_info.json", "export.json"):
        (tmp_path / name).write_text('{\n "a": 1\n}')
    for name in ("part-2.jsonl.xz", "notes.csv", "README.md", "picture.png"):
        (tmp_path / name).write_bytes(b"x")
    reader = open_source(str(tmp_path))
    assert [file.name for file in reader.files] == ["part-0.jsonl", "part-1.jsonl.gz"]
    assert len(read_all(tmp_path)) == 2
    assert left_out(str(tmp_path), reader) == [
        f"not read: {n}" for n in ("dataset_info.json", "export.json", "notes.csv", "part-2.jsonl.xz")
    ]


def _tar(path, names):
    with tarfile.open(path, "w") as archive:
        for name in names:
            data = encoded() if name.endswith(".png") else json.dumps(GOOD).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    ("names", "ids", "reasons"),
    [
        ([f"conv.{i:04d}.json" for i in range(5)], [f"conv.{i:04d}" for i in range(5)], []),
        (["a.1.json", "a.2.json", "b.json"], ["a.1", "a.2", "b"], []),
        (["a.json", "a.meta.json", "b.json", "b.meta.json"], ["a", "b"], []),
        (["a.meta.json", "a.json"], ["a"], []),
        (["a.json", "a.json"], ["a", "a"], []),
        (["a.json", "b.json", "a.txt", "b.txt"], ["a", "b"], ["missing_conversations"] * 2),
        (["a.json", "a.mp4"], [], ["unsupported_video"]),
        (["a.json", "a.wav"], [], ["unsupported_audio"]),
    ],
)
def test_no_member_of_an_archive_is_lost(names, ids, reasons, tmp_path):
    """Dots inside of names, repeated names, members that are no neighbours, other media: read, split or refused."""
    _tar(tmp_path / "a.tar", names)
    items = read_all(tmp_path / "a.tar")
    assert [item.source_id for item in items if not isinstance(item, Reject)] == ids
    assert [str(item.reason) for item in items if isinstance(item, Reject)] == reasons


def test_images_go_with_the_row_of_their_name_where_names_have_dots(tmp_path):
    """The image of the second row stands in front of it, and before it is known that the dots are inside of names."""
    row = {"conversations": [{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "a"}]}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for i in range(3):
            for name, data in ((f"c.{i}.png", encoded(seed=i)), (f"c.{i}.json", json.dumps(row).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    items = read_all(tmp_path / "a.tar")
    assert [item.source_id for item in items] == ["c.0", "c.1", "c.2"]
    assert [item.images[0].data for item in items] == [encoded(seed=i) for i in range(3)]


@pytest.mark.parametrize("row_first", [False, True])
def test_rows_of_one_name_keep_their_own_images(row_first, tmp_path):
    """In front of each row or behind it; as many as the row says, in the order in which it names them."""
    turns = [{"role": "user", "content": "<image><image>q"}, {"role": "assistant", "content": "a"}]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for i in range(3):
            pictures = [(f"c.{i}_{side}.png", encoded(seed=2 * i + k)) for k, side in enumerate("ab")]
            told = {"texts": turns, "name": [f"{i}_b.png", f"{i}_a.png"]}
            text = [("c.json", json.dumps(told).encode())]
            for name, data in text + pictures if row_first else pictures + text:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    items = read_all(tmp_path / "a.tar")
    shown = [[image.data for image in item.images] for item in items]
    assert shown == [[encoded(seed=2 * i + 1), encoded(seed=2 * i)] for i in range(3)]


def test_images_of_a_tar_stand_as_the_row_names_them(tmp_path):
    """In a column by the whole name of the member, in content blocks by what is behind the key."""
    answer = {"role": "assistant", "content": "a"}
    blocks = [{"type": "image", "image": "b.png"}, {"type": "image_url", "image_url": {"url": "a.png"}}]
    rows = {
        "x": {"messages": [{"role": "user", "content": "<image><image>"}, answer], "images": ["x.b.png", "x.a.png"]},
        "y": {"messages": [{"role": "user", "content": blocks}, answer]},
    }
    members = {f"{key}.json": json.dumps(row).encode() for key, row in rows.items()}
    members |= {f"{key}.{name}.png": encoded(seed=seed) for key in rows for name, seed in (("a", 0), ("b", 1))}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in sorted(members.items()):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    shown = [[image.data for image in item.images] for item in read_all(tmp_path / "a.tar")]
    assert shown == [[encoded(seed=1), encoded(seed=0)]] * 2


def test_images_that_a_row_of_a_tar_names_are_not_lost(tmp_path):
    """Those that are no members lie below the root; a member too few refuses the row."""
    rows = {
        "a": {"question": "q", "answer": "a", "image": "a.png"},
        "b": {"texts": [{"user": "q", "assistant": "a"}], "images": ["b.png"]},
        "c": {"question": "q", "answer": "a", "images": ["c.0.png", "c.1.png"]},
        "d": {"question": "q", "answer": "a", "image": ""},
    }
    members = {f"{key}.json": codecs.BOM_UTF8 + json.dumps(row).encode() for key, row in rows.items()}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in sorted((members | {"c.0.png": encoded()}).items()):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    first, second, third, fourth = read_all(tmp_path / "a.tar")
    assert [image.path for item in (first, second) for image in item.images] == ["a.png", "b.png"]
    assert (third.reason, third.detail) == ("image_missing", "the row names 2 images, beside c.json are 1")
    assert fourth.images == ()


def test_texts_beside_images_are_captions(tmp_path):
    """Of Energon: what is said of the image alone; a text beside a row of its own is none."""
    turns = [{"role": "user", "content": "<image>\nQ"}, {"role": "assistant", "content": "A"}]
    members = {
        "0.jpg": encoded(seed=0),
        "0.txt": b"A kite.\n",
        "1.json": json.dumps(turns).encode(),
        "1.png": encoded(seed=1),
        "1.txt": b"not it",
        "2.txt": b"alone",
        "3.png": encoded(),
        "3.txt": b"\xff",
    }
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    first, second, *refused = read_all(tmp_path / "a.tar")
    assert [(m.role, m.text) for m in first.messages] == [("user", "<image>"), ("assistant", "A kite.")]
    assert first.images[0].data == encoded(seed=0)
    assert second.messages[1].text == "A"
    assert [row.reason for row in refused] == ["missing_conversations", "invalid_utf8"]


def test_members_that_no_rule_reads_are_counted(tmp_path):
    """By their extension."""
    _tar(tmp_path / "a.tar", ["a.json", "a.txt", "b.json", "b.txt", "b.npy"])
    counter = UnreadColumns()
    reader = open_source(str(tmp_path / "a.tar"))
    for part in reader.slices():
        for raw in reader.read(part):
            counter.count(raw.value)
    assert counter.rows == {".txt members": 2, ".npy members": 1}


def test_splits_are_honoured_or_named(tmp_path):
    """By the names of files and folders, or as the README of a checkout says; a split that is not there is an error."""
    for name in ("data/train-0.jsonl", "data/train-1.jsonl", "data/validation-0.jsonl", "data/test-0.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(GOOD))
    everything = open_source(str(tmp_path))
    (told,) = left_out(str(tmp_path), everything)
    assert "test (1 files), train (2 files), validation (1 files)" in told
    for split, count in (("train", 2), ("validation", 1), ("val", 1), ("test", 1)):
        reader = open_source(str(tmp_path), options=ReadOptions(split=split))
        assert len(reader.files) == count
    with pytest.raises(UserError, match="split is 'extra'.*of test, train, validation"):
        open_source(str(tmp_path), options=ReadOptions(split="extra"))
    (tmp_path / "rows.jsonl").write_text(json.dumps(GOOD))
    with pytest.raises(UserError, match="tell no split"):
        open_source(str(tmp_path / "rows.jsonl"), options=ReadOptions(split="train"))
    entries = [{"split": "first", "path": "data/*-0.jsonl"}, {"split": "second", "path": ["data/train-1.jsonl"]}]
    front = json.dumps({"configs": [{"config_name": "default", "data_files": entries}]})
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n# A checkout\n")
    assert len(open_source(str(tmp_path), options=ReadOptions(split="first")).files) == 3
    for entries in ("data/train-*", ["data/train-*"]):
        front = json.dumps({"configs": [{"config_name": "default", "data_files": entries}]})
        (tmp_path / "README.md").write_text(f"---\n{front}\n---\n# A path alone\n")
        assert len(open_source(str(tmp_path), options=ReadOptions(split="train")).files) == 2
        with pytest.raises(UserError, match="its files are of train"):
            open_source(str(tmp_path), options=ReadOptions(split="test"))
