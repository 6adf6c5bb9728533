"""Conversations to the text that a model was trained to read, and where its template ends and the user begins.

Each `<image>` mark becomes an image block at its place; line breaks that touch a mark belong to the mark
(LLaVA files write `<image>\\n`) and are dropped, as templates write their own. The conversation is then rendered by the
processor's chat template, or by the tokenizer's, or, where a model has neither, as plain
`USER: ...\\nASSISTANT: ...` lines with the model's image token.

A template may leave turns out without a word (Qwen3-VL's all system turns but the first): each order of roles is
rendered once with markers as texts, and one that does not come back whole refuses its rows.

The prefix of a rendered conversation is everything before the content of the first turn that is not a system turn:
BOS, the system prompt, the role header. It is found by construction, never by a count of tokens: the template is
rendered once more with a marker as the first content (with and without an image before it) and the text that both
renderings share in front of the marker is the prefix. One extra rendering per distinct system prompt, cached.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping, Sequence
from typing import Any

IMAGE_MARK = "<image>"
_MARKER = "zqjxmarkerxjqz"
_MAX_CACHED_PREFIXES = 4096
_MAX_CACHED_ORDERS = 4096


class LeftOutError(ValueError):
    """A conversation of which the chat template does not show every turn."""


Message = Mapping[str, str]
Turn = dict[str, Any]


def content_blocks(text: str) -> list[dict[str, str]]:
    """Text with `<image>` marks to content blocks in order; blocks of line breaks only are dropped."""
    pieces = text.split(IMAGE_MARK)
    blocks: list[dict[str, str]] = []
    for i, piece in enumerate(pieces):
        if i > 0:
            blocks.append({"type": "image"})
            piece = piece.lstrip("\r\n")
        if i < len(pieces) - 1:
            piece = piece.rstrip("\r\n")
        if piece:
            blocks.append({"type": "text", "text": piece})
    return blocks or [{"type": "text", "text": ""}]


def count_marks(messages: Sequence[Message]) -> int:
    """`<image>` marks in all turns."""
    return sum(message["text"].count(IMAGE_MARK) for message in messages)


class ConversationRenderer:
    """Renders conversations with one processor's template."""

    def __init__(self, processor: Any) -> None:
        """`processor` is a transformers processor with a tokenizer and an `image_token`."""
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._image_token: str = processor.image_token
        self._prefixes: dict[tuple[str, ...], str] = {}
        self._left_out: dict[tuple[str, ...], str] = {}

    def render_all(self, conversations: Sequence[Sequence[Message]]) -> list[str | Exception]:
        """One text per conversation, or the error that its template raised."""
        turns = [[{"role": m["role"], "content": content_blocks(m["text"])} for m in c] for c in conversations]
        try:
            rendered: list[str | Exception] = list(self._render(turns))
        except Exception:  # noqa: BLE001 - a template may raise anything; find the row that made it raise
            rendered = [self._render_one(each) for each in turns]
        told = [self.left_out(each) for each in conversations]
        return [LeftOutError(t) if t and isinstance(r, str) else r for r, t in zip(rendered, told, strict=True)]

    def left_out(self, messages: Sequence[Message]) -> str:
        """Which turn of a conversation with these roles the template does not show, in words; '' where it shows all."""
        roles = tuple(message["role"] for message in messages)
        if roles not in self._left_out:
            if len(self._left_out) >= _MAX_CACHED_ORDERS:
                self._left_out.clear()
            self._left_out[roles] = self._find_left_out(roles)
        return self._left_out[roles]

    def prefix_length(self, messages: Sequence[Message], rendered: str) -> int:
        """Characters of `rendered` that come before the first content."""
        prefix = self._prefix(messages)
        if rendered.startswith(prefix):
            return len(prefix)
        return len(os.path.commonprefix([rendered, prefix]))

    def adds_special_tokens(self) -> bool:
        """Whether the tokenizer must add BOS itself because the template does not write it."""
        bos = self._tokenizer.bos_token
        probe = self._render_one([{"role": "user", "content": [{"type": "text", "text": _MARKER}]}])
        return bos is None or isinstance(probe, Exception) or not probe.startswith(bos)

    def image_wrapper(self) -> str:
        """What the template writes around an image besides the image token, such as `<|vision_start|>`."""
        marker = {"type": "text", "text": _MARKER}
        plain = self._render_one([{"role": "user", "content": [marker]}])
        shown = self._render_one([{"role": "user", "content": [{"type": "image"}, marker]}])
        if isinstance(plain, Exception) or isinstance(shown, Exception) or _MARKER not in shown:
            return ""
        shared = len(os.path.commonprefix([plain, shown]))
        return shown[shared : shown.index(_MARKER)].replace(self._image_token, "")

    def _find_left_out(self, roles: Sequence[str]) -> str:
        texts = [f"zqjx{turn}xjqz" for turn in range(len(roles))]
        contents = [[{"type": "text", "text": text}] for text in texts]
        shown = self._render_one([{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)])
        if isinstance(shown, Exception):  # the rows themselves will tell
            return ""
        missing = next((turn for turn, text in enumerate(texts) if text not in shown), None)
        return "" if missing is None else f"the chat template leaves out turn {missing}, of the {roles[missing]}"

    def _render_one(self, turns: list[Turn]) -> str | Exception:
        try:
            return self._render([turns])[0]
        except Exception as error:  # noqa: BLE001 - reported as this row's failure
            return error

    def _render(self, conversations: list[list[Turn]]) -> list[str]:
        if self._processor.chat_template is not None:
            return self._processor.apply_chat_template(conversations, tokenize=False)
        flat = [[self._flatten(turn) for turn in turns] for turns in conversations]
        if getattr(self._tokenizer, "chat_template", None) is not None:
            return self._tokenizer.apply_chat_template(flat, tokenize=False)
        return ["\n".join(self._plain(turn) for turn in turns) for turns in flat]

    def _flatten(self, turn: Turn) -> Turn:
        """Content blocks to one string, with the model's image token for images."""
        parts = [self._image_token + "\n" if b["type"] == "image" else b["text"] for b in turn["content"]]
        return {"role": turn["role"], "content": "".join(parts)}

    @staticmethod
    def _plain(turn: Turn) -> str:
        names = {"user": "USER: ", "assistant": "ASSISTANT: "}
        return names.get(turn["role"], "") + turn["content"]

    def _prefix(self, messages: Sequence[Message]) -> str:
        num_system = 0
        while num_system < len(messages) - 1 and messages[num_system]["role"] == "system":
            num_system += 1
        key = (messages[num_system]["role"], *(m["text"] for m in messages[:num_system]))
        if key not in self._prefixes:
            if len(self._prefixes) >= _MAX_CACHED_PREFIXES:
                self._prefixes.clear()
            self._prefixes[key] = self._find_prefix(messages[:num_system], messages[num_system]["role"])
        return self._prefixes[key]

    def _find_prefix(self, system: Sequence[Message], role: str) -> str:
        """The text that every conversation with this system prompt starts with."""
        head = [{"role": m["role"], "content": content_blocks(m["text"])} for m in system]
        reply = {"role": "assistant" if role == "user" else "user", "content": [{"type": "text", "text": "a"}]}
        marker = {"type": "text", "text": _MARKER}
        found = []
        for first in ([marker], [{"type": "image"}, marker]):
            text = self._render_one([*head, {"role": role, "content": first}, reply])
            if isinstance(text, str) and _MARKER in text:
                found.append(text[: text.index(_MARKER)])
        return os.path.commonprefix(found) if found else ""
