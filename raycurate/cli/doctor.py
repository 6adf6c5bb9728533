"""The command `doctor`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from raycurate.cli.support import ReadableCommand, out, plain
from raycurate.errors import UserError

if TYPE_CHECKING:
    from raycurate.doctor.findings import Finding

SHOWN = {"ok": "[green]ok  [/]", "warn": "[bold yellow]warn[/]", "fail": "[bold red]fail[/]"}


@click.command(cls=ReadableCommand, context_settings={"show_default": True})
@click.argument("run", required=False)
@click.option("--cluster", is_flag=True, help="Ask every node of the Ray cluster of RAY_ADDRESS or --address.")
@click.option("--address", help="Of that cluster, as host:6379 or auto.")
@click.option(
    "--constraints",
    type=click.Path(exists=True, dir_okay=False),
    help="Versions that are known to work together; default: ./constraints.txt, if it is there.",
)
@click.option("--fix", is_flag=True, help="Delete what killed writers left in RUN; nothing outside of it is changed.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of findings for other programs.")
def doctor(
    run: str | None, cluster: bool, address: str | None, constraints: str | None, fix: bool, as_json: bool
) -> None:
    """Tell what is wrong with this machine, a run directory or a cluster, what that means, and what mends it.

    The exit code is 1 where something will not work; warnings alone leave it at 0.

    \b
    Example:
      raycurate doctor runs/mine
      RAY_ADDRESS=auto raycurate doctor s3://bucket/runs/mine --cluster --json
    """
    if fix and run is None:
        raise UserError("--fix deletes leftovers of a run directory: name it, `raycurate doctor RUN --fix`")
    found = _examine(run, cluster or address is not None, address, constraints, fix=fix)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        for finding in found:
            _print(finding)
    failed = sum(finding.state == "fail" for finding in found)
    if not as_json:
        warned = sum(finding.state == "warn" for finding in found)
        out.print(f"{len(found)} findings: {failed} will not work, {warned} could be better", highlight=False)
    if failed:
        raise click.exceptions.Exit(1)


def _examine(
    run: str | None, cluster: bool, address: str | None, constraints: str | None, *, fix: bool
) -> list[Finding]:
    from raycurate.config import SessionConfig
    from raycurate.doctor.facts import facts_here, own_requirements
    from raycurate.doctor.findings import judge
    from raycurate.doctor.places import check_leftovers, check_place
    from raycurate.run.filesystem import absolute

    uri = None if run is None else absolute(run)
    folders = [uri] if uri is not None and uri.startswith("/") else []
    here = facts_here(own_requirements(), folders)
    found = judge(here, _tested(constraints))
    if uri is not None:
        found += check_place(uri)
        if all(finding.state != "fail" or finding.check != "run directory" for finding in found):
            found.append(check_leftovers(uri, fix=fix))
    if cluster:
        from raycurate.doctor.cluster import examine_cluster
        from raycurate.ray_session import ray_session

        if address is None and "RAY_ADDRESS" not in os.environ:
            raise UserError("--cluster asks a cluster that is there: give --address, or set RAY_ADDRESS")
        with ray_session(SessionConfig(address=address)):  # type: ignore[call-arg]
            found += examine_cluster(here, uri, folders)
    return found


def _tested(path: str | None) -> dict[str, str]:
    """Package -> version of the lines of a constraints file that pin one."""
    if path is None:
        if not os.path.isfile("constraints.txt"):
            return {}
        path = "constraints.txt"
    with open(path, encoding="utf-8") as file:
        pairs = (line.split("#")[0].strip().partition("==") for line in file)
        return {name.strip().lower(): version.strip() for name, _, version in pairs if version}


def _print(finding: Finding) -> None:
    where = f" [dim]{plain(finding.where)}[/]" if finding.where else ""
    out.print(f"{SHOWN[finding.state]} {finding.check}: {plain(finding.found)}{where}", highlight=False)
    if finding.state != "ok":
        out.print(f"       {plain(finding.meaning)}", highlight=False)
        out.print(f"       mend it: {plain(finding.fix)}", highlight=False)
