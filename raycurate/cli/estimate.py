"""The command `estimate`."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from raycurate.cli.results import show_table
from raycurate.cli.support import ReadableCommand, out, plain
from raycurate.errors import UserError

if TYPE_CHECKING:
    from raycurate.estimate.places import Cluster
    from raycurate.estimate.plan import Planner
    from raycurate.estimate.rates import Rates
    from raycurate.estimate.stage_estimate import Estimate

PARTS = ("starting", "devices", "cores", "serial", "files")


@click.command(cls=ReadableCommand, context_settings={"show_default": True})
@click.argument("target", metavar="RECIPE|RUN")
@click.option("--set", "overrides", multiple=True, metavar="STAGE.FIELD=VALUE", help="Change a setting of the recipe.")
@click.option(
    "--cluster",
    "cluster_file",
    metavar="FILE",
    help="File of Ray's launcher or of KubeRay, with its nodes, cores and cards; default: this machine.",
)
@click.option(
    "--card",
    "cards",
    multiple=True,
    metavar="[GROUP=]NAME",
    help="The card of nodes, by name: H100, A100-80GB, L40S, ...; on this machine, one such card.",
)
@click.option(
    "--price", "prices", multiple=True, metavar="NAME=PRICE", help="Of a node-hour, by group or by the machine's type."
)
@click.option("--rates", "rates_file", metavar="FILE", help="Rates that --calibrate has measured.")
@click.option("--calibrate", metavar="FILE", help="Measure this machine (15 to 30 s) and keep its rates in FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
def estimate(
    target: str,
    overrides: tuple[str, ...],
    cluster_file: str | None,
    cards: tuple[str, ...],
    prices: tuple[str, ...],
    rates_file: str | None,
    calibrate: str | None,
    as_json: bool,
) -> None:
    """Tell what RECIPE will take before it runs, stage by stage; of a RUN, what it took beside what was foreseen.

    Seconds, bytes on disk, memory, requests to an object store, and with prices money. A sample of the source is read;
    of a model its configuration, never its weights. All of it is an estimate.

    \b
    Example:
      raycurate estimate jobs/recipes/demo.yaml --calibrate rates.json
      raycurate estimate my_recipe.yaml --cluster cluster_configs/aws.yaml --price gpu_spot=1.2 --price cpu=1.5
      raycurate estimate runs/mine --rates rates.json --json
    """
    from raycurate.estimate.places import parse_prices

    rates = _rates(rates_file, calibrate)
    cluster = _cluster(cluster_file, cards)
    known = parse_prices(prices, cluster)
    planner, found = _estimates(target, overrides, cluster, rates, known)
    if as_json:
        click.echo(json.dumps(_as_json(planner, found, rates), indent=2))
    else:
        _print(planner, found, rates)
    if found and all(each.seconds is None for each in found):
        raise UserError(f"nothing of {target} could be estimated: {found[0].stage}: {'; '.join(found[0].notes)}")


def _rates(path: str | None, calibrated: str | None) -> Rates:
    from raycurate.estimate.rates import DEFAULT_RATES, load_rates

    if path is not None and calibrated is not None:
        raise UserError("--rates and --calibrate are both given: one reads a file of rates, the other writes one")
    if calibrated is not None:
        from raycurate.estimate.calibrate import calibrate as measure

        folder = os.path.dirname(os.path.abspath(calibrated))
        if not os.path.isdir(folder):
            raise UserError(f"--calibrate {calibrated}: there is no folder {folder}")
        if os.path.isdir(calibrated):
            raise UserError(
                f"--calibrate {calibrated} is a folder: name the file for the rates, {calibrated}/rates.json"
            )
        rates = measure(folder)
        with open(calibrated, "w", encoding="utf-8") as file:
            json.dump(rates.to_json(), file, indent=2)
        return rates
    return load_rates(path) if path is not None else DEFAULT_RATES


def _cluster(path: str | None, cards: tuple[str, ...]) -> Cluster:
    from raycurate.estimate.places import read_cluster, this_machine
    from raycurate.estimate.rates import card_named

    named = {group: name for group, _, name in (text.rpartition("=") for text in cards)}
    if path is not None:
        return read_cluster(path, named)
    if set(named) - {""}:
        raise UserError(f"--card {cards[0]} names a group of nodes, which needs --cluster FILE")
    cores = float(len(os.sched_getaffinity(0)))
    return this_machine(cores, 1, card_named(named[""])) if named else this_machine(cores)


def _estimates(
    target: str, overrides: tuple[str, ...], cluster: Cluster, rates: Rates, prices: dict[str, float]
) -> tuple[Planner, list[Estimate]]:
    from raycurate.estimate.actual import estimate_run, know_run
    from raycurate.estimate.plan import Planner
    from raycurate.run.filesystem import exists, resolve
    from raycurate.run.store import Run

    if os.path.isfile(target):
        from raycurate.pipeline import steps_of
        from raycurate.recipe import check_filled_in, load_recipe

        recipe = load_recipe(target, overrides)
        check_filled_in(recipe, aside=("run", "export.out"))  # a bucket of that name is asked for for many minutes
        planner = Planner(cluster, rates, prices, on_store=_is_store(recipe.run))
        if recipe.section("ingest") is None and exists(*resolve(recipe.run)):
            know_run(planner, Run(recipe.run))
        return planner, [planner.estimate(section, stage.name, config) for section, stage, config in steps_of(recipe)]
    if overrides:
        raise UserError(f"--set changes a recipe, and {target} is none: no file is there")
    from raycurate.stages.table import STAGES

    planner = Planner(cluster, rates, prices, on_store=_is_store(target))
    configs = {stage.name: stage.load_config() for stage in STAGES.values() if stage.config}
    return planner, estimate_run(planner, Run(target), configs)


def _is_store(uri: str) -> bool:
    return "://" in uri and not uri.startswith("file://")


def _as_json(planner: Planner, found: list[Estimate], rates: Rates) -> dict[str, Any]:
    return {
        "stages": [each.to_json() for each in found],
        "seconds": round(sum(each.seconds or 0.0 for each in found), 3),
        "cost": planner.cost(found),
        "sources": {label: source.to_json() for label, source in planner.sources.items()},
        "rates": rates.to_json(),
        "notes": list(planner.cluster.notes),
    }


def _print(planner: Planner, found: list[Estimate], rates: Rates) -> None:
    from raycurate.estimate.work import duration

    done = any(each.actual is not None for each in found)
    names = ["stage", "label", "rows", "estimate", "most of it", "disk", "memory", "requests", "traffic", "nodes"]
    names += [*(["took", "ratio"] if done else []), *(["cost"] if planner.prices else [])]
    table = Table(*names)
    for each in found:
        table.add_row(*_line(each, done, bool(planner.prices)))
    show_table(table)
    seconds = sum(each.seconds or 0.0 for each in found)
    cost = planner.cost(found)
    money = "" if cost is None else f", {cost:,.2f} for nodes"
    told = f"measured on {rates.measured}" if rates.measured else "stated defaults (--calibrate FILE measures)"
    unknown = sum(each.seconds is None for each in found)
    of = f" for {len(found) - unknown} of {len(found)} stages" if unknown else " in all"
    out.print(f"[bold]{duration(seconds)}[/]{of}{money}; rates: {plain(told)}", highlight=False)
    notes = dict.fromkeys((*planner.cluster.notes, *(f"{e.stage}: {note}" for e in found for note in e.notes)))
    for note in notes:
        out.print(f"[dim]{plain(note)}[/]", highlight=False)


def _line(each: Estimate, done: bool, priced: bool) -> list[str]:
    from raycurate.estimate.work import duration

    seconds = "?" if each.seconds is None else duration(each.seconds)
    largest = max(each.parts, key=lambda name: each.parts[name]) if each.parts else ""
    nodes = ", ".join(f"{count} {name}" for name, count in each.nodes.items())
    line = [each.stage, each.label, f"{each.rows:,}", seconds, largest]
    known = [size(each.disk_bytes), size(each.memory_bytes), f"{each.requests:,.0f}", size(each.traffic_bytes)]
    line += [*(known if each.seconds is not None else [""] * len(known)), plain(nodes)]
    if done:
        line.append("" if each.actual is None else duration(each.actual))
        line.append("" if each.ratio is None else f"{each.ratio:.2f}")
    if priced:
        line.append("" if each.cost is None else f"{each.cost:,.2f}")
    return line


def size(number: float) -> str:
    """Bytes to read."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
