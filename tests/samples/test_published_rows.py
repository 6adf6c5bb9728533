"""Rows as published data sets have them: read right, or refused with a reason that a user understands."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from raycurate.errors import UserError
from raycurate.samples.extras import columns_of, kinds_of
from raycurate.samples.images import ImageRoot
from raycurate.samples.parse import ParseOptions, parse_row
from raycurate.samples.parse_task import folder_task, folders_are_tasks
from raycurate.samples.quarantine import Reject
from raycurate.samples.rows import RawRow
from raycurate.samples.schema import Sample
from raycurate.samples.unread import UnreadColumns, lines_of
from tests.hostile import encoded

PNG = encoded()


def _read(row: Any, **options: Any) -> Sample | Reject:
    return parse_row(RawRow("f", 0, row), ParseOptions(**options))


def _talk(question: Any, answer: Any, **row: Any) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **row}


def _asked(*blocks: dict[str, Any], **row: Any) -> dict[str, Any]:
    """A question of content blocks with its answer."""
    content = [*blocks, {"type": "text", "text": "Q"}]
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "A"}], **row}


IN_BASE64 = base64.b64encode(PNG).decode()
IN_URI = f"data:image/png;base64,{IN_BASE64}"
READ: dict[str, tuple[dict[str, Any], list[str | None], str]] = {
    "llava, several images": (
        _talk("<image>\n<image>\nWhich is older?", "The left one.", image=["a/1.png", "a/2.png"]),
        ["a/1.png", "a/2.png"],
        "<image>\n<image>\nWhich is older?",
    ),
    "llava-next, image struct": (
        _talk("<image>\nRead the sign.", "STOP", image={"bytes": PNG, "path": None}, data_source="textocr"),
        [None],
        "<image>\nRead the sign.",
    ),
    "llava-next, text only": (_talk("2+2?", "4", image=None, data_source="magpie_pro"), [], "2+2?"),
    "m4-instruct, interleaved": (
        _talk("First <image> then <image>: what changed?", "A car left.", image=["x/0.jpg", "x/1.jpg"]),
        ["x/0.jpg", "x/1.jpg"],
        "First <image> then <image>: what changed?",
    ),
    "finevision": (
        {
            "images": [{"bytes": PNG, "path": None}],
            "texts": [{"user": "What is drawn?", "assistant": "A cell."}, {"user": "More?", "assistant": "No."}],
            "source": "ai2d_merged",
            "relevance_ratings": [5, 4],
            "relevance_min": 4,
        },
        [None],
        "<image>\nWhat is drawn?",
    ),
    "the cauldron": (
        {"images": [{"bytes": PNG, "path": None}], "texts": [{"user": "A dog?", "assistant": "No", "source": "VQAv2"}]},
        [None],
        "<image>\nA dog?",
    ),
    **{
        f"cambrian, image {value!r}": (
            _talk("Explain TCP.", "It is ...", image=value, source="orca"),
            [],
            "Explain TCP.",
        )
        for value in (
            "",
            "None",
            "none",
            "nan",
            [""],
            [None],
            {"bytes": None, "path": None},
            {"bytes": b"", "path": ""},
        )
    },
    "vision-flan": (
        _talk("<image>\nWhy is he running?", "Late", image="vf_9.jpg", task_name="AOK-VQA"),
        ["vf_9.jpg"],
        "<image>\nWhy is he running?",
    ),
    "nemotron blocks": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": "p/1.png", "metadata": {"width": 64}},
                        {"type": "text", "text": "Read it."},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "42"}]},
            ]
        },
        ["p/1.png"],
        "<image>\nRead it.",
    ),
    "llama-factory v1 blocks": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "value": "a.jpg"}, {"type": "text", "value": "Who?"}],
                    "loss_weight": 0.0,
                },
                {"role": "assistant", "content": [{"type": "text", "value": "Ada"}], "loss_weight": 1.0},
            ]
        },
        ["a.jpg"],
        "<image>\nWho?",
    ),
    "energon texts": (
        {
            "texts": [{"role": "user", "content": "<image>\nQ"}, {"role": "assistant", "content": "A"}],
            "media": "image",
            "images": [PNG],
        },
        [None],
        "<image>\nQ",
    ),
    "turns as a JSON text": (
        {"messages": '[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]'},
        [],
        "Q",
    ),
    "an absolute path below the root": (
        _talk("<image>\nQ", "A", image="/data/coco/1.jpg"),
        ["coco/1.jpg"],
        "<image>\nQ",
    ),
    "a file URI below the root": (
        _talk("<image>\nQ", "A", image="file:///data/co%20co/1.jpg"),
        ["co co/1.jpg"],
        "<image>\nQ",
    ),
    "an absolute path, written carelessly": (
        _talk("<image>\nQ", "A", image="/./data//coco/1.jpg"),
        ["coco/1.jpg"],
        "<image>\nQ",
    ),
    "one of two columns is empty": (_talk("<image>\nQ", "A", image="", images=["1.jpg"]), ["1.jpg"], "<image>\nQ"),
    "columns and content blocks name the same": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": "1.jpg"}, {"type": "text", "text": "Q"}]},
                {"role": "assistant", "content": "A"},
            ],
            "images": ["1.jpg"],
        },
        ["1.jpg"],
        "<image>\nQ",
    ),
    "a data URI": (
        _talk("<image>\nQ", "A", image=f"data:image/png;base64,{base64.b64encode(PNG).decode()}"),
        [None],
        "<image>\nQ",
    ),
    "base64 under bytes": (
        _talk("<image>\nQ", "A", images=[{"bytes": base64.b64encode(PNG).decode()}]),
        [None],
        "<image>\nQ",
    ),
    "base64 alone": (_talk("<image>\nQ", "A", image=base64.b64encode(PNG).decode()), [None], "<image>\nQ"),
    "a name with a colon": (_talk("<image>\nQ", "A", image="semi:colon.png"), ["semi:colon.png"], "<image>\nQ"),
    "a name with a tilde": (_talk("<image>\nQ", "A", image="~tilde.png"), ["~tilde.png"], "<image>\nQ"),
    "objects with a url": (
        _talk("<image><image>Q", "A", images=[{"url": "a.jpg"}, {"url": "file:///data/b.jpg"}]),
        ["a.jpg", "b.jpg"],
        "<image><image>Q",
    ),
    "objects of other words": (
        _talk("<image>" * 4, "A", images=[{"path": "a"}, {"image": "b"}, {"image_url": {"url": "c"}}, {"bytes": PNG}]),
        ["a", "b", "c", None],
        "<image>" * 4,
    ),
    "bytes as data URIs": (
        _talk("<image><image>Q", "A", images=[{"url": IN_URI}, {"bytes": IN_URI, "path": None}]),
        [None, None],
        "<image><image>Q",
    ),
    "openai blocks": (
        _asked({"type": "image_url", "image_url": {"url": "a.jpg", "detail": "low"}}),
        ["a.jpg"],
        "<image>\nQ",
    ),
    "openai blocks, data URIs": (_asked({"type": "image_url", "image_url": {"url": IN_URI}}), [None], "<image>\nQ"),
    "openai responses": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "input_image", "image_url": IN_URI}]},
                {"role": "assistant", "content": [{"type": "output_text", "text": "A"}]},
            ]
        },
        [None],
        "<image>",
    ),
    "blocks of a path or bytes": (
        _asked({"type": "image", "path": "a.jpg"}, {"type": "image", "bytes": IN_BASE64}),
        ["a.jpg", None],
        "<image>\n<image>\nQ",
    ),
    "transformers blocks": (_asked({"type": "image", "base64": IN_BASE64}), [None], "<image>\nQ"),
    "anthropic blocks": (
        _asked({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IN_BASE64}}),
        [None],
        "<image>\nQ",
    ),
    "qwen blocks": (_asked({"type": "image", "image": "file:///data/a.jpg", "max_pixels": 9}), ["a.jpg"], "<image>\nQ"),
    "qwen blocks without types": (
        {
            "messages": [
                {"role": "user", "content": [{"image": "a.jpg"}, {"text": "Q"}]},
                {"role": "assistant", "content": [{"text": "A"}]},
            ]
        },
        ["a.jpg"],
        "<image>\nQ",
    ),
    "columns and content blocks name the same in other words": (
        _asked({"type": "image_url", "image_url": {"url": "a.jpg"}}, images=[{"url": "a.jpg"}]),
        ["a.jpg"],
        "<image>\nQ",
    ),
    "m3it": (
        {
            "instruction": "Describe.",
            "inputs": "In French.",
            "image_base64_str": [base64.b64encode(PNG).decode()],
            "outputs": "Un chat.",
        },
        [None],
        "<image>\nDescribe.\nIn French.",
    ),
    "a VQA table": ({"image": "a.jpg", "question": "Who?", "answer": "Ada"}, ["a.jpg"], "<image>\nWho?"),
    "a VQA table, equal answers": (
        {"image": {"bytes": PNG, "path": "x.png"}, "question": "How many?", "answers": [{"answer": 2}, {"answer": 2}]},
        [None],
        "<image>\nHow many?",
    ),
    "alpaca": ({"instruction": "Add.", "input": "", "output": "2", "images": ["a.jpg"]}, ["a.jpg"], "<image>\nAdd."),
    "alpaca, an input alone": ({"instruction": "", "input": "2+2?", "output": "4"}, [], "2+2?"),
    "turns under one of two names": ({**_talk("Q", "A"), "messages": [], "texts": []}, [], "Q"),
    "turns under the other": (
        {"conversations": [], "texts": [{"user": "Q", "assistant": "A"}], "images": ["a.jpg"]},
        ["a.jpg"],
        "<image>\nQ",
    ),
    "ms-swift, a query": (
        {"query": "<image>Who?", "response": "Ada", "images": ["a.jpg"], "history": [["Hi", "Hello"]]},
        ["a.jpg"],
        "Hi",
    ),
    "trl, texts": ({"prompt": "2+2?", "completion": "4"}, [], "2+2?"),
    "trl, turns": (
        {
            "prompt": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2+2?"}],
            "completion": [{"role": "assistant", "content": "4"}],
            "images": [PNG],
        },
        [None],
        "<image>\n2+2?",
    ),
    "qwen-vl v1": (
        _talk("Picture 1: <img>images/000.png</img>\nWhat?", "It."),
        ["images/000.png"],
        "Picture 1: <image>\nWhat?",
    ),
    "tools that are none": (_talk("Q", "A", tools="[]", videos=[], audio="", objects={"ref": [], "bbox": []}), [], "Q"),
    "HTML in a text": (_talk("What does a page do with <video> tags?", "It plays."), [], None or ""),
}

REFUSED = {
    "llava-video": (_talk("<image>\nWhat happens?", "He sits.", video="a/b.mp4"), "unsupported_video", "video"),
    "swift video": (
        {
            "messages": [{"role": "user", "content": "<video>Why?"}, {"role": "assistant", "content": "A baby."}],
            "videos": ["a.mp4"],
        },
        "unsupported_video",
        "videos",
    ),
    "swift grounding": (
        {
            "messages": [
                {"role": "user", "content": "<image>Find the <ref-object>"},
                {"role": "assistant", "content": "<bbox>"},
            ],
            "images": ["a.jpg"],
            "objects": {"ref": ["sheep"], "bbox": [[90, 160, 135, 212]]},
        },
        "unsupported_grounding",
        "objects",
    ),
    "an unknown table": ({"image": "a.jpg", "q": "Who?", "a": "Ada"}, "missing_conversations", "--columns question="),
    "VQAv2, several answers": (
        {"image": "a.jpg", "question": "Who?", "answers": ["Ada", "Ada", "Bob"]},
        "several_answers",
        "2 different answers",
    ),
    "a question without its answer": ({"question": "Who?", "answer": None}, "missing_conversations", "'answer'"),
    "a history that is none": (
        {"query": "Q", "response": "A", "history": ["x"]},
        "wrong_type",
        "'history' is no list of pairs",
    ),
    "packed energon": (
        {"images": ["a"], "prompts": ["b"], "captions": ["c"]},
        "missing_conversations",
        "it has images, prompts, captions: several rows packed into one",
    ),
    "a tag in an answer": (_talk("What?", "<img>a.png</img>"), "image_mark_mismatch", "of the assistant"),
    "a tag that leads out": (_talk("<img>../a.png</img> What?", "It."), "image_path_escape", "../a.png"),
    "an absolute path elsewhere": (_talk("<image>\nQ", "A", image="/other/1.jpg"), "image_path_escape", "/data"),
    "columns and content blocks name different images": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": "1.jpg"}, {"type": "text", "text": "Q"}]},
                {"role": "assistant", "content": "A"},
            ],
            "images": ["2.jpg"],
        },
        "wrong_type",
        "the content blocks ['1.jpg']",
    ),
    "energon texts, a mark too few": (
        {
            "texts": [{"role": "user", "content": "<image>\nQ"}, {"role": "assistant", "content": "A"}],
            "images": [PNG, PNG],
        },
        "image_mark_mismatch",
        "1 <image> mark(s) for 2 image(s)",
    ),
    "an object around rows": ({"data": [_talk("Q", "A")]}, "missing_conversations", "which are in 'data'"),
    "an image on the web": (
        _talk("<image>\nQ", "A", images=[{"url": "https://a.org/1.jpg"}]),
        "image_remote",
        "download it",
    ),
    "a block that is on the web": (
        _asked({"type": "image_url", "image_url": {"url": "http://a.org/1.jpg"}}),
        "image_remote",
        "http://a.org/1.jpg",
    ),
    "an object of unknown words": (
        _talk("<image>\nQ", "A", images=[{"file": "1.jpg"}]),
        "image_missing",
        "an object of file; read are bytes, image",
    ),
    "a block of two things": (_asked({"image": "1.jpg", "video": "1.mp4"}), "wrong_type", "known are text, image"),
    "no marks": (_talk("Q", "A", image="1.jpg"), "image_mark_mismatch", "insert_missing_marks"),
}


@pytest.mark.parametrize("name", READ)
def test_published_rows_are_read_right(name):
    """The images in their order, the first question to the letter."""
    row, paths, question = READ[name]
    sample = _read(row, image_root="/data")
    assert isinstance(sample, Sample), sample
    assert [image.path for image in sample.images] == paths
    first = next(message for message in sample.messages if message.role == "user")
    assert first.text == (question or row["conversations"][0]["value"])
    assert all((image.data is None) == (image.path is not None) for image in sample.images)
    assert all(image.data in (None, PNG) for image in sample.images)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_says_why(name):
    """The reason, and in its detail what in the row it is."""
    row, reason, told = REFUSED[name]
    refused = _read(row, image_root="/data")
    assert isinstance(refused, Reject)
    assert refused.reason == reason
    assert told in refused.detail


def test_absolute_paths_may_lie_in_folders_that_are_named_behind_the_root(tmp_path):
    """They stay absolute and are read there; the refusal says how to name such a folder."""
    for name in ("root", "coco"):
        (tmp_path / name).mkdir()
    (tmp_path / "coco" / "1.png").write_bytes(PNG)
    row = _talk("<image>\nQ", "A", image=f"{tmp_path}/coco//1.png")
    root = str(tmp_path / "root")
    links = (str(tmp_path / "coco"),)
    image = _read(row, image_root=root, image_links=links).images[0]
    assert image.path == f"{tmp_path}/coco/1.png"
    assert ImageRoot(root, links).read(image) == PNG
    assert f"--images {root}:FOLDER" in _read(row, image_root=root).detail
    out = _talk("<image>\nQ", "A", image=f"{tmp_path}/coco/../secret/1.png")
    assert _read(out, image_root=root, image_links=links).reason == "image_path_escape"
    beside = _talk("<image>\nQ", "A", image=f"{tmp_path}/coco2/1.png")
    assert _read(beside, image_root=root, image_links=links).reason == "image_path_escape"


def test_a_task_column_of_whole_numbers_with_gaps_names_tasks():
    """As pandas writes it: 3.0 is the task 3, NaN none."""
    assert [_read(_talk("Q", "A", task=value)).task for value in (3, 3.0, float("nan"))] == ["3", "3", "unknown"]
    assert _read(_talk("Q", "A", task=0.5)).reason == "wrong_type"


TASKS: dict[str, tuple[dict[str, Any], str, str]] = {
    "its own": (_talk("Q", "A", task="vqa", source="web"), "vqa", "'task'"),
    "finevision": (_talk("Q", "A", source="ai2d_merged"), "ai2d_merged", "'source'"),
    "onevision": (_talk("Q", "A", data_source="textocr(gpt4v)"), "textocr(gpt4v)", "'data_source'"),
    "vision-flan": (_talk("Q", "A", task_name="AOK-VQA"), "AOK-VQA", "'task_name'"),
    "ms-swift": (_talk("Q", "A", channel="chat"), "chat", "'channel'"),
    "m4-instruct": (_talk("Q", "A", metadata={"dataset": "spot-the-diff"}), "spot-the-diff", "'metadata.dataset'"),
    "the cauldron": ({"texts": [{"user": "Q", "assistant": "A", "source": "VQAv2"}]}, "VQAv2", "'texts[].source'"),
    "an address is none": (_talk("Q", "A", source="https://a.org/1", task_name="web"), "web", "'task_name'"),
    "a number is none": (_talk("Q", "A", source=7, channel="x" * 300), "ai2d", "the folder of the file"),
}


@pytest.mark.parametrize("name", TASKS)
def test_tasks_are_found_where_published_rows_have_them(name):
    """And it is told what named it."""
    row, task, told = TASKS[name]
    sample = parse_row(RawRow("ai2d/train/0.parquet", 0, row), ParseOptions(folder_tasks=True))
    assert (sample.task, sample.task_from) == (task, told)


def test_folders_of_subsets_name_tasks_where_they_are_several():
    """Folders that every checkout has, and those of a split, are none."""
    assert folder_task("data/train/a.json") is None
    assert folder_task("ai2d/data/a.json") == "ai2d"
    assert folders_are_tasks(["ai2d/0.parquet", "vqa/0.parquet"])
    assert not folders_are_tasks(["ai2d/0.parquet", "data/0.parquet", "1.parquet"])


def test_columns_name_what_holds_what():
    """Inside an object as well; the row's other columns stay, and its keys are those of a row of turns."""
    columns = {"question": "q.text", "answer": "a", "image": "pic", "task": "kind", "id": "number"}
    row = {"q": {"text": "Who?"}, "a": "Ada", "pic": "1.png", "kind": "people", "number": 3, "images": ["other.png"]}
    sample = _read(row, columns=columns)
    assert sample.content_hash == _read(_talk("<image>\nWho?", "Ada", image="1.png")).content_hash
    assert (sample.task, sample.source_id) == ("people", "3")
    turns = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ada"}]
    assert _read({"talk": turns, "question": "x"}, columns={"conversations": "talk"}).messages[0].text == "Who?"
    with pytest.raises(UserError, match="needs question and answer"):
        ParseOptions(columns={"question": "q"})
    with pytest.raises(UserError, match="Did you mean|answer"):
        ParseOptions(columns={"question": "q", "anwser": "a"})


