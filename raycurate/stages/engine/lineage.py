"""Whether a finished noun is still what its inputs make, and what happens to one that a stage is asked to make anew.

A description (`shards.describe`) says what determines a result: the version of the stage's code, its settings, the
content of files, and under ``made_from`` each noun that was read, by its fingerprint. As a fingerprint holds those
of the nouns before it, a noun is current if at every step up to the samples the fingerprint is that of the noun that is
there now, and the version that of the code that runs. Every stage that reads a noun asks `required`.

A noun that was deleted by hand does not make stale what was made from it; one that is being made anew does.

`begin` is the only way to start a noun. Inputs that changed have it made again, and a line says so. Settings that
changed are most likely an option that was forgotten: what took long is then not thrown away without ``replace``.

Cost: a small JSON for every noun on the way to the samples, and one listing of the folder of the noun itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycurate.errors import UserError
from raycurate.run.dates import when
from raycurate.run.manifest import Manifest
from raycurate.run.store import Noun, Run
from raycurate.settings import NounConfig
from raycurate.stages.engine.growth import earlier_states, has_grown
from raycurate.stages.engine.marked import honoured
from raycurate.stages.engine.names import command_for
from raycurate.stages.engine.remedies import told_commands
from raycurate.stages.table import STAGES

log = logging.getLogger("raycurate")

CHEAP = ("selection", "ranking", "tokens", "sketches", "marks")
"""Nouns that are made again without asking: in minutes, or kept under a label made of all that determines them."""
LEAST_SHOWN = 0.05
"""Seconds that are more than 0.0 when they are told."""
LITTLE_SECONDS = 60.0
"""Work of an unfinished noun that may be thrown away for other settings."""
INPUT_NAMES = {
    "files": "the source files have changed",
    "images": "images have changed",
    "task_map": "the task map has changed",
    "model": "the files of the model have changed",
    "given": "the file of given numbers has changed",
    "annotations": "the annotations have changed",
    "image_backend": "images are resized by another library",
    "method": "the file of the method has changed",
    "program": "the files that the command names have changed",
    "task_weights": "the weights of the tasks have changed",
    "own_metrics": "the file of a metric has changed",
    "forgotten": "rows were forgotten",
}


FORMER_DEFAULTS = {("ingest", "task_column"): "task"}
"""(stage, setting) -> the default that a setting without a value had before: nobody gave it."""


@dataclass(frozen=True, slots=True)
class Stale:
    """Why a finished noun is not what its inputs make now.

    Attributes:
        chain: the noun, the one that it was made from, and so on up to the first that is out of date by itself.
        reason: what is the matter with that one.
        grown: the noun's own samples have grown since, and nothing else is the matter.
    """

    chain: tuple[Noun, ...]
    reason: str
    grown: bool = False

    def __str__(self) -> str:
        return self.reason

    @property
    def remedy(self) -> str:
        """The commands that make the noun anew, in their order."""
        return told_commands(reversed(self.chain))


def made_from(description: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprint of each noun that was read, by ``noun/label``.

    Descriptions without ``made_from`` have the fingerprints by noun, under the label that the settings name.
    """
    if "made_from" in description:
        return dict(description["made_from"])
    inputs, config = description.get("inputs"), description.get("config") or {}
    if not isinstance(inputs, Mapping):
        return {}
    known = ("samples", "features", "clusters", "selection")
    return {f"{n}/{config.get(n) or 'main'}": inputs[n] for n in known if isinstance(inputs.get(n), str)}


def nouns_behind(noun: Noun, manifest: Manifest) -> dict[str, Manifest]:
    """By ``noun/label``, what a finished noun was made from and is still there, the samples first, itself last."""
    found: dict[str, Manifest] = {}
    for name in made_from(manifest.description):
        parent = Run(noun.run_uri).noun(*name.split("/", 1))
        if name not in found and (above := parent.manifest()) is not None:
            found |= nouns_behind(parent, above)
    return {**found, _name(noun): manifest}


def why_stale(noun: Noun, manifest: Manifest) -> Stale | None:
    """Why a finished noun is out of date, None where it is current."""
    description = manifest.description
    stage, made_by = description.get("stage", ""), description.get("stage_version")
    version = STAGES[stage].version if stage in STAGES and made_by is not None else made_by
    if version != made_by:
        return Stale((noun,), f"'{_name(noun)}' was made by an earlier version of `{stage}` ({made_by}, now {version})")
    run = Run(noun.run_uri)
    for name, fingerprint in made_from(description).items():
        parent = run.noun(*name.split("/", 1))
        found = parent.manifest()
        if found is None:
            work = parent.read_json("work.json")
            if work is not None and work["fingerprint"] != fingerprint:
                return Stale((noun,), f"'{_name(noun)}' was made from an earlier '{name}', which is being made anew")
            continue
        if found.fingerprint != fingerprint:
            grown = fingerprint in earlier_states(run, found.description)
            how = f"has {'grown' if grown else 'changed'} since"
            if grown and noun.noun == "clusters":
                how += " (cluster --extend keeps its centroids)"
            return Stale((noun,), f"'{_name(noun)}' was made from an earlier '{name}', which {how}", grown)
        if above := why_stale(parent, found):
            return Stale((noun, *above.chain), above.reason)
    return _other_kept(noun, run, description) or _marked_since(noun, run, description)


