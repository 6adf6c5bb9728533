"""Finetune on the coreset and score it: the sections `test`, `finetune`, `evaluate` and `compare` of a recipe.

\b
On a cluster, after `jobs/curate.py` with the same recipe and run directory:
  ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- \\
    python jobs/finetune.py --recipe jobs/recipes/demo.yaml --set run=s3://bucket/runs/demo

Submit the same line again after a failure: it goes on from the last checkpoint.
"""

from raycurate.cli.jobs import recipe_job
from raycurate.recipe import TRAINING

main = recipe_job(TRAINING, __doc__)

if __name__ == "__main__":
    main()
