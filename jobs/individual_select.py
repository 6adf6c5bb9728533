"""Choose which candidate datasets to add to a baseline: a recipe's `ingest`, `test` (to score on), `individual_select`.

\b
On a cluster (the run directory and the data must be reachable from all nodes):
  ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- \\
    python jobs/individual_select.py --recipe jobs/recipes/demo_individual.yaml --set run=s3://bucket/runs/choice

Submit the same line again after a failure: finished trainings are not run again.
"""

from raycurate.cli.jobs import recipe_job
from raycurate.recipe import CHOOSING

main = recipe_job(CHOOSING, __doc__)

if __name__ == "__main__":
    main()
