"""The pieces of `select`: the small tables that a plan reads, the weights of tasks, what is told of the result."""
