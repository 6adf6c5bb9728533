"""Compare selections over methods, temperatures, ratios and seeds: the section `sweep` of a recipe.

\b
On a cluster, after `jobs/curate.py` with the same recipe and run directory:
  ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- \\
    python jobs/sweep.py --recipe my_recipe.yaml --set run=s3://bucket/runs/llava665k \\
      --set sweep.methods=[coincide,random] --set sweep.ratios=[0.05,0.1,0.2]

Submit the same line again after a failure, or with more points: finished trials are kept.
"""

from raycurate.cli.jobs import recipe_job

main = recipe_job(("sweep",), __doc__)

if __name__ == "__main__":
    main()
