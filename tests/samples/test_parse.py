"""Rows become samples to the letter, whatever the spelling; options say what may be repaired."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.samples.parse import ParseOptions, parse_row
from raycurate.samples.quarantine import Reason, Reject, excerpt_of, printable
from raycurate.samples.rows import RawRow
from raycurate.samples.schema import Message, Sample, row_to_sample, sample_to_row, samples_to_table
from raycurate.samples.tasks import load_task_map, parse_task_map

OPTIONS = ParseOptions()


def parse(value, **options):
    return parse_row(RawRow("f.json", 7, value), ParseOptions(**options) if options else OPTIONS)


def talk(*texts, **row):
    turns = [{"from": "gpt" if i % 2 else "human", "value": text} for i, text in enumerate(texts)]
    return {"conversations": turns, **row}


def test_a_llava_row():
    """Roles are named anew, text and id are kept."""
    sample = parse(talk("<image>\nWhat?", " A cat. ", id=5, image="./coco//a.jpg", task="vqa"))
    assert sample.messages == (Message("user", "<image>\nWhat?"), Message("assistant", " A cat. "))
    assert [image.path for image in sample.images] == ["coco/a.jpg"]
    assert (sample.source_id, sample.task, sample.source_file, sample.source_row) == ("5", "vqa", "f.json", 7)
    assert row_to_sample(sample_to_row(sample)) == sample


def test_spellings_of_one_conversation():
    """from/value, role/content, blocks, column-wise lists and a system column stand for the same messages."""
    expected = (
        Message("system", "Be kind."),
        Message("user", "<image>\nWhat?"),
        Message("assistant", "It."),
    )
    image = {"image": "a.jpg"}
    blocks = [{"type": "image"}, {"type": "text", "text": "What?"}]
    spellings = [
        {"messages": [{"role": m.role, "content": m.text} for m in expected], **image},
        {"conversations": [{"from": m.role.upper(), "value": m.text} for m in expected], **image},
        {"conversations": {"from": [m.role for m in expected], "value": [m.text for m in expected]}, **image},
        {**talk("<image>\nWhat?", "It."), "system": "Be kind.", **image},
        {
            "messages": [
                {"role": "system", "content": [{"type": "text", "text": "Be kind.", "image": None}]},
                {"role": "user", "content": blocks},
                {"role": "assistant", "content": "It."},
            ],
            "images": ["a.jpg"],
        },
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.jpg"}}, blocks[1]]},
                {"role": "assistant", "content": "It."},
            ]
        },
        {"texts": [{"user": "What?", "assistant": "It."}], "system": "Be kind.", "images": ["a.jpg"]},
    ]
    for spelling in spellings:
        sample = parse(spelling)
        assert isinstance(sample, Sample), sample
        assert sample.messages == expected
        assert [image.path for image in sample.images] == ["a.jpg"]


@pytest.mark.parametrize("value", [{"image": None}, {"images": []}, {"images": None, "image": None}, {}])
def test_text_only_rows(value):
    """No image is spelled in several ways."""
    assert parse({**talk("Hi", "Hello"), **value}).images == ()


def test_embedded_images_are_named_by_their_bytes():
    """Equal bytes under different paths are one image."""
    row = talk("<image>\nWhat?", "It.")
    first = parse({**row, "image": {"bytes": b"abc", "path": "x.jpg"}})
    second = parse({**row, "images": [{"bytes": b"abc", "path": None}]})
    third = parse({**row, "image": b"abc"})
    assert first.key == second.key == third.key
    assert (first.images[0].path, first.images[0].data) == (None, b"abc")
    assert first.order == second.order


def test_missing_marks_can_be_inserted():
    """With the option, missing marks are put first; too many marks stay an error."""
    row = talk("What?", "It.", image=["a.jpg", "b.jpg"])
    assert parse(row).reason == Reason.IMAGE_MARK_MISMATCH
    assert parse(row, insert_missing_marks=True).messages[0].text == "<image>\n<image>\nWhat?"
    row = talk("<image>\nWhat?", "It.")
    assert parse(row, insert_missing_marks=True).reason == Reason.IMAGE_MARK_MISMATCH


def test_a_leading_answer_can_be_dropped():
    """With the option, answers before the first question go, as in LLaVA's trainer."""
    turns = [("gpt", "Welcome."), ("human", "Hi"), ("gpt", "Hello")]
    row = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    refused = parse(row)
    assert refused.reason == Reason.WRONG_ROLE_ORDER
    assert "drop_leading_answer" in refused.detail
    assert [m.text for m in parse(row, drop_leading_answer=True).messages] == ["Hi", "Hello"]
    system = [{"from": "system", "value": text} for text in ("Be kind.", "Be short.")]
    row["conversations"] = [*system, *row["conversations"]]
    kept = parse(row, drop_leading_answer=True).messages
    assert [m.text for m in kept] == ["Be kind.", "Be short.", "Hi", "Hello"]


