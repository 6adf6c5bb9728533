"""The table of families in raycurate/models/README.md says what each family does, measured on a small random model."""

from __future__ import annotations

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from raycurate.encoding.probe import check_processor
from raycurate.errors import UserError
from raycurate.models.adapter import check_supported, wrap_vlm
from tests.family_networks import make_network
from tests.family_processors import make_processor
from tests.family_table import USES, read_families, read_further, read_refused
from tests.models.family_checks import FamilyChecks

FAMILIES = read_families()
FURTHER = read_further()
REFUSED = read_refused()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_does_what_the_table_says(name):
    """Features, losses, a training step and answers are those of the model's own pass over its processor's inputs."""
    checks = _checks(name)
    for use in sorted(USES, key="train".__eq__):  # training changes the model: last
        if FAMILIES[name].works[use]:
            getattr(checks, use)()
        else:
            with pytest.raises(UserError) as refused:
                getattr(checks, use)()
            assert FAMILIES[name].reason in str(refused.value)


@pytest.mark.parametrize("name", FURTHER)
def test_a_family_of_further_packages_does_all(name):
    """Where they are installed."""
    for package in FURTHER[name]:
        pytest.importorskip(package)
    checks = _checks(name)
    for use in sorted(USES, key="train".__eq__):
        getattr(checks, use)()


def _checks(name: str) -> FamilyChecks:
    """The checks of a small network of a family, whose processor is found right."""
    processor = make_processor(name)
    network = make_network(name, processor)
    check_processor(processor, name, network.config)
    return FamilyChecks(wrap_vlm(network, processor, name=name))


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_is_not_in_the_table_is_refused_with_the_reason(name):
    """By its configuration, or by what its processor gives."""
    with pytest.raises(UserError) as refused:
        _look_at(name)
    assert REFUSED[name] in str(refused.value)


def _look_at(name: str) -> None:
    """What is asked before a row is read."""
    config = CONFIG_MAPPING[name]()
    check_supported(name, config)
    processor = make_processor(name)
    if hasattr(processor, "image_token_id"):
        config.image_token_id = processor.image_token_id
    check_processor(processor, name, config)


def test_no_family_is_in_two_tables():
    """Or not tried; 25 and more do all."""
    known = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.keys()
    assert not FAMILIES.keys() & REFUSED.keys()
    assert not FURTHER.keys() & (FAMILIES.keys() | REFUSED.keys())
    assert len([family for family in FAMILIES.values() if all(family.works.values())]) >= 25
    assert (FAMILIES.keys() | FURTHER.keys() | REFUSED.keys()) <= known
