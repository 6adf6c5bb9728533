"""What runs in vLLM's own environment: a model, prompts by standard input, token ids by standard output.

Runs as a script and imports nothing of this package, as vLLM's environment has other versions of what it needs.
A message is its length in eight bytes, little end first, and JSON; the pixels of the images that it names follow it,
three bytes each. The first message is {"engine": arguments of `vllm.LLM`, "sampling": of `SamplingParams`}, each other
one {"prompts": [[ids, [places of images]], ...], "images": [[width, height], ...]}. The answer to each is {"ids":
[...]}, or {"error": text}, after which nothing is read any more. It ends with its standard input, and with its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import IO, Any

PR_SET_PDEATHSIG = 1


def read_message(stream: IO[bytes]) -> dict[str, Any] | None:
    """The next message without its images, None at the end."""
    length = stream.read(8)
    return json.loads(stream.read(int.from_bytes(length, "little"))) if len(length) == 8 else None


def write_message(stream: IO[bytes], message: dict[str, Any]) -> None:
    """Write a message; images are the caller's to write behind it."""
    data = json.dumps(message).encode()
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the model in this process, where it ends with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # an exit ends the processes that vLLM may have started
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    asked = sys.stdin.buffer
    start = read_message(asked)
    if start is None:
        return
    try:
        import vllm
        from PIL import Image

        engine, sampling = vllm.LLM(**start["engine"]), vllm.SamplingParams(**start["sampling"])
        write_message(answers, {"ids": []})
        while (message := read_message(asked)) is not None:
            sizes = [(width, height) for width, height in message["images"]]
            images = [Image.frombytes("RGB", size, asked.read(3 * size[0] * size[1])) for size in sizes]
            prompts = []
            for ids, shown in message["prompts"]:
                seen = {"multi_modal_data": {"image": [images[place] for place in shown]}} if shown else {}
                prompts.append({"prompt_token_ids": ids, **seen})
            made = engine.generate(prompts, sampling, use_tqdm=False)
            write_message(answers, {"ids": [list(each.outputs[0].token_ids) for each in made]})
    except Exception as error:  # noqa: BLE001 - whatever vLLM raises is told to who asked
        lines = str(error).splitlines() or [""]
        write_message(answers, {"error": f"{type(error).__name__}: {lines[0][:500]}"})


if __name__ == "__main__":
    main()
