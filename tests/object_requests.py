"""Requests that a curation makes of an object store, counted at two sizes and drawn on to a thousand shards.

    python -m tests.object_requests

A stage's requests are ``a + b * shards``, a line through the counts at the two sizes. The shuffles of `ingest` and
`rank` grow with shards times reduce tasks: each reduce task asks three times for each file, and there is one here.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import click

from raycurate.config import SessionConfig
from raycurate.pipeline import run_recipe
from raycurate.ray_session import ray_session
from raycurate.recipe import Recipe
from raycurate.run.filesystem import resolve, write_bytes
from raycurate.settings import make_config
from tests.drawn_data import recipe_values, write_data
from tests.object_store import Proxy, s3_server, use_endpoint

AT = 1000
ROWS_PER_SHARD = 20
STAGES = ("ingest", "extract", "cluster", "rank", "select", "export")


def counts_of(proxy: Proxy, data: Path, shards: int) -> dict[str, Counter[str]]:
    """Requests by stage and verb, and the connections opened, of a curation of so many shards."""
    remote = f"s3://bucket/{shards}"
    for file in (data / "rows.json", *data.glob("*.png")):
        write_bytes(*resolve(f"{remote}/{file.name}"), file.read_bytes())
    found: dict[str, Counter[str]] = {}
    values = recipe_values(remote, remote, data / "model", ingest={"rows_per_shard": ROWS_PER_SHARD})
    recipe = make_config(Recipe, values)
    for stage in STAGES:
        proxy.requests.clear()
        proxy.connections = 0
        run_recipe(recipe, sections=[stage])
        found[stage] = Counter(line.split(" ", 1)[0] for line in proxy.requests)
        found[stage]["connections"] = proxy.connections
    return found


def drawn_on(small: Counter[str], large: Counter[str], shards: tuple[int, int]) -> dict[str, int]:
    """The counts at a thousand shards, on the line through those at two sizes."""
    slope = {name: (large[name] - small[name]) / (shards[1] - shards[0]) for name in {*small, *large}}
    return {name: round(large[name] + slope[name] * (AT - shards[1])) for name in sorted(slope)}


@click.command()
@click.option("--shards", nargs=2, type=int, default=(4, 12), show_default=True, help="The two sizes.")
def main(shards: tuple[int, int]) -> None:
    """Count, and print a line per stage."""
    proxy = Proxy()
    use_endpoint(proxy.port)
    with s3_server("bucket") as port, tempfile.TemporaryDirectory() as folder:
        proxy.target = port
        found = []
        with ray_session(SessionConfig(num_cpus=4, object_store_mb=256)):
            for count in shards:
                place = Path(folder) / str(count)
                place.mkdir()
                found.append(counts_of(proxy, write_data(place, count * ROWS_PER_SHARD), count))
        for stage in STAGES:
            small, large = found[0][stage], found[1][stage]
            click.echo(f"{stage:<8} {dict(small)} {dict(large)}  at {AT}: {drawn_on(small, large, shards)}")


if __name__ == "__main__":
    main()