def _of_roles(roles):
    names = {"s": "system", "u": "user", "a": "assistant"}
    return parse({"messages": [{"role": names[role], "content": f"t{i}"} for i, role in enumerate(roles)]})


@pytest.mark.parametrize("roles", ["uaa", "uua", "uauuaa", "suaa", "ssua"])
def test_turns_of_one_role_in_a_row_are_kept_apart(roles):
    """Answers, questions and system turns, each with its text; every answer is trained on."""
    messages = _of_roles(roles).messages
    assert "".join(message.role[0] for message in messages) == roles
    assert [message.text for message in messages] == [f"t{i}" for i in range(len(roles))]
    assert all(message.train for message in messages)


@pytest.mark.parametrize(
    ("roles", "told"),
    [
        ("aua", "turn 0 is of the assistant, not of the user (drop_leading_answer would drop it)"),
        ("saaua", "turn 1 is of the assistant, not of the user (drop_leading_answer would drop it)"),
        ("sa", "turn 1 is of the assistant, not of the user"),
        ("uasua", "turn 2 is of the system, behind the first question"),
        ("uau", "the last turn is of the user; an answer has to follow"),
    ],
)
def test_turns_that_mean_nothing_where_they_stand_are_told(roles, told):
    """An answer before any question, an order in between, a question without an answer."""
    refused = _of_roles(roles)
    assert (refused.reason, refused.detail) == (Reason.WRONG_ROLE_ORDER, told)


@pytest.mark.parametrize(
    "flag", [{"loss": False}, {"loss_scale": 0.0}, {"loss_weight": 0}, {"train": False}, {"weight": 0}]
)
def test_an_answer_can_be_context_only(flag):
    """A turn that the source does not train on keeps its text and says so, in the stored row and in the key."""
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", **flag}]
    turns += [{"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Ciao", "loss": None, "weight": 1}]
    sample = parse({"messages": turns})
    assert [message.train for message in sample.messages] == [True, False, True, True]
    assert row_to_sample(samples_to_table([sample]).to_pylist()[0]) == sample
    plain = parse({"messages": [{"role": turn["role"], "content": turn["content"]} for turn in turns]})
    assert plain.content_hash != sample.content_hash


