"""``raycurate init``: a look at the data, then a recipe, the files of a cluster and the commands to run.

`look.py` reads a bounded part of the data; `choices.py` finds settings that fit it and the machine; `cluster_files.py`
fills in the files of `cluster_configs/`, which lie in the package by a link, so that there is one copy of each;
`files.py` renders the rest from `templates/` and writes all of it.
"""

TARGETS = ("local", "slurm", "kuberay", "aws", "gcp", "azure")
"""Where a run may be; the command line needs no more of this room until it is asked to write."""
