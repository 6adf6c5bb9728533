"""Choose what a vision-language model should learn from, and how much of each, on Ray.

The way of the data: ``ingest -> extract -> cluster -> rank -> select -> export``. Each arrow is a stage (a function
of a run directory and a typed config); each noun that a stage writes is a Parquet dataset in that run directory.
"""

__version__ = "0.1.0"
