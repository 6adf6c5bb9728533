"""A conversation and its images as what models read: text, token ids, masks, pixels, batches."""
