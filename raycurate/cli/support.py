"""What the commands share: errors as one line, common options, a config from options, a result as one line."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import psutil
import pyarrow.fs as pafs
from pydantic import ValidationError
from rich.console import Console

from raycurate.errors import UserError
from raycurate.run.dates import seconds_of, when
from raycurate.run.filesystem import read_bytes, resolve
from raycurate.run.log_format import JsonFormatter, wants_json
from raycurate.samples.quarantine import printable
from raycurate.settings import StageConfig, apply_override, make_config
from raycurate.stages.table import stage_of

if TYPE_CHECKING:
    from raycurate.run.manifest import Manifest
    from raycurate.run.store import Noun

Command = TypeVar("Command", bound=Callable[..., Any])
REPLACE = "raycurate.replace"
ERROR_CHARS = 10_000
_SYSTEM_ERROR = re.compile(r"\[Errno (\d+)\]", re.IGNORECASE)
_SYSTEM_ADVICE = {
    errno.ENOSPC: "The disk is full: free some space, or give another place, and run the same command again",
    errno.EDQUOT: "The quota is used up: free some space, or give another place, and run the same command again",
    errno.EACCES: "Give another place, or this user the rights to this one",
    errno.EPERM: "Give another place, or this user the rights to this one",
    errno.EROFS: "That disk can only be read: give another place",
    errno.ENOENT: "Check the path; a folder on the way may be missing or a link that leads nowhere",
    errno.ENOTDIR: "A part of the path is a file and no folder: give another place",
    errno.EISDIR: "That is a folder: name a file",
    errno.ENAMETOOLONG: "Give a shorter name",
}
out = Console(soft_wrap=True, emoji=False)
err = Console(stderr=True, soft_wrap=True, emoji=False)


class ReadableCommand(click.Command):
    """Turns errors into one readable line and an exit code; ``--debug`` shows the traceback."""

    failed = 1

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, but ``--calibrate --json`` is a forgotten value and not a file named ``--json``."""
        rest = super().parse_args(ctx, args)
        known = {name for param in self.get_params(ctx) for name in param.opts if name.startswith("--")}
        for param in self.get_params(ctx):
            value = ctx.params.get(param.name or "")
            if isinstance(param, click.Option) and isinstance(value, str) and value in known:
                raise click.UsageError(
                    f"{param.opts[0]} takes a value ({param.make_metavar(ctx)}), and {value} is an option", ctx
                )
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except UserError as error:
            if ctx.find_root().params.get("debug"):
                raise
            err.print(f"[bold red]error:[/] {plain(shown(str(error)))}")
        except Exception as error:
            if ctx.find_root().params.get("debug"):
                raise
            if isinstance(error, ValidationError):  # its own text ends with an address
                text = ["; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())]
            else:
                text = str(error).strip().splitlines()
            line = text[-1] if text else ""
            advice = storage_advice(line) if isinstance(error, OSError) else None
            told = f"{line}. {advice}." if advice else f"{type(error).__name__}: {line}"
            err.print(f"[bold red]error:[/] {plain(shown(told))}")
            err.print("Run again with --debug (before the command) for the traceback; finished shards are kept.")
        sys.exit(self.failed)


class AnsweringCommand(ReadableCommand):
    """One whose exit code 1 is an answer, so that an error has another."""

    failed = 2


class Group(ReadableCommand, click.Group):
    """Several commands whose errors are readable."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, with paths and output in UTF-8 whatever the locale says: a C locale cannot name all files."""
        if sys.getfilesystemencoding() != "utf-8" and "RAYCURATE_UTF8" not in os.environ:
            environment = {**os.environ, "PYTHONUTF8": "1", "RAYCURATE_UTF8": "1"}
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
        return super().main(*args, **kwargs)


def storage_advice(line: str) -> str | None:
    """What to do about an error of the system or an object store, by its text; None where that says nothing."""
    if "AWS Error" in line:
        return "Check the address, the network, the credentials (AWS_*) and AWS_ENDPOINT_URL, and run it again"
    found = _SYSTEM_ERROR.search(line)
    return _SYSTEM_ADVICE.get(int(found[1])) if found else None


class MethodOption(click.Option):
    """An option whose help lists the methods, which are imported only when it is shown."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from raycurate.selection import METHODS

        names, text = super().get_help_record(ctx) or ("", "")
        known = f"{self.help} {', '.join(METHODS)}; or package.module:object for your own."
        return names, text.replace(str(self.help), known, 1)


def set_up_logging(*, debug: bool, quiet: bool) -> None:
    """Progress lines on stderr, unless they are not wanted; as JSON with ``RAYCURATE_LOG=json``."""
    level = logging.WARNING if quiet else logging.INFO
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if wants_json() else logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("raycurate").setLevel(logging.DEBUG if debug else level)


def shown(text: str) -> str:
    """An error, which may have text of the data in it, for a terminal: no control characters but ends of lines."""
    return "\n".join(printable(line, ERROR_CHARS) for line in text.splitlines())


def plain(text: str) -> str:
    """Text of a user's file must not be read as markup."""
    return text.replace("[", "\\[")


def run_argument(command: Command) -> Command:
    """The argument RUN of a command that reads a run directory, which must be there."""
    return click.argument("run", callback=existing_run)(command)


def existing_run(_: click.Context, __: click.Parameter, uri: str | None) -> str | None:
    """A run directory that is there, or None where none is given."""
    if uri is None:
        return None
    filesystem, path = resolve(uri)
    kind = filesystem.get_file_info(path).type
    if kind == pafs.FileType.File:
        raise UserError(f"{uri} is a file; give the run directory, the folder that `raycurate ingest --out` made")
    if kind == pafs.FileType.NotFound:
        raise UserError(f"there is no run directory at {uri}. `raycurate ingest SOURCE --out {uri}` makes one.")
    return uri


def settings(command: Command) -> Command:
    """Options that every stage has."""
    command = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="FIELD=VALUE",
        help="Any other setting; `raycurate settings STAGE` lists all.",
    )(command)
    command = click.option(
        "--replace",
        is_flag=True,
        expose_value=False,
        callback=_note_replace,
        help="Delete what is there under this label with other settings.",
    )(command)
    return click.option("--label", default="main", help="Name of the result inside the run.")(command)


