"""The drawn tasks of the proving ground, beside those of the demo: icons, text in fonts, charts of tables, languages.

A task is a function of (demo material, shelf, a random generator) that yields rows for ever; every row draws size,
place, colours and wording anew, so images seldom repeat and a known icon is seen in many forms. Images are 64 x 64.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from PIL import Image, ImageDraw

from raycurate.demo.materials import Picture
from raycurate.demo.proving.materials import Icon, Shelf, glyph
from raycurate.demo.tasks import IMAGE_MARK, SIDE, Material, Row

Maker = Callable[[Material, Shelf, random.Random], Iterator[Row]]

INKS = {
    "red": "#d02020", "green": "#209020", "blue": "#2040d0", "orange": "#f08010", "purple": "#8020a0",
    "black": "#101010",
}  # fmt: skip
_PAPERS = ("#ffffff", "#f4f0e0", "#e4f0f8", "#f0e4f0", "#e8f4e4", "#eeeeee")
_SYMBOLS = ("bicycle", "cloud", "fish", "flag", "heart", "house", "key", "moon", "plane", "star", "tree", "umbrella")
_BRANDS = ("apple", "android", "github", "linux", "python", "chrome")
_LETTERS = "ABCEHKMOSTXZ"
_WORDS = ("cat", "dog", "sun", "map", "box", "red", "ice", "jam")
_GERMAN = dict(
    red="rot", green="grün", blue="blau", yellow="gelb", gray="grau", black="schwarz", brown="braun", teal="türkis"
)
_FRENCH = dict(
    red="rouge", green="vert", blue="bleu", yellow="jaune", gray="gris", black="noir", brown="brun", teal="sarcelle"
)
_SPANISH = dict(circle="círculo", rectangle="rectángulo", triangle="triángulo")
_ITALIAN = ("zero", "uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove")


def _icon_color(_material: Material, shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    icons = list(shelf.symbols.values())
    while True:
        color = rng.choice(tuple(INKS))
        yield _row(
            "icon_color",
            rng,
            ("What color is the icon?", "Name the icon's color."),
            color,
            _icons([(rng.choice(icons), color)], rng),
        )


def _icon_name(_material: Material, shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    while True:
        name = rng.choice(_SYMBOLS)
        image = _icons([(shelf.symbols[name], rng.choice(tuple(INKS)))], rng)
        yield _row("icon_name", rng, ("What does the icon show?", "Name the icon."), name, image)


def _icon_is(_material: Material, shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    while True:
        name, other = rng.sample(_SYMBOLS, 2)
        right = rng.random() < 0.5
        image = _icons([(shelf.symbols[name], rng.choice(tuple(INKS)))], rng)
        yield _row("icon_is", rng, (f"Is this a {name if right else other}?",), "yes" if right else "no", image)


def _icon_count(_material: Material, shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    icons = list(shelf.symbols.values())
    while True:
        number = rng.randint(1, 4)
        icon, color = rng.choice(icons), rng.choice(tuple(INKS))
        yield _row(
            "icon_count", rng, ("How many icons are there?",), str(number), _icons([(icon, color)] * number, rng)
        )


def _icon_same(_material: Material, shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    while True:
        one, other = rng.sample(_SYMBOLS, 2)
        same = rng.random() < 0.5
        shown = [(shelf.symbols[name], rng.choice(tuple(INKS))) for name in (one, one if same else other)]
        yield _row(
            "icon_same", rng, ("Do both icons show the same thing?",), "yes" if same else "no", _icons(shown, rng)
        )


def _icon_kind(_material: Material, shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    kinds = {"brand": list(shelf.brands.values()), "symbol": list(shelf.symbols.values())}
    while True:
        kind = rng.choice(tuple(kinds))
        image = _icons([(rng.choice(kinds[kind]), rng.choice(tuple(INKS)))], rng)
        yield _row("icon_kind", rng, ("Is this icon a brand or a symbol?",), kind, image)


def _brand_name(_material: Material, shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    while True:
        name = rng.choice(_BRANDS)
        image = _icons([(shelf.brands[name], rng.choice(tuple(INKS)))], rng)
        yield _row("brand_name", rng, ("Which brand is this?",), name, image)


def _letter(_material: Material, shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    while True:
        letter = rng.choice(_LETTERS)
        yield _row(
            "letter",
            rng,
            ("Which letter is this?", "Read the letter."),
            letter,
            _text(letter, rng.choice(tuple(shelf.fonts.values())), rng),
        )


def _read_word(_material: Material, shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    while True:
        word = rng.choice(_WORDS)
        yield _row(
            "read_word", rng, ("Read the word.",), word, _text(word, rng.choice(tuple(shelf.fonts.values())), rng)
        )


def _letter_case(_material: Material, shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    while True:
        word, case = rng.choice(_WORDS), rng.choice(("upper", "lower"))
        image = _text(word.upper() if case == "upper" else word, rng.choice(tuple(shelf.fonts.values())), rng)
        yield _row("letter_case", rng, ("Is the word in upper or lower case?",), case, image)


def _font_family(_material: Material, shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    while True:
        family = rng.choice(tuple(shelf.fonts))
        yield _row(
            "font_family",
            rng,
            ("Is the font sans, serif or mono?",),
            family,
            _text(rng.choice(_WORDS), shelf.fonts[family], rng),
        )


def _trend(_material: Material, shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    while True:
        prices = rng.choice(shelf.prices)[rng.randint(0, 4) :]
        if rng.random() < 0.5:
            prices = prices[::-1]
        answer = "up" if prices[-1] > prices[0] else "down"
        yield _row("trend", rng, ("Does the line end up or down from its start?",), answer, _chart("line", prices, rng))


def _chart_type(_material: Material, shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    while True:
        kind = rng.choice(("line", "bar", "point"))
        yield _row(
            "chart_type", rng, ("Is it a line, bar or point chart?",), kind, _chart(kind, rng.choice(shelf.prices), rng)
        )


def _highest_bar(_material: Material, shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    while True:
        bars = rng.sample(rng.choice(shelf.prices), 4)
        largest, second = sorted(bars, reverse=True)[:2]
        if largest < 1.1 * second:
            continue
        yield _row(
            "highest_bar",
            rng,
            ("Which bar is the highest, counted from the left?",),
            str(bars.index(largest) + 1),
            _chart("bar", bars, rng),
        )


def _color_german(material: Material, _shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    while True:
        picture = rng.choice(material.known)
        yield _row("color_german", rng, ("Welche Farbe hat die Form?",), _GERMAN[picture.color or ""], picture)


def _color_french(material: Material, _shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    while True:
        picture = rng.choice(material.known)
        yield _row("color_french", rng, ("De quelle couleur est la forme ?",), _FRENCH[picture.color or ""], picture)


def _shape_spanish(material: Material, _shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    while True:
        picture = rng.choice(material.known)
        yield _row("shape_spanish", rng, ("¿Qué forma se ve?",), _SPANISH[picture.shape or ""], picture)


def _digit_italian(material: Material, _shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    while True:
        digit = rng.randrange(10)
        pixels = Image.fromarray(rng.choice(material.scans[digit]).pixels).resize([rng.randint(24, 48)] * 2)
        image = Image.new("RGB", (SIDE, SIDE), rng.choice(("#000000", "#102040", "#402010")))
        image.paste(pixels, (rng.randint(0, SIDE - pixels.width), rng.randint(0, SIDE - pixels.height)))
        yield _row("digit_italian", rng, ("Che cifra è?",), _ITALIAN[digit], image)


def _car_origin(_material: Material, shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    questions = (
        "Where does the car {} come from: usa, europe or japan?",
        "Is the {} from usa, europe or japan?",
        "Origin of the car {}?",
    )
    while True:
        name, origin = rng.choice(shelf.cars)
        yield Row("car_origin", ((rng.choice(questions).format(name), origin),))


def _weather(_material: Material, shelf: Shelf, rng: random.Random) -> Iterator[Row]:
    while True:
        numbers, answer = rng.choice(shelf.days)
        yield Row(
            "weather",
            (
                (
                    f"{rng.choice(('Weather', 'A day in Seattle'))}: {numbers}. Is it sun, rain, snow, fog or drizzle?",
                    answer,
                ),
            ),
        )


# Task -> its maker.
DRAWN_TASKS: dict[str, Maker] = {
    "icon_color": _icon_color, "icon_name": _icon_name, "icon_is": _icon_is, "icon_count": _icon_count,
    "icon_same": _icon_same, "icon_kind": _icon_kind, "brand_name": _brand_name, "letter": _letter,
    "read_word": _read_word, "letter_case": _letter_case, "font_family": _font_family, "trend": _trend,
    "chart_type": _chart_type, "highest_bar": _highest_bar, "color_german": _color_german,
    "color_french": _color_french, "shape_spanish": _shape_spanish, "digit_italian": _digit_italian,
    "car_origin": _car_origin, "weather": _weather,
}  # fmt: skip


def _row(task: str, rng: random.Random, questions: tuple[str, ...], answer: str, image: Image.Image | Picture) -> Row:
    return Row(task, ((f"{IMAGE_MARK}\n{rng.choice(questions)}", answer),), image)


def _icons(shown: list[tuple[Icon, str]], rng: random.Random) -> Image.Image:
    """Draw one icon anywhere, or up to four in the quarters of the image."""
    sheet = Image.new("RGB", (SIDE, SIDE), rng.choice(_PAPERS))
    cell = SIDE if len(shown) == 1 else SIDE // 2
    corners = [(x, y) for x in range(0, SIDE, cell) for y in range(0, SIDE, cell)]
    for (icon, color), (x, y) in zip(shown, rng.sample(corners, len(shown)), strict=True):
        picture = glyph(icon.font, icon.character, rng.randint(cell * 5 // 8, cell * 7 // 8), INKS[color])
        picture.thumbnail((cell, cell))
        place = (x + rng.randint(0, cell - picture.width), y + rng.randint(0, cell - picture.height))
        sheet.paste(picture, place, picture)
    return sheet


def _text(text: str, font: str, rng: random.Random) -> Image.Image:
    """Write a letter, or a word across most of the image, not far from its middle."""
    sheet = Image.new("RGB", (SIDE, SIDE), rng.choice(_PAPERS))
    size = rng.randint(48, 64) if len(text) == 1 else rng.randint(24, 30)
    picture = glyph(font, text, size, rng.choice(tuple(INKS.values())))
    picture.thumbnail((SIDE, SIDE))
    spare = (SIDE - picture.width, SIDE - picture.height)
    place = tuple(min(room, max(0, room // 2 + rng.randint(-6, 6))) for room in spare)
    sheet.paste(picture, (place[0], place[1]), picture)
    return sheet


def _chart(kind: str, values: list[float], rng: random.Random) -> Image.Image:
    """Draw the values from zero or from below their least as a line, bars or points; x by place, y by value."""
    sheet = Image.new("RGB", (SIDE, SIDE), rng.choice(_PAPERS))
    draw, ink = ImageDraw.Draw(sheet), rng.choice(tuple(INKS.values()))
    margin = rng.randint(3, 8)
    inner, low = SIDE - 2 * margin, 0.0 if kind == "bar" else min(values)
    draw.line((margin, SIDE - margin, SIDE - margin, SIDE - margin), fill="#808080")
    draw.line((margin, margin, margin, SIDE - margin), fill="#808080")
    heights = [inner * (value - low) / max(max(values) - low, 1e-9) for value in values]
    step = inner / len(values)
    points = [(margin + step * (at + 0.5), SIDE - margin - height) for at, height in enumerate(heights)]
    if kind == "line":
        draw.line(points, fill=ink, width=rng.randint(1, 3))
    for x, y in points if kind != "line" else ():
        box = (x - step / 3, y, x + step / 3, SIDE - margin) if kind == "bar" else (x - 2, y - 2, x + 2, y + 2)
        draw.rectangle(box, fill=ink)
    return sheet
