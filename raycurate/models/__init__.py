"""One adapter over transformers' image-text-to-text models, and the embedded tiny model."""
