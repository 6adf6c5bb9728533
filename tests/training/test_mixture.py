"""Which rows a mixture has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.errors import UserError
from raycurate.models.adapter import load_processor
from raycurate.settings import make_config
from raycurate.training.config import FinetuneConfig
from raycurate.training.data import TokenDataset, TokenSource
from raycurate.training.mixture import MixturePart, choose_rows, row_hash
from tests.tiny_vlms import make_tiny_vlm
from tests.training.made_runs import TASKS, write_run, write_tokens

GROUPS = ["a", "b", "c"]


@given(
    groups=st.lists(st.sampled_from([*GROUPS, None]), min_size=1, max_size=60),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_a_part_has_the_rows_of_lowest_hash(groups, seed, data):
    """As a naive sort of each group says; a smaller draw lies inside, a skipping one outside of a larger."""
    keys = [f"key {number}" for number in range(len(groups))]
    sizes = {group: groups.count(group) for group in GROUPS if group in groups}
    if not sizes:
        return
    wanted = {group: data.draw(st.integers(1, size)) for group, size in sizes.items()}
    chosen = choose_rows(groups, keys, MixturePart(rows=wanted), seed=seed, where="x").tolist()
    naive = []
    for group, count in wanted.items():
        members = sorted((row_hash(keys[n], seed), n) for n, each in enumerate(groups) if each == group)
        naive += [n for _, n in members[:count]]
    assert chosen == sorted(naive)
    more = choose_rows(groups, keys, MixturePart(rows=sizes), seed=seed, where="x").tolist()
    assert set(chosen) <= set(more)
    skip = min(wanted.values())
    rest = {group: size - skip for group, size in sizes.items() if size > skip and wanted[group] == skip}
    if rest:
        others = choose_rows(groups, keys, MixturePart(rows=rest, skip=skip), seed=seed, where="x").tolist()
        assert not set(others) & set(chosen)


def test_seeds_draw_differently():
    """Another seed, other rows."""
    keys, part = [str(n) for n in range(200)], MixturePart(rows={"a": 50})
    drawn = [choose_rows(["a"] * 200, keys, part, seed=seed, where="x").tolist() for seed in (0, 1)]
    assert drawn[0] != drawn[1]


def test_too_many_rows_are_refused():
    """The message says how many there are."""
    with pytest.raises(UserError, match=r"'a' of samples/main has 3 rows .* 2 are asked for after the first 2"):
        choose_rows(["a"] * 3, list("xyz"), MixturePart(rows={"a": 2}, skip=2), seed=0, where="samples/main")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixture": [{"rows": {"a": 0}}]}, "at least 1"),
        ({"mixture": [{"rows": {}}]}, "names no group"),
        ({"mixture": [{"skip": 3}]}, "need rows"),
        ({"mixture": []}, "at least 1"),
        ({"mixture": [{}], "limit": 5}, "limit is not for a mixture"),
        ({"weights": {"a": 1.0}, "weighting": "rlw"}, "give one"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    """Before any work."""
    with pytest.raises(UserError, match=message):
        make_config(FinetuneConfig, settings)


def test_a_dataset_has_the_rows_of_its_sources(tmp_path):
    """All rows of one source and a few of each task of another, each with its own labels, in their order."""
    model = str(make_tiny_vlm("llava", tmp_path / "model"))
    tokens = write_tokens(write_run(tmp_path / "run", 30), model)
    processor = load_processor(model)
    whole = TokenDataset([TokenSource(tokens)], processor, TASKS, scratch=tmp_path)
    few = TokenSource(tokens, part=MixturePart(rows={TASKS[0]: 2, TASKS[1]: 3}), seed=7)
    mixed = TokenDataset([few, TokenSource(tokens)], processor, TASKS, scratch=tmp_path)
    assert mixed.num_rows == whole.num_rows + 5
    assert np.bincount(mixed.tasks_N[:5], minlength=2)[:2].tolist() == [2, 3]
    place = {whole.key(n): n for n in range(whole.num_rows)}
    for number in range(mixed.num_rows):
        same = whole[place[mixed.key(number)]]
        np.testing.assert_array_equal(mixed[number].ids_T, same.ids_T)
        np.testing.assert_array_equal(mixed[number].labels_T, same.labels_T)
    assert (mixed[mixed.num_rows].labels_T == -100).all()