def _other_kept(noun: Noun, run: Run, description: Mapping[str, Any]) -> Stale | None:
    """Whether the selection whose rows another one keeps is not the one of then; whether it is current is no matter."""
    label, known = (description.get("config") or {}).get("keep_selected"), description.get("inputs")
    found = None if label is None else run.noun("selection", label).manifest()
    if found is None or not isinstance(known, Mapping) or known.get("kept") == found.fingerprint:
        return None
    return Stale((noun,), f"'{_name(noun)}' keeps the rows of an earlier 'selection/{label}', which has changed since")


def _marked_since(noun: Noun, run: Run, description: Mapping[str, Any]) -> Stale | None:
    """Whether a selection that honours all marks was made before some of them were."""
    config = description.get("config") or {}
    if description.get("stage") != "select" or "marks" in config:
        return None
    known = made_from(description)
    for each in honoured(run, config.get("samples", "main"), None):
        if _name(each) not in known:
            reason = (
                f"'{_name(noun)}' was made before '{_name(each)}', whose marks it should honour (--ignore-marks: not)"
            )
            return Stale((noun,), reason)
    return None


def required(noun: Noun, *, of: Manifest | None = None, otherwise: str = "") -> Manifest:
    """The manifest of a noun that a stage reads: finished, and current at every step up to the samples.

    Args:
        noun: what is read.
        of: the manifest of the samples that it must have been made from.
        otherwise: what else a user can do.

    Raises:
        UserError: what is not so, with the commands that make it so.
    """
    manifest = noun.require(command_for(noun))
    if lost := lost_files(noun, manifest):
        raise UserError(f"'{_name(noun)}' is not whole: {lost}. Run {told_commands([noun])} again{otherwise}.")
    stale = why_stale(noun, manifest)
    if stale is not None:
        out_of_date = "" if len(stale.chain) == 1 else f"'{_name(noun)}' is out of date: "
        raise UserError(f"{out_of_date}{stale.reason}. Run {stale.remedy} again{otherwise}.")
    if of is not None:
        behind = dict(_samples_behind(noun, manifest))
        if behind and behind.get(f"samples/{of.label}") != of.fingerprint:
            raise UserError(
                f"'{_name(noun)}' was made from '{', '.join(behind)}', and 'samples/{of.label}' is asked for. Name "
                f"those samples, or another label, or run `raycurate {command_for(noun)}` on 'samples/{of.label}'."
            )
    return manifest


