"""The pieces of `rank`: what it reads, what its tasks hand on, the walk on a graph."""
