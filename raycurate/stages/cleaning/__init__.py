"""The parts of `dedup` and `decontaminate`: prints of rows, passes over groups, and the marks that come of them."""
