"""The text of the tiny model's pretraining: questions and answers about procedural scenes, and text alone.

Every row is drawn from (seed, index) alone, so any part of the corpus can be made again anywhere. A row holds
one scene and up to five turns about it; the answers come from the scene's ground truth. The skills: shape and
colour names, presence, counting, position, size, comparison, captions, boxes, reading numbers and arithmetic
on them; without an image: arithmetic, sorting, opposites, number words, repeating. Nothing here is taken from
a third-party dataset, so finetunes on one stay a fair experiment.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from raycurate.models.tiny.scenes import COLORS, SHAPES, SIDE, Scene, Thing, digits_scene, shapes_scene

Turn = tuple[str, str]

_NUMBER_TEXT = "zero one two three four five six seven eight nine ten"
_WORD_TEXT = """
apple bird boat book cat car chair cloud cup dog door fish flower fox glass grass hand hat horse house key lamp leaf
lion moon mouse nest orange paper pen plant queen rain ring river road rock rose ship shoe snow star stone
sun table tiger train tree water wind window wolf zebra
"""
_NUMBERS = tuple(_NUMBER_TEXT.split())
_WORDS = tuple(_WORD_TEXT.split())
_OPPOSITES = (
    ("up", "down"), ("big", "small"), ("left", "right"), ("hot", "cold"), ("fast", "slow"), ("high", "low"),
    ("open", "closed"), ("light", "dark"), ("near", "far"), ("old", "new"), ("top", "bottom"), ("yes", "no"),
)  # fmt: skip
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")


@dataclass(frozen=True, slots=True)
class CorpusRow:
    """One row of the corpus: an image of `SIDE` x `SIDE` pixels or none, its skill, and its turns in order."""

    image: Image.Image | None
    skill: str
    turns: tuple[Turn, ...]
    things: tuple[Thing, ...] = ()


def corpus_row(seed: int, index: int) -> CorpusRow:
    """Make row `index` of the corpus of `seed`; rows do not depend on each other."""
    rng = random.Random(f"{seed}:{index}")
    skill = rng.choices(tuple(_MAKERS), weights=[weight for _, weight in _MAKERS.values()])[0]
    return _MAKERS[skill][0](rng)


def picture_row(seed: int, index: int) -> CorpusRow:
    """Make row `index` of what teaches the vision tower: rows of the corpus with an image, half of them digits."""
    rng = random.Random(f"picture:{seed}:{index}")
    skills = ("single", "several", "numbers", "two_numbers")
    return _MAKERS[rng.choices(skills, weights=(3, 2, 3, 2))[0]][0](rng)


def naming_row(seed: int, index: int) -> CorpusRow:
    """Make row `index` of the first lessons of `seed`: one object, two short questions about what it is."""
    rng = random.Random(f"naming:{seed}:{index}")
    if rng.random() < 0.25:
        digit = rng.choice("0123456789")
        scene = digits_scene(rng, [digit])
        return CorpusRow(scene.image, "naming", (("read the number.", digit),), scene.things)
    scene = shapes_scene(rng, 1)
    turns = [maker(rng, scene) for maker in rng.sample((_name, _tint, _presence), 2)]
    return CorpusRow(scene.image, "naming", tuple(turns), scene.things)


def presence_row(seed: int, index: int) -> CorpusRow:
    """Make row `index` of the second lessons of `seed`: one object, six questions whether it is this or that."""
    rng = random.Random(f"presence:{seed}:{index}")
    scene = shapes_scene(rng, 1)
    return CorpusRow(scene.image, "presence", tuple(_presence(rng, scene) for _ in range(6)), scene.things)


def theme_row(seed: int, index: int) -> CorpusRow:
    """Make row `index` of the third lessons of `seed`: turns of one kind, learned faster than a mixture."""
    rng = random.Random(f"theme:{seed}:{index}")
    theme = rng.choices(tuple(_THEMES), weights=[weight for _, weight in _THEMES.values()])[0]
    return _THEMES[theme][0](rng)


def format_box(thing: Thing) -> str:
    """Return the box as "[x1, y1, x2, y2]", fractions of the image side with two decimals."""
    return "[" + ", ".join(f"{v / SIDE:.2f}" for v in thing.box) + "]"


def position_name(thing: Thing) -> str:
    """Return the third of the image that holds the middle of the thing, as in "top left" or "middle center"."""
    x, y = thing.center
    return f"{_ROWS[min(2, int(3 * y / SIDE))]} {_COLUMNS[min(2, int(3 * x / SIDE))]}"


def size_name(thing: Thing) -> str:
    """Return small, medium or large by the longer side of the thing."""
    side = max(thing.box[2] - thing.box[0], thing.box[3] - thing.box[1])
    return "small" if side < 16 else "medium" if side < 26 else "large"


def _single(rng: random.Random) -> CorpusRow:
    scene = shapes_scene(rng, 1)
    makers = (_name, _name, _tint, _tint, _presence, _presence, _presence, _absence, _place, _extent, _caption, _box)
    turns = [maker(rng, scene) for maker in rng.sample(makers, 5)]
    return CorpusRow(scene.image, "single", tuple(turns), scene.things)


def _several(rng: random.Random) -> CorpusRow:
    scene = shapes_scene(rng, rng.choice((2, 2, 2, 3, 3, 4, 4, 5)))
    makers = (_count_all, _count_kind, _count_color, _exists, _exists, _bigger, _side, _tint_of, _name_of, _listing)
    turns = [maker(rng, scene.things) for maker in rng.sample(makers, 4)]
    return CorpusRow(scene.image, "several", tuple(turns), scene.things)


def _numbers(rng: random.Random) -> CorpusRow:
    text = "".join(rng.choice("0123456789") for _ in range(rng.choice((1, 1, 2, 2, 3, 3, 4))))
    scene = digits_scene(rng, [text])
    total = sum(map(int, text))
    turns = [
        (rng.choice(("read the number.", "which number is written here?", "what digits do you see?")), text),
        (rng.choice(("how many digits are written?", "count the digits.")), str(len(text))),
        ("name the first digit.", text[0]),
        ("name the last digit.", text[-1]),
        ("what do the digits add up to?", str(total)),
        ("is the number even or odd?", "odd" if int(text) % 2 else "even"),
        ("are there letters here?", "no"),
        ("write the largest digit.", max(text)),
    ]
    chosen = [turns[0], *rng.sample(turns[1:], 3)]
    rng.shuffle(chosen)
    return CorpusRow(scene.image, "numbers", tuple(chosen), scene.things)


def _two_numbers(rng: random.Random) -> CorpusRow:
    size = rng.choice((1, 2, 2, 3))
    upper, lower = (str(rng.randrange(10 ** (size - 1), 10**size)) for _ in range(2))
    scene = digits_scene(rng, [upper, lower])
    low, high = sorted((int(upper), int(lower)))
    total = int(upper) + int(lower)
    turns = [
        ("read the upper number.", upper),
        ("read the lower number.", lower),
        ("write the larger number.", str(high)),
        ("write the smaller number.", str(low)),
        ("are both numbers the same?", "yes" if low == high else "no"),
        ("is their sum even or odd?", "odd" if total % 2 else "even"),
    ]
    return CorpusRow(scene.image, "two_numbers", tuple(rng.sample(turns, 4)), scene.things)


def _text_only(rng: random.Random) -> CorpusRow:
    makers = (
        _plus,
        _minus,
        _larger,
        _sort_words,
        _sort_numbers,
        _opposite,
        _spell_number,
        _repeat,
        _length,
        _color_word,
    )
    return CorpusRow(None, "text", tuple(maker(rng) for maker in rng.sample(makers, 4)))


def _presences(rng: random.Random) -> CorpusRow:
    scene = shapes_scene(rng, 1)
    turns = [rng.choice((_presence, _absence))(rng, scene) for _ in range(6)]
    return CorpusRow(scene.image, "single", tuple(turns), scene.things)


def _places(rng: random.Random) -> CorpusRow:
    scene = shapes_scene(rng, 1)
    turns = [maker(rng, scene) for maker in rng.sample((_place, _extent, _caption, _box), 3)]
    return CorpusRow(scene.image, "single", tuple(turns), scene.things)


def _counts(rng: random.Random) -> CorpusRow:
    scene = shapes_scene(rng, rng.choice((1, 2, 2, 3, 3, 4, 4, 5)))
    makers = (_count_all, _count_kind, _count_kind, _count_color, _count_color)
    return CorpusRow(scene.image, "several", tuple(maker(rng, scene.things) for maker in makers), scene.things)


def _searches(rng: random.Random) -> CorpusRow:
    scene = shapes_scene(rng, rng.choice((2, 2, 3, 4)))
    makers = (_exists, _exists, _exists, _bigger, _side)
    return CorpusRow(scene.image, "several", tuple(maker(rng, scene.things) for maker in makers), scene.things)


_MAKERS: dict[str, tuple[Callable[[random.Random], CorpusRow], float]] = {
    "single": (_single, 0.42),
    "several": (_several, 0.24),
    "numbers": (_numbers, 0.18),
    "two_numbers": (_two_numbers, 0.08),
    "text": (_text_only, 0.08),
}
_THEMES: dict[str, tuple[Callable[[random.Random], CorpusRow], float]] = {
    "presence": (_presences, 0.25),
    "place": (_places, 0.15),
    "count": (_counts, 0.12),
    "search": (_searches, 0.12),
    "single": (_single, 0.12),
    "numbers": (_numbers, 0.12),
    "two_numbers": (_two_numbers, 0.06),
    "text": (_text_only, 0.06),
}


def _name(rng: random.Random, scene: Scene) -> Turn:
    thing = scene.things[0]
    return rng.choice(
        (
            ("name the shape.", thing.kind),
            ("which shape is drawn?", thing.kind),
            (f"what is the {thing.color} thing?", thing.kind),
            ("what kind of figure is this?", f"a {thing.kind}"),
        )
    )


def _tint(rng: random.Random, scene: Scene) -> Turn:
    thing = scene.things[0]
    return rng.choice(
        (
            ("name the color.", thing.color),
            (f"which color has the {thing.kind}?", thing.color),
            ("what color was used?", thing.color),
            ("is the background light or dark?", "dark" if scene.dark else "light"),
        )
    )


def _presence(rng: random.Random, scene: Scene) -> Turn:
    thing = scene.things[0]
    about_kind = rng.random() < 0.5
    truth = rng.random() < 0.5
    actual, names = (thing.kind, SHAPES) if about_kind else (thing.color, tuple(COLORS))
    word = actual if truth else rng.choice([name for name in names if name != actual])
    what = f"{word}" if about_kind else f"{word} shape"
    text = rng.choice(("do you see a {}?", "can you find a {}?", "true or false: this shows a {}.", "is it a {}?"))
    yes, no = ("true", "false") if text.startswith("true") else ("yes", "no")
    return text.format(what), yes if truth else no


def _absence(rng: random.Random, scene: Scene) -> Turn:
    question, answer = _presence(rng, scene)
    flipped = {"yes": "no", "no": "yes", "true": "false", "false": "true"}[answer]
    for before, after in (
        ("do you see a ", "do you see no "),
        ("can you find a ", "is it true that you can not find a "),
        ("this shows a ", "this does not show a "),
        ("is it a ", "is it not a "),
    ):
        question = question.replace(before, after)
    return question, flipped


def _place(rng: random.Random, scene: Scene) -> Turn:
    thing = scene.things[0]
    return f"where is the {rng.choice((thing.kind, 'shape'))}?", position_name(thing)


def _extent(rng: random.Random, scene: Scene) -> Turn:
    thing = scene.things[0]
    return rng.choice(("how big is it?", f"how large is the {thing.kind}?")), size_name(thing)


def _caption(rng: random.Random, scene: Scene) -> Turn:
    thing = scene.things[0]
    text = f"a {size_name(thing)} {thing.color} {thing.kind} at the {position_name(thing)}"
    return rng.choice(
        (
            ("describe the picture.", f"{text}."),
            ("what does the picture show?", f"the picture shows {text}."),
            ("write a caption.", f"{text} on a {'dark' if scene.dark else 'light'} background."),
        )
    )


def _box(rng: random.Random, scene: Scene) -> Turn:
    thing = scene.things[0]
    text = rng.choice(("give the box of the {}.", "locate the {}."))
    return text.format(rng.choice((thing.kind, f"{thing.color} {thing.kind}", "shape"))), format_box(thing)


def _count_all(rng: random.Random, things: tuple[Thing, ...]) -> Turn:
    return rng.choice(("count the shapes.", "how many things are drawn?")), str(len(things))


def _count_kind(rng: random.Random, things: tuple[Thing, ...]) -> Turn:
    kind = rng.choice((*SHAPES, *(thing.kind for thing in things), *(thing.kind for thing in things)))
    return f"count each {kind}.", str(sum(thing.kind == kind for thing in things))


def _count_color(rng: random.Random, things: tuple[Thing, ...]) -> Turn:
    color = rng.choice((*COLORS, *(3 * [thing.color for thing in things])))
    return f"how many things are {color}?", str(sum(thing.color == color for thing in things))


def _exists(rng: random.Random, things: tuple[Thing, ...]) -> Turn:
    thing = rng.choice(things)
    color = rng.choice((thing.color, rng.choice(tuple(COLORS))))
    kind = rng.choice((thing.kind, thing.kind, rng.choice(SHAPES)))
    found = any(other.color == color and other.kind == kind for other in things)
    return f"do you see a {color} {kind}?", "yes" if found else "no"


def _bigger(rng: random.Random, things: tuple[Thing, ...]) -> Turn:
    biggest = max(things, key=lambda thing: thing.area)
    smallest = min(things, key=lambda thing: thing.area)
    return rng.choice(
        (
            ("what is the largest thing?", f"{biggest.color} {biggest.kind}"),
            ("what is the smallest thing?", f"{smallest.color} {smallest.kind}"),
        )
    )


def _side(rng: random.Random, things: tuple[Thing, ...]) -> Turn:
    word, axis, sign = rng.choice((("left", 0, 1), ("right", 0, -1), ("top", 1, 1), ("bottom", 1, -1)))
    thing = min(things, key=lambda one: sign * one.center[axis])
    return f"what is nearest to the {word} side?", f"{thing.color} {thing.kind}"


def _tint_of(rng: random.Random, things: tuple[Thing, ...]) -> Turn:
    thing = rng.choice(things)
    same = sorted({other.color for other in things if other.kind == thing.kind})
    return f"which color has the {thing.kind}?", " and ".join(same)


def _name_of(rng: random.Random, things: tuple[Thing, ...]) -> Turn:
    thing = rng.choice(things)
    same = sorted({other.kind for other in things if other.color == thing.color})
    return f"what is the {thing.color} thing?", " and ".join(same)


def _listing(_rng: random.Random, things: tuple[Thing, ...]) -> Turn:
    return "list what you see.", ", ".join(f"{thing.color} {thing.kind}" for thing in things)


def _plus(rng: random.Random) -> Turn:
    one, two = rng.randrange(10), rng.randrange(10)
    if rng.random() < 0.5:
        return f"what is {one} plus {two}?", str(one + two)
    return f"{one} + {two} =", str(one + two)


def _minus(rng: random.Random) -> Turn:
    two, one = sorted((rng.randrange(10), rng.randrange(10)))
    return rng.choice((f"what is {one} minus {two}?", f"{one} - {two} =")), str(one - two)


def _larger(rng: random.Random) -> Turn:
    one, two = rng.sample(range(100), 2)
    return f"which is larger, {one} or {two}?", str(max(one, two))


def _sort_words(rng: random.Random) -> Turn:
    words = rng.sample(_WORDS, rng.choice((2, 3)))
    return f"sort these words: {', '.join(words)}.", ", ".join(sorted(words))


def _sort_numbers(rng: random.Random) -> Turn:
    numbers = rng.sample(range(10), rng.choice((2, 3, 4)))
    return f"sort these numbers: {' '.join(map(str, numbers))}.", " ".join(map(str, sorted(numbers)))


def _opposite(rng: random.Random) -> Turn:
    one, two = rng.sample(rng.choice(_OPPOSITES), 2)
    return f"what is the opposite of {one}?", two


def _spell_number(rng: random.Random) -> Turn:
    value = rng.randrange(11)
    if rng.random() < 0.5:
        return f"write {value} as a word.", _NUMBERS[value]
    return f"write {_NUMBERS[value]} in digits.", str(value)


def _repeat(rng: random.Random) -> Turn:
    words = " ".join(rng.sample(_WORDS, rng.choice((1, 2, 3))))
    return f"repeat after me: {words}", words


def _length(rng: random.Random) -> Turn:
    words = rng.sample(_WORDS, rng.choice((2, 3, 4, 5)))
    return f"how many words are here: {' '.join(words)}", str(len(words))


def _color_word(rng: random.Random) -> Turn:
    word = rng.choice((*COLORS, *SHAPES))
    return f"is {word} a color or a shape?", "color" if word in COLORS else "shape"