def test_a_function_of_the_user_makes_rows(tmp_path, monkeypatch):
    """A row of a row; None leaves it out, and what it raises is the row's reason."""
    code = "def made(row):\n    return {'messages': row['m']} if row['keep'] / row['n'] else None\n"
    (tmp_path / "rows_of_mine.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    turns = _talk("Q", "A")["conversations"]
    name = "rows_of_mine:made"
    read = [_read({"m": turns, "keep": keep, "n": n}, row_function=name) for keep, n in ((1, 1), (0, 1), (1, 0))]
    assert read[0].messages[1].text == "A"
    assert [refused.reason for refused in read[1:]] == ["left_out", "row_function_failed"]
    assert "ZeroDivisionError" in read[2].detail


def test_numbers_are_kept_beside_the_row_and_texts_that_are_named():
    """They do not change its key; as columns they have one type."""
    row = _talk("Q", "A", rating=4, ratings=[1, 2.5], good=True, note="short", vector=[[1]], huge=1 << 80, task=3)
    plain, named = _read(row), _read(row, keep=("note",))
    assert plain.key == named.key == _read(_talk("Q", "A")).key
    assert json.loads(plain.extra) == {"rating": 4, "ratings": [1, 2.5], "good": True}
    texts = [plain.extra, None, named.extra, _read(_talk("Q", "A", rating="high"), keep=("rating",)).extra]
    kinds = kinds_of(texts)
    assert kinds == {"rating": "text", "ratings": "numbers", "good": "boolean", "note": "text"}
    assert columns_of(texts, kinds)["rating"].to_pylist() == ["4", None, "4", "high"]


def test_columns_that_no_rule_reads_are_counted():
    """Of rows and of turns; numbers are kept, what is empty is nothing. Names from outside are bounded in number."""
    counter = UnreadColumns(["subset"])
    rows = [
        {**_talk("Q", "A"), "subset": "a", "rating": 5, "caption": "x", "note": ""},
        {**_talk("Q", "A"), "rating": 4, "caption": "y", "video": None},
    ]
    rows[0]["conversations"][0]["weight_of_turn"] = 1
    for row in (*rows, "no object"):
        counter.count(row)
    assert lines_of(counter.rows) == [
        "not read: caption in 2 rows",
        "not read: conversations[].weight_of_turn in 1 rows",
    ]
    counter.count({f"column {i}": "x" for i in range(10_000)})
    assert len(counter.rows) <= 202
