"""Weigh the tasks by probe trainings, and measure the weights: `validation`, `test`, `balance`, `compare_weights`.

\b
On a cluster (`ingest` too, where it is not done yet; the run directory must be reachable from all nodes):
  ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- \\
    python jobs/balance.py --recipe jobs/recipes/demo_balance.yaml --set run=s3://bucket/runs/demo

Submit the same line again after a failure: finished probes are not trained again.
"""

from raycurate.cli.jobs import recipe_job
from raycurate.recipe import BALANCING

main = recipe_job(("ingest", *BALANCING), __doc__)

if __name__ == "__main__":
    main()
