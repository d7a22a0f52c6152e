"""The p value that stands beside every difference, against enumeration of all signs and against SciPy."""
import itertools

import numpy as np
import pytest
from scipy.stats import rankdata, wilcoxon

from evaluation.tables import paired, signed_rank


def enumerated(differences):
    """Of all 2^n signs of the ranks, twice the share of the rarer side."""
    rounded = [round(value, 9) for value in differences if round(value, 9)]
    ranks = rankdata(np.abs(rounded))
    sums = np.array([np.dot(signs, ranks) for signs in itertools.product((0, 1), repeat=len(ranks))])
    observed = ranks[np.array(rounded) > 0].sum()
    return min(1.0, 2 * min((sums <= observed).mean(), (sums >= observed).mean()))


@pytest.mark.parametrize(("differences", "p"), [
    ([0] * 9 + [1, 2, 3, 4, 5], 0.0625), ([0] * 9 + [0.5] * 5, 0.0625), ([0] * 40 + [-1] * 6, 0.03125),
    ([0.01, 0.02, 0.03], 0.25), ([], 1), ([0, 0, 0], 1), ([1], 1), ([1e-12, -3e-11], 1)])
def test_zeros_are_dropped_and_few_patients_are_counted_exactly(differences, p):
    assert signed_rank(differences) == pytest.approx(p, abs=1e-15)


@pytest.mark.parametrize("scale", (0.01, 0.1, 7.0))
def test_rounding_noise_does_not_split_equal_differences(scale):
    """Eight patients by the same amount, two of them down: as on whole numbers."""
    noisy = [sign * (100 * (0.7 + scale / 100) - 70) for sign in (1, 1, 1, 1, 1, 1, -1, -1)]
    noisy[0] = 100 * (0.3 + scale / 100 - 0.3)
    assert noisy[0] != noisy[1]
    assert signed_rank(noisy) == pytest.approx(signed_rank([1] * 6 + [-1] * 2)) == pytest.approx(0.2890625)


@pytest.mark.parametrize("seed", range(12))
def test_ties_are_enumerated(seed):
    differences = np.random.default_rng(seed).integers(-3, 4, seed + 1) / 4
    assert signed_rank(differences) == pytest.approx(enumerated(differences), abs=1e-12)


@pytest.mark.parametrize("count", (5, 14, 20, 60))
def test_without_ties_it_is_scipys_exact_test(count):
    differences = np.random.default_rng(count).normal(0.3, 1, count)
    assert signed_rank(differences) == pytest.approx(wilcoxon(differences, method="exact").pvalue, rel=1e-9)


def test_a_method_and_its_baseline_are_paired_in_points():
    def rows(dice):
        return [{"case": f"patient{i}", "class": 1, "dice": value, "empty_pred": 0, "empty_ref": 0}
                for i, value in enumerate(dice)]
    base = [0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.2, 0.4]
    points, p = paired(rows([dice + (0.01 if i < 6 else -0.01) for i, dice in enumerate(base)]), rows(base))
    assert points == pytest.approx(0.5) and p == pytest.approx(0.2890625)
