"""Will it run here? What a machine, a cluster and a run directory are like, what is wrong, and what mends it."""
