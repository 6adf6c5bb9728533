"""Folders with an index are read as it says: columns, tags, image roots and names of the data sets."""

from __future__ import annotations

import json

import pytest

from raycurate.errors import UserError
from raycurate.samples.parse import ParseOptions, parse_row
from raycurate.samples.read_indexed import IndexedReader
from raycurate.samples.readers import left_out, open_source
from raycurate.samples.rows import ReadOptions


def write(path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def read(source):
    reader = open_source(str(source))
    assert isinstance(reader, IndexedReader)
    rows = [parse_row(raw, ParseOptions()) for part in reader.slices() for raw in reader.read(part)]
    return rows, left_out(str(source), reader)


def test_a_data_folder_of_llama_factory(tmp_path):
    """Alpaca, ShareGPT with tags of its own and OpenAI; what is not there or no conversation is named."""
    tags = {"role_tag": "who", "content_tag": "says", "user_tag": "Q", "assistant_tag": "A", "system_tag": "S"}
    index = {
        "alpaca_demo": {"file_name": "alpaca.json"},
        "named": {"file_name": "named.json", "columns": {"prompt": "ask", "response": "reply", "images": "pics"}},
        "tagged": {
            "file_name": "tagged.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "talk", "images": "pics"},
            "tags": tags,
        },
        "openai": {"file_name": "openai", "formatting": "openai", "num_samples": 5},
        "pairs": {"file_name": "alpaca.json", "ranking": True},
        "hub": {"hf_hub_url": "org/name"},
        "gone": {"file_name": "gone.json"},
    }
    write(tmp_path / "dataset_info.json", index)
    alpaca = {"instruction": "Add.", "input": "1+1", "output": "2", "history": [["Hi", "Hello"]], "system": "Be kind."}
    write(tmp_path / "alpaca.json", [alpaca])
    write(tmp_path / "named.json", [{"ask": "<image>Who?", "reply": "Ada", "pics": ["a.png"]}])
    turns = [{"who": "S", "says": "Be short."}, {"who": "Q", "says": "<image>What?"}, {"who": "A", "says": "It."}]
    write(tmp_path / "tagged.jsonl", {"talk": turns, "pics": ["b.png"], "task": "own"})
    talk = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    write(tmp_path / "openai" / "1.json", [{"messages": talk}])
    write(tmp_path / "openai" / "2.json", [{"messages": [{"role": "tool", "content": "x"}, *talk]}])
    write(tmp_path / "left.json", [alpaca])
    rows, told = read(tmp_path)
    found = {row.source_file: row for row in rows}
    texts = {name: [m.text for m in row.messages] for name, row in found.items() if hasattr(row, "messages")}
    assert texts == {
        "alpaca.json": ["Be kind.", "Hi", "Hello", "Add.\n1+1", "2"],
        "named.json": ["<image>Who?", "Ada"],
        "tagged.jsonl": ["Be short.", "<image>What?", "It."],
        "openai/1.json": ["Q", "A"],
    }
    assert {name: found[name].task for name in texts} == {
        "alpaca.json": "alpaca_demo",
        "named.json": "named",
        "tagged.jsonl": "own",
        "openai/1.json": "openai",
    }
    assert found["named.json"].images[0].path == "a.png"
    assert found["tagged.jsonl"].images[0].path == "b.png"
    assert found["openai/2.json"].reason == "unsupported_tools"
    assert told == [
        "not applied: num_samples of openai",
        "not read: pairs of dataset_info.json: it holds preference pairs",
        "not read: hub of dataset_info.json: it is on a hub; download it, or read it by --format hub",
        "not read: gone of dataset_info.json: there is no gone.json",
        "not read: left.json",
    ]


@pytest.mark.parametrize("name", ["meta.json", "internvl_1_2_finetune.json"])
def test_meta_json_of_internvl(tmp_path, name):
    """Annotations count from a folder above the index; image paths get their root in front. Any name is its own."""
    talk = [{"from": "human", "value": "<image>\nQ"}, {"from": "gpt", "value": "A"}]
    index = {
        "ai2d": {"root": "playground/data/ai2d/", "annotation": "playground/ai2d.jsonl", "repeat_time": 2, "length": 1},
        "text": {"root": "", "annotation": "playground/text.jsonl", "repeat_time": 1},
    }
    write(tmp_path / "shell" / "data" / name, index)
    block = {"type": "image_url", "image_url": {"url": "x/2.png"}}
    blocks = [
        {"role": "user", "content": [block, {"type": "text", "text": "Q"}]},
        {"role": "assistant", "content": "A"},
    ]
    objects = {"images": [{"path": "x/3.png"}], "conversations": talk}
    rows = ({"image": "x/1.png", "conversations": talk}, {"messages": blocks}, objects)
    (tmp_path / "playground").mkdir()
    (tmp_path / "playground" / "ai2d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pure = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    write(tmp_path / "playground" / "text.jsonl", {"image": "", "conversations": pure})
    for source in (tmp_path / "shell" / "data", tmp_path / "shell" / "data" / name):
        rows, told = read(source)
        assert [(row.task, [image.path for image in row.images]) for row in rows] == [
            *(("ai2d", [f"playground/data/ai2d/x/{number}.png"]) for number in (1, 2, 3)),
            ("text", []),
        ]
        assert told == ["not applied: repeat_time of ai2d"]


def test_indexes_that_cannot_be_followed(tmp_path):
    """No file there, or one outside of the folder; another JSON of the name is no index; a split has to be a file's."""
    write(tmp_path / "a" / "dataset_info.json", {"x": {"file_name": "none.json"}})
    with pytest.raises(UserError, match="names no file that is there.*there is no none.json"):
        open_source(str(tmp_path / "a"))
    write(tmp_path / "b" / "dataset_info.json", {"x": {"file_name": "../a/none.json"}})
    with pytest.raises(UserError, match="outside of its folder"):
        open_source(str(tmp_path / "b"))
    talk = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    write(tmp_path / "c" / "rows.json", [{"conversations": talk}])
    write(tmp_path / "c" / "dataset_info.json", {"features": {"x": 1}, "splits": {}})
    assert [file.name for file in open_source(str(tmp_path / "c")).files] == ["rows.json"]
    write(tmp_path / "c" / "dataset_info.json", {"x": {"file_name": "rows.json", "formatting": "sharegpt"}})
    with pytest.raises(UserError, match="has an index of its files"):
        open_source(str(tmp_path / "c"), options=ReadOptions(split="train"))


def test_another_index_is_another_fact(tmp_path):
    """The files are the same; what the index says of them is part of what the samples are known by."""
    write(tmp_path / "rows.json", [{"instruction": "Q", "output": "a", "second": "b"}])
    known = []
    for column in ("output", "second", "output"):
        write(tmp_path / "dataset_info.json", {"demo": {"file_name": "rows.json", "columns": {"response": column}}})
        reader = open_source(str(tmp_path))
        assert isinstance(reader, IndexedReader)
        known.append(reader.facts)
    assert known[0] == known[2] != known[1]


def test_one_of_several_indexes_is_named_itself(tmp_path):
    """A folder of two is refused; rows under the name of an index, and objects that are none, are rows."""
    row = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    write(tmp_path / "rows.jsonl", row)
    write(tmp_path / "more.jsonl", row)
    write(tmp_path / "one.json", {"vqa": {"root": "", "annotation": "rows.jsonl"}})
    write(tmp_path / "two.json", {"ocr": {"root": "", "annotation": "more.jsonl"}})
    with pytest.raises(UserError, match="several indexes of data sets: one.json, two.json. Name the file of one"):
        open_source(str(tmp_path))
    rows, told = read(tmp_path / "two.json")
    assert [(each.task, each.source_file) for each in rows] == [("ocr", "more.jsonl")]
    assert told == []
    write(tmp_path / "meta.json", [row])
    assert len(open_source(str(tmp_path / "meta.json")).slices()) == 1
    write(tmp_path / "two.json", row | {"annotation": "x"})
    assert not isinstance(open_source(str(tmp_path / "two.json")), IndexedReader)
