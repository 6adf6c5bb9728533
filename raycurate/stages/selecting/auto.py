"""Method 'auto': what `choose` took, with the settings that it was measured with.

    choices/LABEL/choice.json   method and settings of `select` --> the config of the selection

A selection is described by the settings that were found and by the choice, so another choice makes it stale.
"""

from __future__ import annotations

from raycurate.config import SelectConfig
from raycurate.errors import UserError
from raycurate.run.manifest import Manifest
from raycurate.run.store import Run
from raycurate.settings import make_config
from raycurate.stages.engine.lineage import required

AUTO = "auto"
NOUN, FILE = "choices", "choice.json"
OPEN = ("ratio", "seed", "label", "samples", "marks", "keep_selected", "replace", "max_tasks", "auto")
"""Fields that are the user's own beside method 'auto'; all others come with the choice."""


def settled(run: Run, config: SelectConfig) -> tuple[SelectConfig, list[Manifest]]:
    """The config itself, or, of method 'auto', the one that was chosen; and the choice that was read, if any.

    Raises:
        UserError: no finished choice, a stale one, or settings that belong to the method that is not known yet.
    """
    if config.method != AUTO:
        return config, []
    given = sorted(name for name in config.model_fields_set - {"method"} - set(OPEN) if _changed(config, name))
    if given:
        raise UserError(
            f"method 'auto' takes {', '.join(given)} from what `raycurate choose` measured; give it there as a variant"
        )
    noun = run.noun(NOUN, config.auto)
    manifest = required(noun)
    choice = noun.read_json(FILE)
    assert choice is not None, "a finished choice has its file"
    own = {name: getattr(config, name) for name in OPEN if _changed(config, name)}
    return make_config(SelectConfig, {**choice["select"], **own}, f"choices/{config.auto}"), [manifest]


def _changed(config: SelectConfig, name: str) -> bool:
    return bool(getattr(config, name) != SelectConfig.model_fields[name].get_default(call_default_factory=True))
