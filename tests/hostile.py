"""A dataset of good rows with hostile ones strewn in, and what has to become of each: for tests of whole stages.

``write_hostile_dataset(folder)`` writes ``data.jsonl`` and ``images/`` and says how many rows each reason has to
refuse and which keys have to survive. Everything is seeded; the same arguments write the same bytes.
"""

from __future__ import annotations

import io
import json
import os
import random
import struct
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from raycurate.samples.schema import ImageRef, Message, content_hash

TASKS = ("vqa", "caption", "chat")


@dataclass(frozen=True)
class HostileDataset:
    """What was written, and what has to come of it."""

    source: Path
    images: Path
    expected_reasons: dict[str, int]
    expected_keys: frozenset[str]
    expected_tasks: dict[str, int]

    @property
    def num_good(self) -> int:
        """Rows that have to survive."""
        return len(self.expected_keys)

    @property
    def num_hostile(self) -> int:
        """Rows that have to be refused."""
        return sum(self.expected_reasons.values())


def good_rows(num_rows: int, num_images: int, seed: int = 0) -> list[dict[str, Any]]:
    """Valid LLaVA rows: with an image, text-only, of several turns, of several images, and exact duplicates."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for i in range(num_rows):
        kind = rng.random()
        if kind < 0.05 and rows:
            rows.append({**rng.choice(rows), "id": f"copy-{i}"})
            continue
        text = rng.choice(["What is it?", 'Say "[{,}]" \\ "', "Schild \u00e9\u4e2d\U0001f600", "a\r\nb\tc", "<b>x</b>"])
        task = TASKS[2] if kind > 0.85 else TASKS[i % 2]
        images = [] if kind > 0.85 else sorted({image_name(rng.randrange(num_images)) for _ in range(1 + (kind > 0.8))})
        row: dict[str, Any] = {"id": i, "task": task}
        if images:
            row["image"] = images[0] if len(images) == 1 else images
        turns = [("human", "<image>\n" * len(images) + f"{text} {i}"), ("gpt", f"It is {rng.random():.3f}.")]
        if kind < 0.3:
            turns += [("human", "And then?"), ("gpt", "Nothing.")]
        row["conversations"] = [{"from": role, "value": value} for role, value in turns]
        rows.append(row)
    return rows


def image_name(number: int) -> str:
    """The path of a good image below the image root."""
    return f"coco/{number % 7}/{number:06d}.{'png' if number % 3 else 'jpg'}"


def write_images(root: Path, num_images: int, seed: int = 0) -> None:
    """The good images, some with alpha, a palette, CMYK or 16 bits, some under a wrong extension."""
    rng = random.Random(seed)
    for number in range(num_images):
        path = root / image_name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = tuple(rng.randrange(256) for _ in range(3))
        picture = Image.new("RGB", (24 + number % 9, 20 + number % 5), colour)
        mode = ("RGB", "RGBA", "P", "L", "CMYK")[number % 5]
        format_ = "JPEG" if mode in ("RGB", "CMYK") else "PNG"  # the extension does not always fit
        picture.convert(mode).save(path, format=format_)


def encoded(size: tuple[int, int] = (16, 16), format_: str = "PNG", seed: int = 0) -> bytes:
    """A small noisy picture (noise does not compress, so that cutting it loses pixels)."""
    rng = random.Random(seed)
    buffer = io.BytesIO()
    Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1])).save(buffer, format=format_)
    return buffer.getvalue()


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises ``width x height`` pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def write_bad_images(root: Path) -> None:
    """The images that hostile rows name, a secret outside the root and a link to it."""
    folder = root / "bad"
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "empty.jpg": b"",
        "text.jpg": b"this is not a picture",
        "flipped.png": _flip(encoded(), 60),
        "cut.jpg": encoded((64, 64), "JPEG")[:-900],
        "cut.png": encoded((64, 64))[:-900],
        "bomb.png": png_bomb(30_000, 30_000),
        "huge.png": png_bomb(12_000, 12_000),
        "vector.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "dot.png": encoded((1, 1)),
        "ribbon.png": encoded((900, 3)),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    secret = root.parent / "secret.png"
    secret.write_bytes(encoded())
    if not (folder / "link.png").is_symlink():
        os.symlink(secret, folder / "link.png")


def _flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def _talk(question: Any = "<image>\nWhat?", answer: Any = "It.", **row: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "hostile", "conversations": turns, **row}


def _turns(*turns: Any, **row: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": text} for role, text in turns], **row}


def _gpt(**flag: Any) -> dict[str, Any]:
    return {"from": "gpt", "value": "Hi", **flag}


def hostile_lines() -> list[tuple[str, bytes]]:
    """``(reason, line)`` of every kind of hostile row; the images are those of ``write_bad_images``."""
    good = image_name(0)
    objects: list[tuple[str, Any]] = [
        ("not_an_object", [1, 2]),
        ("not_an_object", "text"),
        ("not_an_object", None),
        ("missing_conversations", {"id": 1, "image": good}),
        ("missing_conversations", {"conversations": []}),
        ("missing_conversations", {"conversations": None}),
        ("wrong_type", {"conversations": "hello"}),
        ("wrong_type", {"conversations": ["hello"]}),
        ("wrong_type", _talk(image=7)),
        ("wrong_type", _talk(image=[[good]])),
        ("wrong_type", _talk(image=good, task={"a": 1})),
        ("wrong_type", _talk(image=good, images=[image_name(1)])),
        ("wrong_type", _talk([{"type": "thing"}], image=good)),
        ("wrong_type", {"conversations": "[{"}),
        ("unsupported_video", _talk([{"type": "video"}], image=good)),
        ("unsupported_video", _talk("<video>\nWhat?", video="a.mp4")),
        ("unsupported_video", _talk("<image>\nWhat?", video="a.mp4")),
        ("unsupported_video", _talk("<image>\n<video>\nWhat?", image=good, videos=["a.mp4"])),
        ("unsupported_video", _talk("What happens? <video>")),
        ("unsupported_video", _talk(image="clips/a.MP4")),
        ("unsupported_video", _talk([{"type": "video_url", "video_url": {"url": "a.mp4"}}])),
        ("unsupported_audio", _talk("<audio>Who speaks?", audios=["a.wav"])),
        ("unsupported_audio", _talk([{"type": "input_audio", "input_audio": {"data": "AA=="}}])),
        ("unsupported_audio", _talk("<audio>\nWho speaks?")),
        ("unsupported_grounding", _talk(image=good, objects={"ref": ["a cat"], "bbox": [[1, 2, 3, 4]]})),
        ("unsupported_grounding", _talk("<image>\nFind the <ref-object>", "<bbox>", image=good)),
        ("unsupported_tools", _talk("What?", tools='[{"name": "clock"}]')),
        ("unsupported_tools", _turns(("human", "Hi"), ("function_call", "{}"), ("observation", "1"), ("gpt", "1"))),
        ("unsupported_tools", {"messages": [{"role": "user", "content": "Hi"}, {"role": "tool", "content": "1"}]}),
        ("unsupported_media", _talk([{"type": "file", "file": "a.pdf"}, {"type": "text", "text": "What?"}])),
        ("unsupported_media", _talk("What?", point_cloud="a.ply")),
        ("several_answers", _talk("What?", ["This.", "That."])),
        ("unsupported_weight", {"conversations": [{"from": "human", "value": "Hi"}, _gpt(loss_scale=0.5)]}),
        ("no_trained_answer", {"conversations": [{"from": "human", "value": "Hi"}, _gpt(loss=False)]}),
        ("non_string_turn", _talk(None)),
        ("non_string_turn", _talk("What?", 42)),
        ("non_string_turn", _talk("What?", {"a": 1})),
        ("empty_turn", _talk("What?", "")),
        ("empty_turn", _talk(" \n\t ")),
        ("empty_turn", _talk("What?", "\u200b\ufeff")),
        ("unknown_role", _turns(("human", "Hi"), ("robot", "Hi"))),
        ("unknown_role", _turns(("human", "Hi"), (None, "Hi"))),
        ("unknown_role", _turns(("human", "Hi"), ({"a": 1}, "Hi"))),
        ("wrong_role_order", _turns(("gpt", "Hi"), ("human", "Hi"), ("gpt", "Hi"))),
        ("wrong_role_order", _turns(("system", "Hi"), ("gpt", "Hi"), ("human", "Hi"), ("gpt", "Hi"))),
        ("wrong_role_order", _turns(("human", "Hi"), ("gpt", "Hi"), ("human", "Hi"))),
        ("wrong_role_order", _turns(("human", "Hi"), ("system", "Hi"), ("gpt", "Hi"))),
        ("wrong_role_order", _turns(("human", "Hi"), ("gpt", "Hi"), ("gpt", "Hi"), ("human", "Hi"))),
        ("no_answer", _turns(("human", "Hi"))),
        ("no_answer", _turns(("system", "Hi"), ("human", "Hi"))),
        ("control_characters", _talk("What\x00?")),
        ("control_characters", _talk("What?", "\x1b[2J gone")),
        ("control_characters", _talk("What?", "It.", task="a\x07b")),
        ("invalid_utf8", _talk("What?", "lone \ud800 surrogate")),
        ("overlong", _talk("What?", "x" * 300_000)),
        ("overlong", _turns(*[("human", "a"), ("gpt", "b")] * 400)),
        ("overlong", {**_talk("What?"), "id": "i" * 5000}),
        ("too_many_images", _talk("<image>" * 100, image=[good] * 100)),
        ("image_mark_mismatch", _talk("What?", image=good)),
        ("image_mark_mismatch", _talk("<image>\nWhat?")),
        ("image_mark_mismatch", _talk("<image><image>\nWhat?", image=good)),
        ("image_mark_mismatch", _talk("<image>\nWhat?", image=[good, image_name(1)])),
        ("image_mark_mismatch", _talk("What?", "See <image>", image=good)),
        ("image_missing", _talk(image="coco/none.jpg")),
        ("image_missing", _talk(image="coco")),
        ("image_missing", _talk(image="")),
        ("image_missing", _talk(image=[None])),
        *(("image_path_escape", _talk(image=path)) for path in _ESCAPES),
        ("image_remote", _talk(image="https://example.org/a.png")),
        ("image_corrupt", _talk(image="data:image/png;base64,AAAA")),
        ("image_corrupt", _talk(image="data:image/png;base64,?")),
        ("image_corrupt", _talk(image={"bytes": "QUJD", "path": None})),
        ("image_unsupported", _talk(image="data:text/plain,hello")),
        *((reason, _talk(image=f"bad/{name}")) for reason, name in _BAD_IMAGES),
    ]
    lines = [(reason, json.dumps(value).encode()) for reason, value in objects]
    row = json.dumps(_talk(image=good)).encode()
    raw = [
        ("invalid_json", b"{"),
        ("invalid_json", row[:-1]),
        ("invalid_json", row.replace(b":", b";", 1)),
        ("invalid_json", b"not json at all"),
        ("invalid_json", b"[" * 100_000),
        ("invalid_json", b'{"id": ' + b"9" * 5000 + b"}"),
        ("invalid_json", row + row),
        ("invalid_utf8", row.replace(b"What", b"\xff\xfe")),
        ("invalid_utf8", row.replace(b"What", b"\xc3")),
    ]
    return lines + raw


_ESCAPES = (
    "/etc/passwd",
    "../secret.png",
    "coco/../../secret.png",
    "coco\\..\\..\\secret.png",
    "C:\\secret.png",
    "\\\\host\\share.png",
    "~/secret.png",
    "file:///etc/passwd",
    "s3://other/secret.png",
    "coco/a.png\x00.jpg",
    "bad/link.png",
)
_BAD_IMAGES = (
    ("image_corrupt", "empty.jpg"),
    ("image_corrupt", "text.jpg"),
    ("image_corrupt", "flipped.png"),
    ("image_truncated", "cut.jpg"),
    ("image_truncated", "cut.png"),
    ("image_bomb", "bomb.png"),
    ("image_bomb", "huge.png"),
    ("image_unsupported", "vector.png"),
    ("image_too_small", "dot.png"),
    ("image_too_narrow", "ribbon.png"),
)


def write_hostile_dataset(
    folder: Path, *, num_good: int = 4000, num_hostile: int = 1000, num_images: int = 150, seed: int = 0
) -> HostileDataset:
    """Write ``data.jsonl`` and ``images/`` into ``folder``: every kind of hostile row at least once, then at random."""
    images = folder / "images"
    write_images(images, num_images, seed)
    write_bad_images(images)
    rng = random.Random(seed + 1)
    kinds = hostile_lines()
    hostile = (kinds + rng.choices(kinds, k=max(0, num_hostile - len(kinds))))[:num_hostile]
    good = good_rows(num_good, num_images, seed)
    lines: list[bytes] = [json.dumps(row, ensure_ascii=bool(i % 2)).encode() for i, row in enumerate(good)]
    for _, line in hostile:
        lines.insert(rng.randrange(len(lines) + 1), line)
    source = folder / "data.jsonl"
    source.write_bytes(b"\xef\xbb\xbf" + b"\n".join(line + b"\r" * (i % 5 == 0) for i, line in enumerate(lines)))
    return HostileDataset(
        source=source,
        images=images,
        expected_reasons=dict(Counter(reason for reason, _ in hostile)),
        expected_keys=frozenset(keys_of(good)),
        expected_tasks=dict(Counter(row["task"] for row in good)),
    )


def keys_of(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The keys that LLaVA rows with image paths have to get, written down independently of the parser."""
    seen: Counter[str] = Counter()
    keys: list[str] = []
    for row in rows:
        roles = {"human": "user", "gpt": "assistant"}
        messages = [Message(roles[turn["from"]], turn["value"]) for turn in row["conversations"]]
        image = row.get("image", [])
        paths = [image] if isinstance(image, str) else image
        name = content_hash(messages, [ImageRef(path=path) for path in paths])
        keys.append(f"{name}-{seen[name]}")
        seen[name] += 1
    return keys
