"""Choose the coreset: a recipe from `ingest` to `export`, each stage resumed where it stopped.

\b
On a cluster (the run directory and the data must be reachable from all nodes):
  ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- \\
    python jobs/curate.py --recipe jobs/recipes/llava665k_coincide.yaml --set run=s3://bucket/runs/llava665k

Submit the same line again after a failure: what is finished is skipped.
"""

from raycurate.cli.jobs import recipe_job
from raycurate.recipe import CURATION

main = recipe_job(CURATION, __doc__)

if __name__ == "__main__":
    main()
