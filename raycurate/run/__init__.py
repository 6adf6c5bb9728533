"""The run directory, and how work on it shows: nouns, lock, files, paths and labels, progress, metrics, log lines."""
