"""The turns of a raw row as messages: field names, roles, content blocks, loss flags and the order of roles.

A flag of a turn (``WEIGHT_FIELDS``) is honoured where it says yes or no; any other weight is refused, since the loss
has none per turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycurate.samples.marks import VIDEO_MARK, Block, join_blocks, take_tags
from raycurate.samples.parse_images import reference_in
from raycurate.samples.parse_videos import VIDEO_BLOCKS, VIDEO_COLUMNS, videos_of
from raycurate.samples.quarantine import FaultError, Reason
from raycurate.samples.schema import Message
from raycurate.samples.tables import TURN_FIELDS
from raycurate.samples.unsupported import refuse_block, refuse_columns, refuse_marks, refuse_role

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
WEIGHT_FIELDS = ("loss", "loss_scale", "loss_weight", "train", "weight")
"""Spellings of "train on this answer": ms-swift's first two, LLaMA-Factory's, Axolotl's, OpenAI's."""
_WEIGHTS = frozenset(WEIGHT_FIELDS)
IMAGE_BLOCKS = ("image", "image_url", "input_image")
_TEXT_BLOCKS = ("text", "input_text", "output_text")
_TYPELESS = ("text", "image", "image_url", "video", "audio")


@dataclass(frozen=True, slots=True)
class Turns:
    """Messages, the references that stand inside content blocks, and whether the format has no marks."""

    messages: tuple[Message, ...]
    inline_images: tuple[Any, ...]
    marks_are_implied: bool
    videos: tuple[Any, ...] = ()
    """Of columns or content blocks, where videos are read."""


@dataclass(frozen=True, slots=True)
class _Inline:
    """References that stand inside content blocks, in their order; no list where videos are not read."""

    images: list[Any]
    videos: list[Any] | None


def collect_turns(row: Mapping[str, Any], *, max_turns: int, drop_leading_answer: bool, videos: bool = False) -> Turns:
    """The conversation of a row. Raises ``FaultError``, also for a video unless ``videos`` are read."""
    refuse_columns(row, "the row", VIDEO_COLUMNS if videos else ())
    there = [field for field in TURN_FIELDS if row.get(field) is not None]
    name = next((field for field in there if row[field]), there[0] if there else None)
    if name is None:
        raise FaultError(Reason.MISSING_CONVERSATIONS, _what_is_there(row))
    raw_turns = _turn_list(row[name], name)
    if len(raw_turns) > max_turns:
        raise FaultError(Reason.OVERLONG, f"the row has {len(raw_turns)} turns; at most {max_turns} are accepted")
    inline = _Inline([], [] if videos else None)
    messages = [message for turn in raw_turns for message in _messages(turn, name, inline)]
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise FaultError(Reason.WRONG_TYPE, f"'system' is of type {type(system).__name__}, not a text")
    if system and system.strip() and messages[0].role != "system":
        messages.insert(0, Message("system", system))
    if drop_leading_answer:
        messages = _without_leading_answer(messages)
    _check_roles([message.role for message in messages])
    shown = videos_of(row, inline.videos) if inline.videos is not None else []
    refuse_marks(messages, videos=bool(shown))
    if not any(message.train for message in messages if message.role == "assistant"):
        raise FaultError(Reason.NO_TRAINED_ANSWER, "every answer is marked as not trained on; nothing is left to learn")
    implied = name == "texts" and not any("role" in turn or "from" in turn for turn in raw_turns)
    return Turns(tuple(messages), tuple(inline.images), implied, tuple(shown))


def _what_is_there(row: Mapping[str, Any]) -> str:
    """Why a row has no conversation: what it has instead."""
    inside = next((name for name, value in row.items() if _are_rows(value)), None)
    if inside is not None:
        return f"the row is an object around rows, which are in '{str(inside)[:40]}': write these as one array [...]"
    names = [str(name)[:40] for name in row][:12]
    found = f"it has {', '.join(names)}" if names else "it is empty"
    if {"prompts", "captions"} <= row.keys():  # LLaVA-OneVision-1.5's
        return f"{found}: several rows packed into one. Read the shards that were packed"
    return (
        f"the row has no 'conversations', 'messages' or 'texts'; {found}. Other tables are read by "
        "--columns question=COLUMN,answer=COLUMN,image=COLUMN, or by a function of yours, --row module:function"
    )


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and any(
        isinstance(v, Mapping) and not v.keys().isdisjoint(TURN_FIELDS) for v in value
    )


def _turn_list(value: Any, name: str) -> list[Any]:
    """The turns as a list; ``datasets`` may store a list of objects as an object of lists."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise FaultError(Reason.WRONG_TYPE, f"'{name}' is a text that is no JSON: {error}") from None
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        columns = list(value.values())
        if len({len(column) for column in columns}) == 1:
            value = [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    if not isinstance(value, list):
        raise FaultError(Reason.WRONG_TYPE, f"'{name}' is of type {type(value).__name__}, not a list of turns")
    if not value:
        raise FaultError(Reason.MISSING_CONVERSATIONS, f"'{name}' is an empty list")
    return value


def _messages(turn: Any, name: str, inline: _Inline) -> list[Message]:
    """One turn (two messages for a question with its answer, in ``texts``)."""
    if not isinstance(turn, dict):
        raise FaultError(Reason.WRONG_TYPE, f"a turn of '{name}' is not an object")
    if name == "texts":
        refuse_columns(turn, "a turn")
        if "role" in turn or "from" in turn:  # Megatron-Energon's: turns under the name of The Cauldron's pairs
            return _messages(turn, "messages", inline)
        pairs = [("user", turn.get("user")), ("assistant", turn.get("assistant"))]
        return [Message(role, _text(content, role, inline), _trained(turn, role)) for role, content in pairs]
    role = turn["from"] if turn.get("from") is not None else turn.get("role")
    known = _ROLES.get(role.lower()) if isinstance(role, str) else None
    refuse_columns(turn, "a turn")
    if known is None:
        refuse_role(role)
        allowed = ", ".join(_ROLES)
        raise FaultError(Reason.UNKNOWN_ROLE, f"a turn has the role {str(role)[:40]!r}; known are {allowed}")
    content = turn["value"] if turn.get("value") is not None else turn.get("content")
    return [Message(known, _text(content, known, inline), _trained(turn, known))]


def _trained(turn: Mapping[str, Any], role: str) -> bool:
    """Whether a turn is trained on. Always True for what is no answer, where a flag may only say what holds anyway."""
    train = True
    if _WEIGHTS.isdisjoint(turn):
        return train
    for name in WEIGHT_FIELDS:
        weight = turn.get(name)
        if weight is None:
            continue
        if not isinstance(weight, (bool, int, float)) or weight not in (0, 1):
            shown = f"{weight:g}" if isinstance(weight, float) else repr(weight)[:40]
            detail = f"a turn of the {role} has {name} = {shown}; only 0 and 1 (false and true) can be honoured"
            raise FaultError(Reason.UNSUPPORTED_WEIGHT, detail)
        if name == "loss_weight" and weight and role != "assistant":
            detail = f"a turn of the {role} has loss_weight = 1; only answers are trained on: write 0 or leave it out"
            raise FaultError(Reason.UNSUPPORTED_WEIGHT, detail)
        train = train and bool(weight)
    return train or role != "assistant"


def _text(content: Any, role: str, inline: _Inline) -> str:
    if isinstance(content, str):
        return take_tags(content, inline.images) if role == "user" else content
    if isinstance(content, list) and len(content) > 1 and all(isinstance(each, str) for each in content):
        detail = f"a turn has a list of {len(content)} texts: which of them is meant is not said"
        raise FaultError(Reason.SEVERAL_ANSWERS, detail)
    if not isinstance(content, list):
        raise FaultError(Reason.NON_STRING_TURN, f"the text of a turn is of type {type(content).__name__}")
    return join_blocks([_block(block, inline) for block in content])


def _block(block: Any, inline: _Inline) -> Block:
    """A content block as text, or None for an image; a reference inside it goes to ``inline``."""
    if isinstance(block, str):
        return block
    kind = block_type(block)
    if kind in _TEXT_BLOCKS:
        text = block["text"] if block.get("text") is not None else block.get("value")
        if not isinstance(text, str):
            raise FaultError(Reason.NON_STRING_TURN, "a text block has no text")
        return text
    if inline.videos is not None and kind in VIDEO_BLOCKS:
        inline.videos.append(reference_in(block))
        return VIDEO_MARK
    refuse_block(kind)
    if kind not in IMAGE_BLOCKS:
        raise FaultError(Reason.WRONG_TYPE, f"a content block has the type {str(kind)[:40]!r}; known are text, image")
    reference = reference_in(block)
    if reference is not None:
        inline.images.append(reference)
    return None


def block_type(block: Any) -> Any:
    """The type of a content block: what it says, or the one thing that it has (Qwen's ``{"image": ...}``)."""
    if not isinstance(block, Mapping):
        return None
    if block.get("type") is not None:
        return block["type"]
    there = [name for name in _TYPELESS if block.get(name) is not None]
    return there[0] if len(there) == 1 else None


def _without_leading_answer(messages: list[Message]) -> list[Message]:
    num_system = _leading_system([message.role for message in messages])
    head, rest = messages[:num_system], messages[num_system:]
    first = next((i for i, message in enumerate(rest) if message.role == "user"), 0)
    return head + rest[first:]


def _leading_system(roles: Sequence[str]) -> int:
    """System turns before the first other turn."""
    return next((turn for turn, role in enumerate(roles) if role != "system"), len(roles))


def _check_roles(roles: Sequence[str]) -> None:
    """System turns or none, a question, then turns of both in any order, ending with an answer."""
    if "assistant" not in roles:
        raise FaultError(Reason.NO_ANSWER, "the conversation has no answer of the assistant")
    first = _leading_system(roles)
    if roles[first] != "user":
        hint = " (drop_leading_answer would drop it)" if "user" in roles else ""
        raise FaultError(Reason.WRONG_ROLE_ORDER, f"turn {first} is of the assistant, not of the user{hint}")
    if "system" in roles[first:]:
        turn = roles.index("system", first)
        raise FaultError(Reason.WRONG_ROLE_ORDER, f"turn {turn} is of the system, behind the first question")
    if roles[-1] != "assistant":
        raise FaultError(Reason.WRONG_ROLE_ORDER, "the last turn is of the user; an answer has to follow")
