"""Choose what a vision-language model should learn from, and how much of each, on Ray.

The way of the data: ``ingest -> extract -> cluster -> rank -> select -> export``. Each arrow is a stage (a function
of a run directory and a typed config); each noun that a stage writes is a Parquet dataset in that run directory.

    import raycurate as rc
    run = rc.Run("runs/mine")
    rc.ingest(run, rc.IngestConfig(source="train.json", images="images"))
    rc.extract(run, rc.ExtractConfig(model="tiny"))
    rc.cluster(run, rc.ClusterConfig(clusters=100))
    rc.select(run, rc.SelectConfig(ratio=0.2))
    rc.export(run, rc.ExportConfig(out="coreset.json"))

Names are loaded on first use, so that ``import raycurate`` is quick. A stage uses the Ray cluster that is connected, or
starts a local one for itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raycurate.stages.table import STAGES, load
from raycurate.version import __version__ as __version__

if TYPE_CHECKING:
    from raycurate.config import ClusterConfig as ClusterConfig
    from raycurate.config import ExportConfig as ExportConfig
    from raycurate.config import ExtractConfig as ExtractConfig
    from raycurate.config import IngestConfig as IngestConfig
    from raycurate.config import RankConfig as RankConfig
    from raycurate.config import ScoreConfig as ScoreConfig
    from raycurate.config import SelectConfig as SelectConfig
    from raycurate.pipeline import run_recipe as run_recipe
    from raycurate.recipe import Recipe as Recipe
    from raycurate.recipe import load_recipe as load_recipe
    from raycurate.run.store import Run as Run
    from raycurate.stages.cluster import cluster as cluster
    from raycurate.stages.export import export as export
    from raycurate.stages.extract import extract as extract
    from raycurate.stages.ingest import ingest as ingest
    from raycurate.stages.rank import rank as rank
    from raycurate.stages.score import score as score
    from raycurate.stages.select import select as select

_PLACES = {
    "Run": "run.store:Run",
    "Recipe": "recipe:Recipe",
    "load_recipe": "recipe:load_recipe",
    "run_recipe": "pipeline:run_recipe",
    **{
        place.partition(":")[2]: place
        for stage in STAGES.values()
        if stage.public
        for place in (stage.function, stage.config)
    },
}
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'raycurate' has no attribute '{name}'")
    return load(_PLACES[name])
