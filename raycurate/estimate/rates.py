"""What a machine does in a second: stated defaults, cards by name, or what `calibrate` measured and a file keeps.

Figures of cards are their makers' public ones (dense 16-bit products, memory, its bandwidth). No program reaches them:
`REACHED` is the part of the products' rate that is assumed. Both are estimates, and said to be.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from raycurate.errors import UserError, unknown_name

REACHED = 0.3
"""Part of a card's peak that a forward pass, a training step or k-means is taken to reach."""
RATES_VARIABLE = "RAYCURATE_RATES"
"""Of the environment: the file of rates that finished stages are compared by."""


@dataclass(frozen=True, slots=True)
class Card:
    """One accelerator.

    Attributes:
        name: as tables have it.
        flops: dense 16-bit products, FLOP/s.
        memory: bytes.
        bandwidth: of that memory, bytes/s.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float


_CARDS = (
    Card("T4", 65e12, 16e9, 0.32e12),
    Card("V100", 125e12, 32e9, 0.9e12),
    Card("A10G", 70e12, 24e9, 0.6e12),
    Card("L4", 121e12, 24e9, 0.3e12),
    Card("L40S", 362e12, 48e9, 0.864e12),
    Card("A100-40GB", 312e12, 40e9, 1.555e12),
    Card("A100-80GB", 312e12, 80e9, 2.039e12),
    Card("H100", 989e12, 80e9, 3.35e12),
    Card("H200", 989e12, 141e9, 4.8e12),
    Card("B200", 2250e12, 180e9, 8.0e12),
    Card("RTX4090", 165e12, 24e9, 1.008e12),
    Card("MI300X", 1307e12, 192e9, 5.3e12),
)
CARDS: Mapping[str, Card] = {card.name: card for card in _CARDS}


def card_named(name: str) -> Card:
    """A card by its name. Raises `UserError` for one that is not known."""
    found = {known.lower(): card for known, card in CARDS.items()}.get(name.lower().replace(" ", ""))
    if found is None:
        raise unknown_name("card", name, CARDS)
    return found


@dataclass(frozen=True, slots=True)
class Rates:
    """What one core, one disk, one connection and one start take. The defaults are of a server core of 2022.

    Attributes:
        product_flops: of one core's best matrix product, as k-means takes it, FLOP/s.
        network_flops: of one core in the small products of a network that answers or is read, FLOP/s.
        training_flops: of one core in the same products in 32 bits, as a training on cores takes them, FLOP/s.
        memory_bytes: that one core moves through element-wise work, bytes/s.
        parse_row_seconds: of one core to parse, key and write a row of the source.
        parse_bytes: of source text that one core reads, bytes/s.
        prepare_row_seconds: of one core to render and tokenise a row.
        check_pixels: of images that one core checks, pixels/s.
        check_image_seconds: of one core to find, read and check an image, however small.
        load_pixels: that one core decodes and processes for a model, pixels/s.
        image_seconds: of one core to read and process an image, however small.
        table_row_seconds: of one core per row of a pass over small tables.
        part_seconds: of one core to write, or to find and read, a part of few rows, with its record.
        call_seconds: of a layer that is called, whatever it computes.
        disk_write: bytes/s of one node.
        disk_read: bytes/s of one node.
        store_bytes: of an object store, bytes/s of one node.
        store_seconds: of a request to it.
        session_seconds: until a local Ray answers.
        worker_seconds: until a worker has a model's libraries.
        task_seconds: until the process of another task has its own.
        node_seconds: until a cloud's new node works.
        peak_part: of a card's products that is reached.
        measured: host and date of the calibration; '' for the defaults.
    """

    product_flops: float = 60e9
    network_flops: float = 30e9
    training_flops: float = 30e9
    memory_bytes: float = 2e9
    parse_row_seconds: float = 8e-5
    parse_bytes: float = 30e6
    prepare_row_seconds: float = 1e-4
    check_pixels: float = 400e6
    check_image_seconds: float = 3e-4
    load_pixels: float = 40e6
    image_seconds: float = 8e-4
    table_row_seconds: float = 6e-6
    part_seconds: float = 2e-3
    call_seconds: float = 5e-4
    disk_write: float = 500e6
    disk_read: float = 1e9
    store_bytes: float = 1e9
    store_seconds: float = 0.03
    session_seconds: float = 4.0
    worker_seconds: float = 6.0
    task_seconds: float = 1.5
    node_seconds: float = 240.0
    peak_part: float = REACHED
    measured: str = ""

    def to_json(self) -> dict[str, Any]:
        """As `rates_of` reads it."""
        return asdict(self)


DEFAULT_RATES = Rates()


def rates_of(values: Any, where: str) -> Rates:
    """Rates from JSON values; what is not named has its default.

    Raises:
        UserError: no object, an unknown name, or a value that is no positive number.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} holds no rates: an object of names and numbers, as --calibrate FILE writes it")
    known = {field.name for field in fields(Rates)}
    for name, value in values.items():
        if name not in known:
            raise unknown_name(f"rate in {where}", name, known)
        if name == "measured":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise UserError(f"{where}: {name} is {value!r}; it must be a positive number")
    return replace(DEFAULT_RATES, **values)


def load_rates(path: str | Path) -> Rates:
    """Rates from a file. Raises `UserError` where it cannot be read."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read the rates {path}: {error.strerror}. `raycurate estimate --calibrate {path} ...` makes them."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from None
    return rates_of(values, str(path))


def rates_here() -> Rates:
    """The rates of the file that the environment names, else the stated ones. Raises `UserError` as `load_rates`."""
    path = os.environ.get(RATES_VARIABLE)
    return load_rates(path) if path else DEFAULT_RATES
