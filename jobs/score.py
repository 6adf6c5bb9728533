"""Run the forward passes that selection methods share: the section `score` of a recipe.

\b
On a cluster, after `jobs/curate.py` with the same recipe and run directory:
  ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- \\
    python jobs/score.py --recipe my_recipe.yaml --set run=s3://bucket/runs/llava665k \\
      --set score.scores=[token_losses,mean_token] --set score.model=llava-hf/llava-1.5-7b-hf

Submit the same line again after a failure: it makes the missing shards only.
"""

from raycurate.cli.jobs import recipe_job

main = recipe_job(("score",), __doc__)

if __name__ == "__main__":
    main()
