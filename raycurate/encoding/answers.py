"""Which characters of a rendered conversation are answers, by construction, for any chat template.

The conversation is rendered twice: as it is, and with a marker in place of every text of the assistant. The pieces
between the markers are what the template writes; the first rendering must be those pieces with the answers (or the
answers without their outer white space, where a template trims) in between, to the last character. So no answer is
ever searched for in the text, and a row that does not come out even is refused as `unmaskable`, never blanked.

A turn's trained span begins where the template's generation prompt ends, so that the model learns what it will have
to write: after `ASSISTANT:` that is ` yes` with its space. It ends with the end-of-turn token, the first special token
that the template writes after an answer. A template that writes none (LLaVA-1.5's) gets the tokenizer's EOS there, as
LLaVA's own training does, or the model would never learn to stop. Turns after the last answer are left out.

Cost: two template renderings per row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycurate.encoding.conversation import ConversationRenderer, content_blocks
from raycurate.encoding.images import RowError, describe

_MARK = "zqjxanswer{}xjqz"
_PROBE = "zqjxprobexjqz"


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of rendered text. `answer` segments are trained on; each ends a turn."""

    text: str
    answer: bool


class AnswerRenderer(ConversationRenderer):
    """Renders conversations of one processor as segments."""

    def __init__(self, processor: Any) -> None:
        """`processor` is a transformers processor with a tokenizer and an `image_token`."""
        super().__init__(processor)
        self.lead, self.ending, self.appended = self._learn_frame()

    def segments(self, messages: Sequence[Mapping[str, str]]) -> list[Segment]:
        """Prompt and answer segments in order, the last one an answer.

        Raises:
            RowError: `template_error`, `no_answer`, or `unmaskable`.
        """
        turns = [{"role": m["role"], "content": content_blocks(m["text"])} for m in messages]
        marked, answers = _with_marks(turns)
        if not answers:
            raise RowError("no_answer", "the conversation has no assistant turn")
        text = self._show(turns)
        left_out = self.left_out(messages)
        if left_out:
            raise RowError("template_error", left_out)
        pieces = self._split(self._show(marked), sum(map(len, answers)))
        return self._cut(text, pieces, answers)

    def _cut(self, text: str, pieces: list[str], answers: list[list[str]]) -> list[Segment]:
        """Walk over the rendered text; `answers` has the text blocks of each answer."""
        segments: list[Segment] = []
        if not text.startswith(pieces[0]):
            raise RowError("unmaskable", "the template writes another prompt when the answers change")
        number, position, done = 0, len(pieces[0]), 0
        for blocks in answers:
            start = position - len(self.lead) if text[done:position].endswith(self.lead) else position
            for block in blocks:
                is_last_block = number == len(pieces) - 2
                position = _after_block(text, position, block, pieces[number + 1], is_last_block)
                stop, position = position, position + len(pieces[number + 1])
                number += 1
            if self.ending and text.startswith(self.ending, stop):
                stop += len(self.ending)
            segments += [Segment(text[done:start], False), Segment(text[start:stop] + self.appended, True)]
            done = stop
        return segments

    def _split(self, marked: str, num_blocks: int) -> list[str]:
        """The template's own text around the markers, which must each appear once, in order."""
        pieces = []
        for number in range(num_blocks):
            before, found, marked = marked.partition(_MARK.format(number))
            if not found:
                raise RowError("unmaskable", "the template does not show every answer")
            pieces.append(before)
        return [*pieces, marked]

    def _show(self, turns: list[dict[str, Any]], *, generation: bool = False) -> str:
        try:
            return self._render([turns])[0] if not generation else self._generation_prompt(turns)
        except Exception as error:  # a template may raise anything
            raise RowError("template_error", describe(error)) from error

    def _generation_prompt(self, turns: list[dict[str, Any]]) -> str:
        """What the model is given before it answers."""
        if self._processor.chat_template is not None:
            return str(self._processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        flat = [self._flatten(turn) for turn in turns]
        if getattr(self._tokenizer, "chat_template", None) is not None:
            return str(self._tokenizer.apply_chat_template(flat, tokenize=False, add_generation_prompt=True))
        return "\n".join([*(self._plain(turn) for turn in flat), "ASSISTANT:"])

    def _learn_frame(self) -> tuple[str, str, str]:
        """(white space between the generation prompt and an answer, what ends a turn, what must be added there)."""
        user = {"role": "user", "content": content_blocks("a")}
        reply = {"role": "assistant", "content": content_blocks(_PROBE)}
        whole = self._show([user, reply])
        before, found, after = whole.partition(_PROBE)
        lead = ""
        if found:
            prompt = self._show([user], generation=True)
            rest = before[len(prompt) :] if before.startswith(prompt) and len(prompt) > 0 else ""
            lead = rest if not rest.strip() else ""
        ending = self._through_first_special(after)
        eos = self._tokenizer.eos_token
        return lead, ending, "" if ending or eos is None else eos

    def _through_first_special(self, text: str) -> str:
        """`text` up to the end of its first special token; empty where it has none."""
        tokens = self._tokenizer.get_added_vocab()
        found = [(text.index(token), -len(token), token) for token in tokens if token in text]
        if not found:
            return ""
        at, _, token = min(found)
        return text[: at + len(token)]


def _with_marks(turns: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """The turns with numbered markers for the assistant's texts, and those texts by turn."""
    marked: list[dict[str, Any]] = []
    answers: list[list[str]] = []
    number = 0
    for turn in turns:
        if turn["role"] != "assistant":
            marked.append(turn)
            continue
        texts, content = [], []
        for block in turn["content"]:
            if block["type"] == "text":
                texts.append(block["text"])
                block = {"type": "text", "text": _MARK.format(number)}
                number += 1
            content.append(block)
        marked.append({"role": "assistant", "content": content})
        if not texts:
            raise RowError("unmaskable", "an answer has no text")
        answers.append(texts)
    return marked, answers


def _after_block(text: str, position: int, block: str, piece: str, is_last: bool) -> int:
    """Where an answer's text ends, which begins at `position` and is followed by the template's `piece`."""
    for shown in dict.fromkeys((block, block.strip(), block.rstrip(), block.lstrip())):
        stop = position + len(shown)
        if not text.startswith(shown, position) or not text.startswith(piece, stop):
            continue
        if not is_last or stop + len(piece) == len(text):
            return stop
    raise RowError("unmaskable", "the template changes the text of an answer")
