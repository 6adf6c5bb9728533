"""Ways to look at a run directory: what happened to one row, which rows stayed, how two selections differ.

They read nouns and make none.
"""
