"""PRISM and ScalSelect against numpy on whole matrices: ties, copies, rows of text alone, sums of any blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from raycurate.errors import UserError
from raycurate.selection import Goal, SelectionTables, build_selector
from raycurate.selection.base import ClusterTable
from raycurate.selection.keys import key_array, key_hashes
from raycurate.selection.methods.by_image import ByImage
from raycurate.selection.methods.prism import Prism
from raycurate.selection.methods.scalselect import ScalSelect
from raycurate.selection.ranked import NO_IMAGE, RankedByPasses
from tests.selection.selection_cases import in_blocks, kept_keys, sample_keys, unit_features

DIM = 10


def values_of(
    method: ByImage, features: NDArray[np.float16], lengths: NDArray[np.float64], cuts: Sequence[int]
) -> NDArray[np.float64]:
    """The numbers of all rows, added up over the blocks between the cuts."""
    total: dict[str, NDArray[np.float64]] = {}
    for start, stop in zip([0, *cuts], [*cuts, len(features)], strict=True):
        for name, values in method.rank_sum(features[start:stop], lengths[start:stop]).items():
            total[name] = total[name] + values if name in total else values
    return method.rank_value(features, lengths, method.rank_fit(total, len(features)))


def case(seed: int, rows: int) -> tuple[NDArray[np.float16], NDArray[np.float64]]:
    """Unit rows, some of them copies, and their lengths."""
    features = unit_features(rows, DIM, seed, spread=1.5)
    features[::4] = features[rows // 2]
    return features, np.random.default_rng(seed).uniform(0.5, 3.0, rows).astype(np.float32).astype(np.float64)


@given(seed=st.integers(0, 300), rows=st.integers(2, 60))
def test_prism_is_the_mean_of_a_row_of_the_correlation_matrix(seed: int, rows: int) -> None:
    """numpy's own N x N matrix, to the grid of the centred rows; the same bits for any blocks."""
    features, lengths = case(seed, rows)
    found = values_of(Prism(), features, lengths, [])
    assert found == pytest.approx(np.corrcoef(features.astype(np.float64)).mean(axis=1), abs=1e-7)
    cuts = sorted(np.random.default_rng(seed).integers(0, rows + 1, 3).tolist())
    assert values_of(Prism(), features, lengths, cuts).tolist() == found.tolist()


@given(seed=st.integers(0, 300), rows=st.integers(3, 60), energy=st.sampled_from([0.5, 0.9, 1.0]))
def test_scalselect_is_the_leverage_of_the_singular_vectors(seed: int, rows: int, energy: float) -> None:
    """||U_k||^2 of the centred rows at their own length, k by energy; the same bits for any blocks."""
    features, lengths = case(seed, rows)
    method = ScalSelect(energy=energy)
    raw = features.astype(np.float64) * lengths[:, None]
    raw = np.rint(raw * 2**19) / 2**19
    left, singular, _ = np.linalg.svd(raw - raw.mean(axis=0), full_matrices=False)
    held = np.cumsum(singular**2) / max(float((singular**2).sum()), 1e-300)
    count = int((held < energy - 1e-9).sum()) + 1
    found = values_of(method, features, lengths, [])
    clear = count >= len(singular) or singular[count - 1] > 1e-3 + singular[count] if singular[0] > 0.1 else False
    if clear and singular[count - 1] > 1e-2:
        assert found == pytest.approx((left[:, :count] ** 2).sum(axis=1), abs=1e-5)
    assert values_of(method, features, lengths, [rows // 3, rows // 2]).tolist() == found.tolist()
    one = values_of(ScalSelect(rank=1), features, lengths, [])
    assert one.sum() == pytest.approx(1.0, abs=1e-9) or not np.ptp(raw, axis=0).any()


def table_of(values: list[float], text: list[bool], seed: int = 0) -> pa.Table:
    """Rows as `select` joins them."""
    shown = [None if bare else value for value, bare in zip(values, text, strict=True)]
    clusters = [NO_IMAGE if bare else NO_IMAGE + 1 for bare in text]
    return pa.table(
        {
            "key": sample_keys(len(values), seed),
            "cluster": pa.array(clusters, pa.int32()),
            "value": pa.array(shown, pa.float64()),
        }
    )


def tables_of(text: list[bool], rows: int) -> SelectionTables:
    """What `rank` writes beside the rows."""
    sizes = np.array([sum(text), len(text) - sum(text)])
    return SelectionTables(num_rows=rows, clusters=ClusterTable(cluster_K=np.array([0, 1]), size_K=sizes))


@given(
    values=st.lists(st.sampled_from([-0.5, 0.0, 0.25, 0.250001, 1.0]), min_size=1, max_size=70),
    ratio=st.floats(0.01, 1),
    every=st.sampled_from([1, 2, 5, 1000]),
    name=st.sampled_from(["prism", "scalselect"]),
)
def test_the_first_rows_with_an_image_and_a_draw_of_the_others(
    values: list[float], ratio: float, every: int, name: str
) -> None:
    """Shares by size, ties by key, exactly the budget, for any blocks; all rows may be of text alone."""
    text = [i % every == 0 for i in range(len(values))]
    table, sign = table_of(values, text), 1 if name == "prism" else -1
    keys, target = table["key"].to_pylist(), round(ratio * len(values))
    whole = target * sum(text) // len(text)
    parts = [whole, target * (len(text) - sum(text)) // len(text)]
    if sum(parts) < target:
        rest = [target * sum(text) % len(text), target * (len(text) - sum(text)) % len(text)]
        parts[0 if rest[0] >= rest[1] else 1] += 1
    hashes = key_hashes(key_array(table["key"]), seed=4, purpose="draw").tolist()
    drawn = sorted((i for i in range(len(text)) if text[i]), key=lambda i: hashes[i])[: parts[0]]
    first = sorted((i for i in range(len(text)) if not text[i]), key=lambda i: (sign * values[i], keys[i]))[: parts[1]]
    goal = Goal(ratio=ratio, seed=4)
    kept = kept_keys(build_selector(name), tables_of(text, len(text)), goal, in_blocks(table, 11))
    assert kept == {keys[i] for i in [*drawn, *first]}
    assert len(kept) == target


def test_lost_rows_are_never_kept_and_nothing_to_choose_from_is_told() -> None:
    """A quarantined row is in no cluster; its budget goes to the others."""
    table = table_of([float(i) for i in range(20)], [False] * 20)
    lost = [i >= 17 for i in range(20)]
    for name in ("cluster", "value"):
        values = [None if gone else v for gone, v in zip(lost, table[name].to_pylist(), strict=True)]
        table = table.set_column(table.column_names.index(name), name, pa.array(values, table[name].type))
    tables = tables_of([False] * 17, 20)
    kept = kept_keys(build_selector("prism"), tables, Goal(ratio=0.5), [table])
    assert kept == set(table["key"].to_pylist()[:10])
    assert len(kept_keys(build_selector("scalselect"), tables, Goal(ratio=1.0), [table])) == 17
    with pytest.raises(UserError, match="none of the 20 rows has the features 'visual'"):
        kept_keys(build_selector("prism"), SelectionTables(num_rows=20), Goal(ratio=0.5), [table])


def test_wrong_options_are_told() -> None:
    """With the bound; both are streamed."""
    with pytest.raises(UserError, match="energy is 1.5; it must be above 0 and at most 1"):
        build_selector("scalselect", {"energy": 1.5})
    with pytest.raises(UserError, match="rank is 0"):
        build_selector("scalselect", {"rank": 0})
    assert isinstance(Prism(), RankedByPasses)
    assert isinstance(ScalSelect(), RankedByPasses)
