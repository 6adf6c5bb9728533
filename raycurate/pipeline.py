"""The stages of a recipe in order, each resumed where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from raycurate.config import RankConfig
from raycurate.recipe import CURATION, Recipe, check_filled_in
from raycurate.run.lock import run_lock
from raycurate.run.manifest import Manifest
from raycurate.run.paths import balance_of
from raycurate.run.store import Run
from raycurate.stages.selecting.auto import AUTO
from raycurate.stages.table import STAGES, Stage, stage_of

Report = Callable[[Manifest, float], None]
TEST_SETS = ("validation", "test")
"""Sections that ingest rows for others to read; they come after the curation, before what is trained and scored."""
BEFORE_SELECT = ("validation", "balance", "choose")
"""Sections that come before `select` where it reads what they make: weights of tasks, the method itself."""
SECTIONS = (
    *CURATION,
    *TEST_SETS,
    *(stage.section for stage in STAGES.values() if stage.config and stage.section not in CURATION),
)
"""The sections of a recipe that run, in their order."""


def run_recipe(recipe: Recipe, report: Report | None = None, *, sections: Sequence[str] = SECTIONS) -> list[Manifest]:
    """Run the stages that a recipe has. A finished stage with the same fingerprint costs nothing.

    Args:
        recipe: the whole run's config.
        report: called after each stage with its manifest and the seconds that it took now.
        sections: only these of the recipe's sections; what they read must be in the run directory.

    Raises:
        UserError: a recipe in which something is still to be filled in, or an error of a stage.
    """
    from raycurate.ray_session import ray_session  # Ray takes a second, and `status` needs none

    check_filled_in(recipe)
    run = Run(recipe.run)
    manifests: list[Manifest] = []
    planned = [step for step in steps_of(recipe) if step[0] in sections]
    trains = any(getattr(config, "needs_dashboard", False) for _, _, config in planned)
    session = recipe.ray.model_copy(update={"dashboard": recipe.ray.dashboard or trains})
    with run_lock(run.uri), ray_session(session):
        for _, stage, config in planned:
            started = time.monotonic()
            made = stage.load()(run, config)
            for manifest in made if isinstance(made, list) else [made]:
                if isinstance(manifest, Manifest):  # `export` writes a file, no noun
                    manifests.append(manifest)
                    if report:
                        report(manifest, time.monotonic() - started)
    return manifests


def steps_of(recipe: Recipe) -> Iterator[tuple[str, Stage, Any]]:
    """The sections of a recipe in their order, the stage of each and its settings."""
    for name in _order(recipe):
        config = recipe.section(name)
        if config is None:
            continue
        stage = stage_of("ingest" if name in TEST_SETS else name)
        if name == "rank":
            yield from ((name, stage, each) for each in _rankings(recipe, config))
            continue
        yield name, stage, config
        if name == "cluster":
            yield from ((name, stage, more) for more in recipe.more_clusters)


def _order(recipe: Recipe) -> tuple[str, ...]:
    """The sections in their order: scores and a selection come after those of the recipe that make what they read."""
    sections = _order_of_cleaning(recipe)
    score, validation = recipe.section("score"), recipe.section("validation")
    if score is not None and validation is not None and validation.label in score.also:
        place = sections.index("score")
        rest = [name for name in sections if name != "validation"]
        return _order_of_select(recipe, (*rest[:place], "validation", *rest[place:]))
    return _order_of_select(recipe, sections)


def _order_of_select(recipe: Recipe, sections: tuple[str, ...]) -> tuple[str, ...]:
    """The same sections, with those before the selection that make what it reads."""
    select = recipe.section("select")
    if select is None:
        return sections
    balance, choose = recipe.section("balance"), recipe.section("choose")
    makers = []
    if choose is not None and select.method == AUTO and select.auto == choose.label:
        makers.append("choose")
        sources = [settings.get("task_weights") for settings in (choose.variants or {}).values()]
    else:
        sources = [select.task_weights]
    if balance is not None and balance.label in map(balance_of, sources):
        makers.append("balance")
    if not makers:
        return sections
    early = sections.index("validation") < sections.index("select")
    first = [name for name in BEFORE_SELECT if (name == "validation" and not early) or name in makers]
    rest = [name for name in sections if name not in first]
    place = rest.index("select")
    return (*rest[:place], *first, *rest[place:])


def _order_of_cleaning(recipe: Recipe) -> tuple[str, ...]:
    """The sections, those rows first that others are compared with: the validation set if it is named, else tests."""
    cleaning, validation = recipe.section("decontaminate"), recipe.section("validation")
    if cleaning is None:
        return SECTIONS
    first = "validation" if validation is not None and cleaning.against == validation.label else "test"
    rest = [name for name in SECTIONS if name != first]
    place = rest.index("decontaminate")
    return (*rest[:place], first, *rest[place:])


def _rankings(recipe: Recipe, config: RankConfig) -> list[RankConfig]:
    """What `rank` makes before the selection: other methods than those of greedy orders rank for themselves, or not."""
    from raycurate.selection import build_selector
    from raycurate.selection.ranked import Ranked
    from raycurate.stages.engine.names import BY_TASK_NEED, by_task_label

    select = recipe.section("select")
    if select is None:
        return [config]
    if select.method == AUTO:
        return []  # `select` ranks for the method that was chosen
    selector = build_selector(select.method, select.options)
    if isinstance(selector, Ranked):
        return []
    made = [config] if "ranking" in selector.needs else []
    if BY_TASK_NEED in selector.needs:
        made.append(config.model_copy(update={"order": "mmd_by_task", "label": by_task_label(config.clusters)}))
    return made
