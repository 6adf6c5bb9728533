"""Rows of tables, in which a question and its answer are columns, as rows of turns.

    layout                          question      below it   answer                        images
    M3IT                            instruction   inputs     outputs                       image_base64_str
    Alpaca (LLaMA-Factory)          instruction   input      output                        image(s)
    ms-swift                        query                    response                      image(s)
    TRL                             prompt                   completion                    image(s)
    visual question answering       question                 answer, answers               image(s)

The first layout whose question and answer are there is taken; any other table by `columns`, which name what holds
what (`question=q,answer=a.text`: a dot goes into an object). A row that has turns is no table. Question, answer and
what stands below the question are texts, or lists of turns (TRL). Several different answers are refused: which of
them is meant is not said. Where no text has an image mark, the images stand in front of the first question.

Cost: a few dictionary look-ups a row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from raycurate.errors import UserError, unknown_name
from raycurate.samples.quarantine import FaultError, Reason
from raycurate.samples.unsupported import is_nothing

TURN_FIELDS = ("conversations", "messages", "texts")
FIELDS = ("question", "answer", "input", "system", "history", "image", "conversations", "id", "task")
"""What `columns` can name. `input` stands below the question; `conversations` are turns under another name."""
_ALSO = ("system", "history")
_IMAGES = ("image", "images", "image_base64_str")


@dataclass(frozen=True, slots=True)
class _Layout:
    question: str
    answers: tuple[str, ...]
    below: str | None = None

    def answer_of(self, names: Collection[str]) -> str | None:
        """The column of the answer, where this is the layout of a table with these columns."""
        if self.question not in names:
            return None
        return next((name for name in self.answers if name in names), None)


_LAYOUTS = (
    _Layout("instruction", ("outputs",), "inputs"),
    _Layout("instruction", ("output",), "input"),
    _Layout("query", ("response",)),
    _Layout("prompt", ("completion",)),
    _Layout("question", ("answer", "answers")),
)


def columns_of_table(names: Collection[str]) -> dict[str, str]:
    """Field -> column of a table that is known by its columns; nothing for rows of turns and unknown tables."""
    if not set(TURN_FIELDS).isdisjoint(names):
        return {}
    for layout in _LAYOUTS:
        if answer := layout.answer_of(names):
            found = {"question": layout.question, "answer": answer}
            if layout.below in names:
                found["input"] = str(layout.below)
            image = next((name for name in _IMAGES if name in names), None)
            return {**found, **({"image": image} if image else {}), **{name: name for name in _ALSO if name in names}}
    return {}


def check_columns(columns: Mapping[str, str]) -> None:
    """Raise `UserError` for a mapping of columns that makes no conversation."""
    for name in columns:
        if name not in FIELDS:
            raise unknown_name("field of columns", name, FIELDS)
    if columns and "conversations" not in columns and not {"question", "answer"} <= columns.keys():
        raise UserError(
            f"columns names {', '.join(columns)}; a conversation needs question and answer, or conversations: "
            "--columns question=COLUMN,answer=COLUMN,image=COLUMN"
        )


def as_turns(row: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[Mapping[str, Any], bool]:
    """A row of turns, and whether it was a table. Raises ``FaultError`` for a table without a question or an answer.

    Args:
        row: as it was read.
        columns: field -> column, as the user names them; empty: known tables are told by their columns.
    """
    named = columns or columns_of_table(row)
    if not named:
        return row, False
    values = {field: value_at(row, column) for field, column in named.items()}
    made = {name: value for name, value in row.items() if name not in named.values()}
    made.update({name: value for name, value in values.items() if name in ("id", "task", "system")})
    if "image" in named:
        made.pop("images", None)
        made["image"] = _images(values["image"], named["image"])
    if "conversations" in named:
        for name in TURN_FIELDS:
            made.pop(name, None)
        return {**made, "conversations": values["conversations"]}, True
    made.pop("conversations", None)
    return {**made, "messages": _turns(values, named)}, True


def used_columns(row: Mapping[str, Any], columns: Mapping[str, str]) -> set[str]:
    """The columns of a row that its turns are made of, where it is a table."""
    return {part for name in (columns or columns_of_table(row)).values() for part in (name, name.split(".")[0])}


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column; a dot in its name goes into an object where no column has the whole name."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _turns(values: Mapping[str, Any], named: Mapping[str, str]) -> list[Any]:
    turns: list[Any] = []
    history = values.get("history")
    if not is_nothing(history):
        if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
            raise FaultError(Reason.WRONG_TYPE, f"'{named['history']}' is no list of pairs of question and answer")
        turns += [turn for pair in history for turn in (_turn("user", pair[0]), _turn("assistant", pair[1]))]
    for field, role in (("question", "user"), ("answer", "assistant")):
        value = values[field]
        if is_nothing(value) and not isinstance(value, str):
            raise FaultError(Reason.MISSING_CONVERSATIONS, f"the row has no '{named[field]}', its {field}")
        if isinstance(value, list) and value and all(isinstance(each, Mapping) and "role" in each for each in value):
            turns += value
            continue
        text = _answer(value, named[field]) if field == "answer" else value
        below = values.get("input")
        if field == "question" and isinstance(below, str) and below.strip():
            text = below if isinstance(text, str) and not text.strip() else f"{text}\n{below}"
        turns.append(_turn(role, text))
    return turns


def _turn(role: str, text: Any) -> dict[str, Any]:
    return {"role": role, "content": text}


def _answer(value: Any, column: str) -> Any:
    """The one answer: of a list its only or its every element; a whole number as its digits."""
    if isinstance(value, list):
        texts = [each.get("answer") if isinstance(each, Mapping) else each for each in value]
        different = [text for i, text in enumerate(texts) if text not in texts[:i]]
        if len(different) > 1:
            detail = f"'{column}' holds {len(different)} different answers: which of them is meant is not said"
            raise FaultError(Reason.SEVERAL_ANSWERS, detail)
        value = different[0] if different else None
    if isinstance(value, float) and value.is_integer():  # whole numbers in a column with a gap, as pandas writes them
        value = int(value)
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _images(value: Any, column: str) -> Any:
    """Image references; in a column that says so they are base64, however short."""
    if "base64" not in column.lower():
        return value
    values = value if isinstance(value, list) else [value]
    return [{"bytes": each, "path": None} if isinstance(each, str) and each.strip() else each for each in values]