def test_flags_that_say_what_holds_anyway_change_nothing():
    """Zero on a question and one on an answer are the default: the same key as a row without flags."""
    weights = {"user": 0.0, "assistant": 1.0}
    turns = [{"role": role, "content": "Hi", "loss_weight": weight} for role, weight in weights.items()]
    assert parse({"messages": turns}) == parse({"messages": [{k: t[k] for k in ("role", "content")} for t in turns]})
    assert parse({"messages": turns}).content_hash == "82a5674b514ce745448a055a94c3960e"


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ({"loss_scale": 0.5}, Reason.UNSUPPORTED_WEIGHT),
        ({"loss_weight": 2}, Reason.UNSUPPORTED_WEIGHT),
        ({"loss": "false"}, Reason.UNSUPPORTED_WEIGHT),
        ({"loss_scale": [0.0, 1.0]}, Reason.UNSUPPORTED_WEIGHT),
        ({"weight": float("nan")}, Reason.UNSUPPORTED_WEIGHT),
        ({"loss": False}, Reason.NO_TRAINED_ANSWER),
    ],
)
def test_weights_that_cannot_be_honoured_refuse_the_row(flag, reason):
    """Neither rounded nor dropped: the row is refused, and so is one without anything to train on."""
    refused = parse({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo", **flag}]})
    assert refused.reason == reason
    assert next(iter(flag)) in refused.detail or reason == Reason.NO_TRAINED_ANSWER


def test_a_named_task_column_has_to_be_there():
    """A column that the user names must name a task in every row; the default column need not."""
    assert parse(talk("Hi", "Hello")).task == "unknown"
    assert parse(talk("Hi", "Hello", source="chat"), task_column="source").task == "chat"
    assert parse(talk("Hi", "Hello", source=3), task_column="source").task == "3"
    assert parse(talk("Hi", "Hello"), task_column="source").reason == Reason.MISSING_TASK


@pytest.mark.parametrize(
    ("path", "question", "task"),
    [
        ("coco/train2017/1.jpg", "What is this?", "llava_instruct"),
        ("coco/train2017/1.jpg", "Q\nAnswer the question using a single word or phrase.", "vqav2_okvqa"),
        ("coco/train2017/1.jpg", "Q\nAnswer with the option's letter from the given choices directly.", "aokvqa"),
        ("coco/train2017/1.jpg", "Please provide the bounding box coordinate of the region this sentence", "refcoco"),
        ("coco/train2017/1.jpg", "Please provide a short description for this region: [0, 0]", "refcoco"),
        ("gqa/images/1.jpg", "Q\nAnswer the question using a single word or phrase.", "gqa"),
        ("ocr_vqa/images/1.jpg", "Who wrote this book?", "ocrvqa"),
        ("textvqa/train_images/1.jpg", "Provide a one-sentence caption", "textcaps"),
        ("vg/VG_100K_2/1.jpg", "Please provide a short description for this region: [0, 0]", "visual_genome"),
        (None, "Write a poem.", "sharegpt"),
        ("other/1.jpg", "What?", "unknown"),
    ],
)
def test_the_task_map_of_llava_665k(path, question, task):
    """Folder and answer-format prompt tell the task of LLaVA's mixture."""
    row = talk(f"<image>\n{question}", "A", image=path) if path else talk(question, "A")
    assert parse(row, task_map=load_task_map("llava665k")).task == task
    assert parse({**row, "task": "own"}, task_map=load_task_map("llava665k")).task == "own"


def test_task_maps_of_the_user(tmp_path):
    """A map is read from YAML; a wrong one says where it is wrong."""
    (tmp_path / "map.yaml").write_text(
        "rules:\n  - {prefix: a/, task: first}\n  - {prompt_contains: x, task: second}\n"
    )
    rules = load_task_map(str(tmp_path / "map.yaml"))
    assert rules.task_of("a/1.jpg", "x", True) == "first"
    assert rules.task_of("b/1.jpg", "x", True) == "second"
    assert rules.task_of("b/1.jpg", "y", True) is None
    for text, message in (
        ("rules: []", "rules"),
        ("- a", "the file"),
        ("rules:\n  - {task: a}", "needs 'prefix'"),
        ("rules:\n  - {task: a, prefx: b}", r"rules\.0\.prefx"),
        ("rules: [", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
    ):
        with pytest.raises(UserError, match=message):
            parse_task_map(text, "m.yaml")
    with pytest.raises(UserError, match="Did you mean 'llava665k'"):
        load_task_map("llava665")
    with pytest.raises(UserError, match="does not exist"):
        load_task_map(str(tmp_path / "none.yaml"))


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["from", "value", "role", "content", "type", "text", "bytes", "path"]), inner)
    ),
    max_leaves=10,
)
FIELDS = ["id", "conversations", "messages", "texts", "image", "images", "task", "system"]


@given(st.dictionaries(st.sampled_from(FIELDS), VALUE) | VALUE)
def test_no_value_raises_and_every_result_can_be_stored(value):
    """Any value gives a sample that fits the schema or a reject that can be printed."""
    result = parse(value)
    if isinstance(result, Reject):
        assert len(result.to_row()["excerpt"]) <= 500
        assert result.to_row()["excerpt"].isprintable()
    else:
        samples_to_table([result])


def test_excerpts_are_short_for_any_row():
    """Huge strings, lists, bytes, depth and integers are cut; control characters are escaped."""
    deep = []
    for _ in range(5000):
        deep = [deep]
    for value in ("x" * 10**6, [1] * 10**6, {"a": b"x" * 10**6}, deep, 10**5000, "\x1b[2J\u202e<b>", b"\xff" * 9999):
        assert len(excerpt_of(value)) <= 500
        assert excerpt_of(value).isprintable()
    assert printable("a\x00\n\ud800", 100) == "a\\x00\\n\\ud800"


def test_options_are_checked():
    """Limits that make no sense are a user error."""
    with pytest.raises(UserError, match="max_turns is 1"):
        ParseOptions(max_turns=1)
