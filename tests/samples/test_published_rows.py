"""Rows as published data sets have them: read right, or refused with a reason that a user understands."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from raycurate.samples.parse import ParseOptions, parse_row
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
    "m3it": (
        {"instruction": "Describe.", "inputs": "", "image_base64_str": ["iVBOR"], "outputs": "A kite."},
        "missing_conversations",
        "it has instruction, inputs, image_base64_str, outputs",
    ),
    "a VQA table": (
        {"image": "a.jpg", "question": "Who?", "answer": "Ada"},
        "missing_conversations",
        "it has image, question, answer",
    ),
    "packed energon": (
        {"images": ["a"], "prompts": ["b"], "captions": ["c"]},
        "missing_conversations",
        "it has images, prompts, captions",
    ),
    "qwen-vl v1": (
        _talk("Picture 1: <img>images/000.png</img>\nWhat?", "It."),
        "image_mark_mismatch",
        "<img>images/000.png</img>",
    ),
    "an absolute path elsewhere": (_talk("<image>\nQ", "A", image="/other/1.jpg"), "image_path_escape", "/data"),
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


def test_a_task_column_of_whole_numbers_with_gaps_names_tasks():
    """As pandas writes it: 3.0 is the task 3, NaN none."""
    assert [_read(_talk("Q", "A", task=value)).task for value in (3, 3.0, float("nan"))] == ["3", "3", "unknown"]
    assert _read(_talk("Q", "A", task=0.5)).reason == "wrong_type"


def test_columns_that_no_rule_reads_are_counted():
    """Of rows and of turns; what is empty is nothing. Names from outside are bounded in number."""
    counter = UnreadColumns(["subset"])
    rows = [
        {**_talk("Q", "A"), "subset": "a", "rating": 5, "note": ""},
        {**_talk("Q", "A"), "rating": 4, "video": None},
    ]
    rows[0]["conversations"][0]["weight_of_turn"] = 1
    for row in (*rows, "no object"):
        counter.count(row)
    assert lines_of(counter.rows) == [
        "not read: rating in 2 rows",
        "not read: conversations[].weight_of_turn in 1 rows",
    ]
    counter.count({f"column {i}": 1 for i in range(10_000)})
    assert len(counter.rows) <= 202
