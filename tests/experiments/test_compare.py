"""`compare`: what each of its lines selects by."""

from __future__ import annotations

import pytest

from raycurate.errors import UserError
from raycurate.evaluation.config import CompareConfig, settings_of_line
from raycurate.settings import make_config

VARIANTS = {
    "root": {"task_power": 0.5},
    "inside": {"method": "coincide", "envelope": "on", "options": {"density": "code"}},
}


def test_a_variant_is_a_line_with_settings_of_its_own():
    """A method has the options of its name; a variant just what it says."""
    config = make_config(
        CompareConfig,
        {"methods": ["coincide", *VARIANTS], "options": {"coincide": {"temperature": 0.2}}, "variants": VARIANTS},
    )
    found = [settings_of_line(name, config.options, config.variants) for name in config.methods]
    assert found == [{"method": "coincide", "options": {"temperature": 0.2}}, VARIANTS["root"], VARIANTS["inside"]]


@pytest.mark.parametrize(
    ("methods", "variants", "told"),
    [
        (["random"], {"random": {}}, "variant 'random' has the name of a method"),
        (["random"], {"full": {}}, "variant 'full' has the name of a method"),
        (["random"], {"root": {}}, "variant 'root' is not among the methods"),
        (["root"], {"root": {"seed": 3}}, "variants.root.seed is set by the experiment itself"),
    ],
)
def test_a_wrong_variant_is_explained(methods, variants, told):
    """Before anything is made."""
    with pytest.raises(UserError, match=told):
        make_config(CompareConfig, {"methods": methods, "variants": variants})
