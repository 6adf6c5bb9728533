"""A recipe: one YAML file for a whole run, one section per stage; ``--set section.field=value`` on top."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import create_model, model_validator

from raycurate.config import ClusterConfig, IngestConfig, SessionConfig
from raycurate.errors import UserError
from raycurate.run.paths import LocalPath
from raycurate.selection import build_selector
from raycurate.settings import StageConfig, apply_override, make_config
from raycurate.stages.selecting.auto import AUTO
from raycurate.stages.selecting.weights import check_shares
from raycurate.stages.table import STAGES

CURATION = ("ingest", "extract", "score", "cluster", "dedup", "decontaminate", "rank", "select", "export")
TRAINING = ("test", "finetune", "evaluate", "compare")
BALANCING = ("validation", "test", "balance", "compare_weights")
CHOOSING = ("ingest", "test", "individual_select")
NOT_NOUNS = ("ray", "export")
"""Sections that make no noun of the run, so none that could be replaced."""
FILL_IN = "FILL_IN"
"""In a value of a recipe that `raycurate init` wrote: what only the user knows."""
IMPLIED = ("extract", "rank", "select")
"""Stages between `ingest` and `cluster`, and after it: a recipe that has these two runs them, named or not."""


class _Recipe(StageConfig):
    """What a recipe has beside the sections of stages."""

    run: LocalPath
    replace: bool = False
    ray: SessionConfig = SessionConfig()  # type: ignore[call-arg]
    more_clusters: tuple[ClusterConfig, ...] = ()
    validation: IngestConfig | None = None
    test: IngestConfig | None = None

    def section(self, name: str) -> Any:
        """The config of a section; None for one that the recipe does not have."""
        return getattr(self, name)

    @model_validator(mode="before")
    @classmethod
    def _imply(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("ingest") is not None and values.get("cluster") is not None:
            return {**{name: {} for name in IMPLIED}, **values}
        return values

    @model_validator(mode="before")
    @classmethod
    def _replace_all(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("replace") is not True:
            return values

        def told(name: str, section: Any) -> Any:
            if isinstance(section, list | tuple):
                return [told(name, each) for each in section]
            return {"replace": True, **section} if isinstance(section, dict) and name not in NOT_NOUNS else section

        return {name: told(name, section) for name, section in values.items()}

    @model_validator(mode="after")
    def _check_labels(self) -> _Recipe:
        labels: dict[str, str] = {}
        for name in ("ingest", "validation", "test"):
            config = self.section(name)
            if config is not None and (other := labels.setdefault(config.label, name)) != name:
                raise ValueError(
                    f"{name}.label is '{config.label}' as {other}'s: one would replace the other's samples"
                )
        clusters = self.section("cluster")
        clusterings = [each.label for each in (*([clusters] if clusters else []), *self.more_clusters)]
        if twice := [label for label in clusterings if clusterings.count(label) > 1]:
            raise ValueError(f"two clusterings have the label '{twice[0]}': give each of more_clusters its own label")
        return self

    @model_validator(mode="after")
    def _check_options(self) -> _Recipe:
        """A method's options are wrong when the recipe is read, not hours later when it selects."""
        config = self.section("select")
        if config is not None and config.method != AUTO:
            try:
                check_shares(config, build_selector(config.method, config.options))
            except UserError as error:
                raise ValueError(f"select: {error}") from None
        return self


RECIPE_DOC = """A whole run: one section per stage, in the order in which they run. What has no section is not run.

Attributes:
    run: folder or URI of the run directory.
    replace: `replace` of every section that does not say otherwise.
    ray: the cluster.
    more_clusters: further clusterings, each of its own features and under its own label.
    validation: rows that score the probes of `balance`, ingested under their own label; none of them is in `test`.
    test: a held-out dataset for `evaluate`, `compare` and `compare_weights`, ingested under its own label.

The other sections are the stages and experiments of `stages/table.py`, by their names with `_` for `-`.
"""
if TYPE_CHECKING:

    class Recipe(_Recipe):
        """A whole run."""

else:
    _SECTIONS = {stage.section: (stage.load_config() | None, None) for stage in STAGES.values() if stage.config}
    Recipe = create_model("Recipe", __base__=_Recipe, __module__=__name__, __doc__=RECIPE_DOC, **_SECTIONS)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``a.b=value`` overrides. Values are YAML: numbers, lists, null, quoted text."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the recipe {path}: {error.strerror}. jobs/recipes/ holds examples.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must be a mapping of sections (run, ingest, extract, cluster, select, ...)")
    for override in overrides:
        apply_override(values, override)
    return make_config(Recipe, values, str(path))


def check_filled_in(recipe: Recipe, aside: Sequence[str] = ()) -> None:
    """Refuse a recipe in which something still waits to be filled in.

    Args:
        recipe: to be run, or looked at.
        aside: fields that may wait.

    Raises:
        UserError: such a recipe.
    """
    open_fields = [field for field in _open_fields(recipe.model_dump(mode="json")) if field not in aside]
    if open_fields:
        raise UserError(
            f"the recipe still has {FILL_IN} in {', '.join(open_fields)}: put your own values there, or give them with "
            f"--set {open_fields[0]}=..."
        )


def _open_fields(values: Any, path: str = "") -> Iterator[str]:
    """Paths of the values that have the mark."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _open_fields(value, f"{path}.{name}" if path else name)
    elif isinstance(values, list):
        for value in values:
            yield from _open_fields(value, path)
    elif isinstance(values, str) and FILL_IN in values:
        yield path