def _samples_behind(noun: Noun, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Name and fingerprint of the samples that a noun comes from in the end."""
    for name, fingerprint in made_from(manifest.description).items():
        parent = Run(noun.run_uri).noun(*name.split("/", 1))
        if parent.noun == "samples":
            yield name, fingerprint
            # A subset of other samples is samples by itself.
        elif (found := parent.manifest()) is not None:
            yield from _samples_behind(parent, found)


def begin(noun: Noun, description: Mapping[str, Any], *, replace: bool = False, by_shard: bool = False) -> None:
    """Start making a noun, or go on with it; what is there already and was made otherwise is removed.

    Args:
        noun: what is made.
        description: of it.
        replace: throw away what took long.
        by_shard: each part follows from its own shard alone: parts of samples that have only grown since stay.

    Raises:
        UserError: a noun that took long, or much work on one, with other settings and without `replace`.
    """
    keep_unless(noun, description, replace=replace)
    before = _description_of(noun) if by_shard else None
    if before is not None and has_grown(Run(noun.run_uri), before, description):
        log.info("%s: its samples have grown: what there is of the earlier rows stays", _name(noun))
        noun.extend(description)
        return
    told = changes(noun, description)
    if told:
        settings = changed_settings(noun, description)
        level = logging.INFO if noun.noun in CHEAP else logging.WARNING
        log.log(level, "%s: %s: %s", _name(noun), "replaced" if settings else "made again", "; ".join(told))
    noun.begin(description)


def keep_unless(noun: Noun, description: Mapping[str, Any], *, replace: bool) -> None:
    """Refuse to throw away what took long because of other settings; `begin` asks it, and who works long before that.

    Raises:
        UserError: as `begin`.
    """
    settings = changed_settings(noun, description)
    if not replace and settings and noun.noun not in CHEAP:
        _refuse_what_took_long(noun, settings)


def keep_table(noun: Noun, config: NounConfig, grows: Sequence[str] = ()) -> None:
    """Refuse to write another table over that of a finished experiment; one that holds it all is no other.

    Args:
        noun: of the experiment; its metrics have the settings under `config`.
        config: the settings that are asked for.
        grows: settings that are lists, where more values only add lines, or bounds (None: none), where higher ones do.

    Raises:
        UserError: other settings, without `replace`.
    """
    manifest = noun.manifest()
    if manifest is None or "config" not in manifest.metrics or config.replace:
        return
    old, new = dict(manifest.metrics["config"]), _plain(config.determining())
    for name in grows:
        if _holds(new.get(name), old.get(name)):
            old[name] = new.get(name)
    if lost := differences({name: value for name, value in old.items() if value is not None}, new):
        _refuse_what_took_long(noun, lost, "its tables would be written over, while trainings that both have stay")


def _holds(asked: Any, held: Any) -> bool:
    """Whether a list has all values of another, or a bound is no lower."""
    if isinstance(held, list | tuple) or isinstance(asked, list | tuple):
        return set(held or ()) <= set(asked or ())
    return asked is None or (held is not None and held <= asked)


def _refuse_what_took_long(noun: Noun, settings: Sequence[str], loss: str = "it would be deleted") -> None:
    manifest = noun.manifest()
    if manifest is not None:
        facts = [f"has {manifest.rows_out:,} rows"] if manifest.rows_out else []
        facts += [f"took {manifest.seconds:,.1f} s"] if manifest.seconds >= LEAST_SHOWN else []
        lost = f"It {' and '.join(filter(None, (', '.join(facts), f'is from {when(manifest.created)}')))}"
    else:
        seconds = float((noun.read_json("work.json") or {}).get("seconds", 0.0))
        if seconds < LITTLE_SECONDS:
            return
        rows = sum(record.rows_out for record in noun.records().values())
        lost = f"It is not finished and has {rows:,} rows, which took {seconds:,.0f} s"
    raise UserError(
        f"'{_name(noun)}' is there with other settings: {'; '.join(settings)}. {lost}; {loss}. Give the "
        "new one a name of its own (--label NAME), or say that it replaces the old one (--replace; with "
        "--set or in a recipe: replace=true)."
    )


def changed_settings(noun: Noun, description: Mapping[str, Any]) -> list[str]:
    """Each setting in which what is there differs from what is asked for: ``name old -> new``.

    A description without ``made_from`` is of code that did not name all of today's settings: only those count that it
    names, or a new name would be taken for an option that was forgotten.
    """
    old = _description_of(noun)
    if old is None:
        return []
    asked, before = description.get("config") or {}, old.get("config") or {}
    if "made_from" not in old:
        asked = {name: value for name, value in asked.items() if name in before}
    former = {name: value for (stage, name), value in FORMER_DEFAULTS.items() if stage == old.get("stage")}
    given = {name: value for name, value in before.items() if name in asked or former.get(name, ...) != value}
    return differences(given, asked)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """``name old -> new`` of each value that differs; sections are told value by value."""
    found: list[str] = []
    for name in dict.fromkeys((*old, *new)):
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += [f"{name}.{each}" for each in differences(a, b)]
        elif _plain(a) != _plain(b):
            found.append(f"{name} {_short(a)} -> {_short(b)}")
    return found


def changes(noun: Noun, description: Mapping[str, Any]) -> list[str]:
    """Why what is there is not what `description` makes; empty where nothing is there, or it is just that."""
    old, manifest = _description_of(noun), noun.manifest()
    if old is None:
        return []
    lost = [found] if manifest is not None and (found := lost_files(noun, manifest)) else []
    if old == _plain(description):
        return lost
    told = changed_settings(noun, description)
    before, now = made_from(old), made_from(description)
    told += [f"'{name}' has changed" for name in now if name in before and now[name] != before[name]]
    if old.get("stage_version") != description.get("stage_version"):
        told.append(f"`{description.get('stage')}` has changed")
    if not told:
        a, b = old.get("inputs"), description.get("inputs")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names = [name for name in b if _plain(a.get(name)) != _plain(b.get(name))]
            told = [INPUT_NAMES.get(name, f"{name} has changed") for name in names]
    return told or lost or ["what it is made from has changed"]


def lost_files(noun: Noun, manifest: Manifest) -> str:
    """Which files of a finished noun are gone; '' where all are there."""
    lost = noun.lost_files(manifest)
    if not lost:
        return ""
    files = "1 of its files is" if len(lost) == 1 else f"{len(lost):,} of its files are"
    return f"{files} gone or cut short, for example {lost[0]}"


def _description_of(noun: Noun) -> dict[str, Any] | None:
    """What is there, or was begun, was to be; None where there is nothing."""
    manifest = noun.manifest()
    if manifest is not None:
        return manifest.description
    work = noun.read_json("work.json")
    return None if work is None else dict(work["description"])


def _name(noun: Noun) -> str:
    return f"{noun.noun}/{noun.label}"


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value


def _short(value: Any) -> str:
    text = "default" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
