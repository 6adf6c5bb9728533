"""The tiny vision-language model that comes with the package: LLaVA's architecture, 2.0 M parameters, bfloat16, 4 MB.

It is trained on procedural scenes only (`corpus.py`), so that everything can be tried without a download.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["tiny_model_dir"]


def tiny_model_dir() -> Path:
    """Return the folder of the embedded model, in `save_pretrained` layout (model, processor, tokenizer)."""
    return Path(str(files(__name__))) / "weights"
