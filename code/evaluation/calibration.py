"""What trust.py's score is worth where the true Dice is known, and the Dice it lets one expect where it is not."""
import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from imaging.scan_files import checksum
from runtime.errors import InputError
from runtime.records import read_record, write_record

CALIBRATION = "calibration.json"
CALIBRATION_REMEDY = "delete it, and let reproduce.py trust write it again"
EXACT = 8               # cases whose orders are all looked at
SHARES = 0.1, 0.2, 0.3  # of the cases that are set aside


@dataclass(frozen=True)
class Calibrated:
    """calibration.json."""

    cases: int                      # that it was made on
    scores: tuple[float, ...]       # rising
    dice: tuple[float, ...]
    checkpoint: str = "last"        # weights that it is of
    weights: dict[str, int] = field(default_factory=dict)   # run -> check sum of these weights


def calibrate(look_scores, dice):
    """Scores of cases and their true Dice -> (scores, Dice): the points of a function that never rises, by isotonic
    regression; between them `estimated` goes along straight lines.
    """
    from scipy.optimize import isotonic_regression  # here: predict.py reads calibrations and makes none

    look_scores, dice = np.asarray(look_scores, float), np.asarray(dice, float)
    points, place = np.unique(look_scores, return_inverse=True)
    counts = np.bincount(place)
    fitted = isotonic_regression(np.bincount(place, dice) / counts, weights=counts, increasing=False).x
    return points.tolist(), fitted.tolist()


def estimated(calibration, look_scores):
    """The Dice that `calibrate`'s points give for scores; beyond them, the nearest point's."""
    return np.interp(look_scores, *calibration)


def set_aside(order, dice):
    """Mean Dice of the cases that remain when the first SHARES of `order` (suspicion, highest first) are set aside.

    Cases that are equally suspicious are set aside by their mean.
    """
    order, dice = np.asarray(order, float), np.asarray(dice, float)
    expected = np.array([dice[order == value].mean() for value in order])
    ranked = expected[np.argsort(-order, kind="stable")]
    return [float(ranked[min(max(1, round(share * len(dice))), len(dice) - 1):].mean()) for share in SHARES]


def spearman(order, dice):
    """(Spearman's rho, its p on the side below 0): exact for up to EXACT cases, over all orders; then Student's t."""
    from scipy.stats import rankdata, spearmanr

    found = spearmanr(order, dice, alternative="less")
    if len(dice) > EXACT:
        return float(found.statistic), float(found.pvalue)
    one, other = rankdata(order), rankdata(dice)
    sums = one[np.array(list(itertools.permutations(range(len(one)))))] @ other
    return float(found.statistic), float(np.mean(sums <= one @ other + 1e-9))


def worth(look_scores, entropy, dice):
    """What looking in the order of the score is worth, beside the order of entropy and none: {order: (Spearman's rho
    of suspicion and true Dice, its one-sided p, `set_aside`)}; -1 is a perfect order.
    """
    found = {}
    for name, order in (("score", look_scores), ("entropy", entropy)):
        alike = len(set(order)) < 2 or len(set(dice)) < 2
        rho, p = (math.nan, math.nan) if alike else spearman(order, dice)
        found[name] = rho, p, set_aside(order, dice)
    return found | {"random": (0.0, math.nan, [float(np.mean(dice))] * len(SHARES))}


def told(rows):
    """Lines that say what the order of `evidence.examined_cases`' rows is worth."""
    dice = [row["dice"] for row in rows]
    entropy = [0 if math.isnan(row["entropy"]) else row["entropy"] for row in rows]     # no foreground, no entropy
    found = worth([row["score"] for row in rows], entropy, dice)
    aside = ", ".join(f"{100 * share:.0f}" for share in SHARES)
    lines = [f"{len(rows)} cases, Dice {100 * np.mean(dice):.2f} % in all; of what remains when {aside} % are set "
             "aside, the most suspicious first:"]
    for name, (rho, p, left) in found.items():
        words = "" if name == "random" else ", one value for all" if math.isnan(rho) else (
            f"; Spearman with Dice {rho:.2f}, p {p:.2g}" + ("" if p < 0.05 else ": no better than random"))
        lines.append(f"  by {name:8}" + "".join(f"{100 * value:7.2f}" for value in left) + words)
    return lines


def write_calibration(runs, look_scores, dice, checkpoint="last"):
    """calibration.json beside the runs of folds, of their out-of-fold cases."""
    points, fitted = calibrate(look_scores, dice)
    weights = {run.name: checksum(run / f"{checkpoint}.pt") for run in runs}
    write_record(Path(runs[0]).parent / CALIBRATION, Calibrated(len(dice), points, fitted, checkpoint, weights))


def read_calibration(runs, checkpoint="last"):
    """`calibrate`'s points of the folder in which runs lie; None without, or where they are of other weights, such as
    those that a fold had before it was trained again.
    """
    path = runs[0].resolve().parent / CALIBRATION
    if (record := read_record(Calibrated, path, CALIBRATION_REMEDY)) is None:
        return None
    if len(record.scores) != len(record.dice) or not record.scores or sorted(record.scores) != [*record.scores]:
        raise InputError(f"{path}: expected as many Dice as scores, which rise: {CALIBRATION_REMEDY}")
    same = record.checkpoint == checkpoint and all(
        record.weights.get(run.name) in (None, checksum(run / f"{checkpoint}.pt")) for run in runs)
    return (record.scores, record.dice) if same else None
