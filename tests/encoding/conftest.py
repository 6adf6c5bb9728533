"""The tiny models and rows that tests of features have too."""

from tests.features.conftest import samples as samples
from tests.features.conftest import tiny_vlm as tiny_vlm
