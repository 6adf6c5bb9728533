"""Forward passes to numbers per sample: prepare batches, run the truncated model, pool to unit rows."""