def _note_replace(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    """Keep the flag for `config_of`: no command does anything with it but hand it on."""
    ctx.meta[REPLACE] = value


def config_of(kind: type[StageConfig], values: dict[str, Any], overrides: tuple[str, ...]) -> Any:
    """A stage's config from options and ``--set`` values."""
    given = {name: value for name, value in values.items() if value is not None}
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.get(REPLACE) and "replace" in kind.model_fields:
        given["replace"] = True
    for override in overrides:  # after the filter: null is a value here
        apply_override(given, override)
    return make_config(kind, given)


def told_before(manifest: Manifest, since: float) -> str:
    """Where a result was made before `since` (seconds of the epoch): when that was; '' for a fresh one."""
    made = seconds_of(manifest.created)
    return f"done before, {when(manifest.created)}" if made is not None and made < int(since) else ""


def where_it_lies(noun: Noun) -> str:
    """The folder of a finished experiment, and when it was made where that was before this command."""
    manifest = noun.manifest()
    before = "" if manifest is None else told_before(manifest, psutil.Process().create_time())
    return f"{plain(noun.folder)}{f' [dim]{before}[/]' if before else ''}"


def run_stage(name: str, run: str, config: Any, *, quiet: bool = False) -> Any:
    """Run a stage or an experiment on the cluster, or on a local one, and print its results; what it gave back.

    Args:
        name: of the stage.
        run: the run directory.
        config: its settings.
        quiet: print nothing; the command shows the result in its own way.
    """
    from raycurate.cli.needed import tell_what_is_missing
    from raycurate.run.store import Run

    started = time.time()
    tell_what_is_missing(name, Run(run), config)
    made = stage_of(name).load()(Run(run), config)
    if not quiet:
        for manifest in made if isinstance(made, list) else [made]:
            print_manifest(manifest, since=started)
    return made


def print_scoreboard(noun: Noun) -> None:
    """The tables of a finished `compare`, and where they lie."""
    text = read_bytes(noun.filesystem, f"{noun.folder}/scoreboard.md").decode()
    out.print(text, markup=False, highlight=False)
    out.print(f"[bold]scoreboard[/] {where_it_lies(noun)}", highlight=False)


def print_report(noun: Noun) -> None:
    """The report of a finished experiment, and where the rest lies."""
    out.print(read_bytes(noun.filesystem, f"{noun.folder}/report.md").decode(), markup=False, highlight=False)
    out.print(f"[bold]{noun.noun}[/] {where_it_lies(noun)}", highlight=False)


def print_manifest(manifest: Manifest, seconds: float | None = None, *, since: float | None = None) -> None:
    """One stage's result in a line.

    Args:
        manifest: of the result.
        seconds: what the stage took now; default: all that was spent on it.
        since: when the stage was asked for, seconds of the epoch; default: `seconds` ago.
    """
    shown = f"{manifest.seconds if seconds is None else seconds:.1f} s"
    if since is None and seconds is not None:
        since = time.time() - seconds
    if since is not None and (before := told_before(manifest, since)):
        shown = before
    for counted in ("lines", "trials"):
        if counted in manifest.metrics:
            count = manifest.metrics[counted]
            out.print(f"[bold]{manifest.noun}[/] {manifest.label}: {count} {counted} [dim]{shown}[/]")
            return
    kept = f", kept {manifest.metrics['kept']:,}" if "kept" in manifest.metrics else ""
    rejected = sum(manifest.quarantined.values())
    reasons = ", ".join(f"{name} {count}" for name, count in sorted(manifest.quarantined.items()))
    quarantine = f", {rejected:,} quarantined ({reasons})" if rejected else ""
    out.print(
        f"[bold]{manifest.noun:<9}[/] {manifest.label}: {manifest.rows_in:,} rows in, "
        f"{manifest.rows_out:,} out{kept}{quarantine} [dim]{shown}[/]",
        highlight=False,
    )
    from raycurate.stages.engine.status import told_sources

    if told := told_sources(manifest):
        out.print(f"          by source: {plain(told)}", highlight=False)


def parts(text: str) -> list[str]:
    """The values of an option that takes several, separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
