"""Tables: CompressAI's layout, deterministic quantization, and arguments that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rans_cases import gaussian_pmf

from icmh_rt import rans
from icmh_rt.errors import IcmhError, OptionError
from icmh_rt.rans import Tables

GOLDEN = Path(__file__).parents[1] / "golden"


def frequencies(tables, row):
    return np.diff(tables.cdfs[row, : tables.lengths[row]].astype(np.int64))


def compressai_golden():
    with np.load(GOLDEN / "rans_compressai.npz") as golden:
        return dict(golden)


def test_compressai_tables_are_taken_as_they_are():
    golden = compressai_golden()
    tables = Tables.from_cdfs(golden["cdfs"], golden["lengths"], golden["offsets"])
    np.testing.assert_array_equal(tables.cdfs, golden["cdfs"])
    np.testing.assert_array_equal(tables.lengths, golden["lengths"])
    np.testing.assert_array_equal(tables.offsets, golden["offsets"])
    assert tables.precision == 16
    data = rans.encode(golden["symbols"], golden["indexes"], tables)
    np.testing.assert_array_equal(rans.decode(data, golden["indexes"], tables), golden["symbols"])
    # The escapes are coded otherwise, the tables mean the same: the sizes are close.
    assert abs(len(data) - len(golden["stream"])) <= 0.01 * len(golden["stream"]) + 8


def test_compressai_tables_mean_the_same_to_both_coders():
    """Live against CompressAI, where it is installed; the golden above stands in elsewhere."""
    entropy_models = pytest.importorskip("compressai.entropy_models")
    import torch

    model = entropy_models.GaussianConditional([0.2, 1.0, 4.0])
    model.update()
    tables = Tables.from_cdfs(model._quantized_cdf, model._cdf_length, model._offset)
    rng = np.random.default_rng(0)
    indexes = rng.integers(0, 3, (1, 1, 2000))
    symbols = np.rint(rng.normal(size=2000) * np.array([0.2, 1.0, 4.0])[indexes]).astype(np.int32)
    symbols = np.clip(symbols, -1, 1)  # inside every table: no escapes, which differ
    theirs = model.compress(
        torch.from_numpy(symbols).float(), torch.from_numpy(indexes).to(torch.int32)
    )[0]
    ideal = tables.bits(symbols, indexes) / 8
    assert ideal <= len(theirs) <= ideal + 8
    assert ideal <= len(rans.encode(symbols, indexes, tables)) <= ideal * 1.003 + 8


def test_what_lies_behind_a_row_does_not_matter():
    cdfs = np.array([[0, 4000, 4096, 77], [0, 1, 2, 4096]])
    tables = Tables.from_cdfs(cdfs, [3, 4], [0, 0], precision=12)
    assert tables.cdfs[0].tolist() == [0, 4000, 4096, 0]
    wider = np.array([[0, 4000, 4096, 0, 5], [0, 1, 2, 4096, 5]])
    assert tables == Tables.from_cdfs(wider, [3, 4], [0, 0], precision=12)
    assert tables != Tables.from_cdfs(cdfs, [3, 4], [0, 1], precision=12)


def test_tables_do_not_change():
    lengths = np.array([3])
    cdfs = np.array([[0, 4000, 4096]], dtype=np.uint32)
    tables = Tables.from_cdfs(cdfs, lengths, [0], precision=12)
    cdfs[0, 1] = 5
    lengths[0] = 2
    assert tables.cdfs.tolist() == [[0, 4000, 4096]]
    assert tables.lengths.tolist() == [3]
    with pytest.raises(ValueError, match="read-only"):
        tables.cdfs[0, 1] = 5
    with pytest.raises(AttributeError, match="immutable"):
        tables.precision = 13


def test_arrays_round_trip():
    tables = Tables.from_pmfs([[0.5, 0.25], [1.0]], offsets=[-1, 3], precision=13)
    arrays = tables.to_arrays()
    assert {name: array.dtype for name, array in arrays.items()} == dict.fromkeys(
        ("cdfs", "lengths", "offsets", "precision"), np.dtype(np.int32)
    )
    assert Tables.from_arrays(arrays) == tables
    del arrays["offsets"]
    with pytest.raises(OptionError, match="lack offsets"):
        Tables.from_arrays(arrays)


@pytest.mark.parametrize(
    ("cdfs", "lengths", "offsets", "precision", "message"),
    [
        ([[0, 4096]], [2], [0], 11, "precision is 11"),
        ([[0, 4096]], [2], [0], 17, "precision is 17"),
        ([[0, 4096]], [2], [0], 12.0, "precision is 12.0"),
        ([[0, 4096]], [2], [0], 13, "from 0 to 4096"),
        ([[1, 4096]], [2], [0], 12, "from 1 to 4096"),
        ([[0, 4095]], [2], [0], 12, "from 0 to 4095"),
        ([[0, 9, 9, 4096]], [4], [0], 12, r"cdfs\[0\] does not rise"),
        ([[0, 9, 8, 4096]], [4], [0], 12, r"cdfs\[0\] does not rise"),
        ([[0, -5, 8, 4096]], [4], [0], 12, r"cdfs\[0\] does not rise"),
        ([[0, 4096]], [1], [0], 12, r"lengths\[0\] is 1"),
        ([[0, 4096]], [3], [0], 12, r"lengths\[0\] is 3"),
        ([[0, 4096]], [-1], [0], 12, "lengths holds -1"),
        ([[0, 1, 4096]], [3], [2**31], 12, "offsets holds 2147483648"),
        ([[0, 1, 2, 4096]], [4], [2**31 - 1], 12, r"offsets\[0\] is 2147483647"),
        ([[0, 4096]], [2, 2], [0], 12, "do not fit together"),
        ([[0, 4096]], [2], [0, 0], 12, "do not fit together"),
        ([0, 4096], [2], [0], 12, "do not fit together"),
        ([[0.0, 4096.0]], [2], [0], 12, "dtype float64"),
        (np.zeros((0, 2), int), [], [], 12, "0 table rows"),
        (np.tile([0, 4096], (65537, 1)), [2] * 65537, [0] * 65537, 12, "65537 table rows"),
    ],
)
def test_bad_tables(cdfs, lengths, offsets, precision, message):
    with pytest.raises(OptionError, match=message):
        Tables.from_cdfs(cdfs, lengths, offsets, precision)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pmfs": [[0.5, -0.1]]}, "pmf 0 has a negative"),
        ({"pmfs": [[0.5], [np.nan]]}, "pmf 1 has a negative or non-finite"),
        ({"pmfs": [[np.inf]]}, "pmf 0 has a negative or non-finite"),
        ({"pmfs": [[0.0]], "tail_masses": [0.0]}, "no mass"),
        ({"pmfs": [np.ones(4096)], "precision": 12}, "4096 entries"),
        ({"pmfs": [[[0.5]]]}, "one dimension"),
        ({"pmfs": [[0.5]], "lengths": [2]}, r"lengths\[0\] is 2"),
        ({"pmfs": [[0.5]], "lengths": [1, 1]}, "1 pmfs but 2 lengths"),
        ({"pmfs": [[0.5]], "tail_masses": [0.1, 0.1]}, "1 pmfs but 2 tail masses"),
        ({"pmfs": [[0.5]], "offsets": [0, 0]}, "do not fit together"),
        ({"pmfs": [], "offsets": []}, "0 table rows"),
    ],
)
def test_bad_pmfs(arguments, message):
    with pytest.raises(IcmhError, match=message):
        Tables.from_pmfs(**arguments)


def test_exact_pmfs_stay_exact():
    tables = Tables.from_pmfs([[0.5, 0.25, 0.125]], offsets=[-1], precision=12)
    assert tables.cdfs.tolist() == [[0, 2048, 3072, 3584, 4096]]
    assert tables.lengths.tolist() == [5]
    assert tables.offsets.tolist() == [-1]


def test_rows_of_different_forms_agree():
    padded = np.array([[0.5, 0.25, 9.0], [0.1, 0.2, 0.3]])
    one = Tables.from_pmfs(padded, lengths=[2, 3], tail_masses=[0.25, 0.4])
    two = Tables.from_pmfs([[0.5, 0.25], [0.1, 0.2, 0.3]], tail_masses=[0.25, 0.4])
    assert one == two
    assert one.precision == rans.RECOMMENDED_PRECISION
    empty = Tables.from_pmfs([[]])
    assert empty.cdfs.tolist() == [[0, 2**rans.RECOMMENDED_PRECISION]]


def test_quantization_is_frozen():
    """Bundles hold tables, so this may change; but not by itself, on another machine."""
    pmf = (np.arange(1, 60) * 37 % 101) ** 4 / 2.0**29
    tables = Tables.from_pmfs([pmf, pmf * pmf], precision=12)
    assert frequencies(tables, 0)[:12].tolist() == [6, 103, 1, 17, 171, 1, 36, 268, 3, 69, 1, 9]
    assert frequencies(tables, 1)[:12].tolist() == [1, 13, 1, 1, 35, 1, 2, 86, 1, 6, 1, 1]


@given(
    st.integers(12, 16),
    st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=200),
    st.floats(0, 0.5),
)
def test_every_interval_gets_a_slot(precision, masses, tail):
    if sum(masses) + tail <= 0:
        return
    tables = Tables.from_pmfs([masses], precision=precision, tail_masses=[tail])
    slots = frequencies(tables, 0)
    assert slots.min() >= 1
    assert slots.sum() == 2**precision
    # No interval is further from its share than the forced slots of the others explain.
    share = np.append(masses, tail) / (sum(masses) + tail) * 2**precision
    assert np.all(slots >= np.floor(share) - len(slots))
    assert np.all(slots <= share + len(slots) + 1)


def test_no_single_move_of_a_slot_helps():
    """Quantized tables are at least a local optimum of the coding cost sum(-p log2 f)."""
    for scale in (0.2, 1.0, 7.0, 60.0):
        pmf, _ = gaussian_pmf(scale)
        tables = Tables.from_pmfs([pmf], precision=12, tail_masses=[1e-9])
        p = np.append(pmf, 1e-9)
        p = p / p.sum()
        f = frequencies(tables, 0)
        gain = (p * np.log2((f + 1) / f)).max()
        can_give = f > 1
        loss = (p[can_give] * np.log2(f[can_give] / (f[can_give] - 1.0))).min()
        assert gain <= loss * 1.01  # the derivative at mid-step stands in for the difference
