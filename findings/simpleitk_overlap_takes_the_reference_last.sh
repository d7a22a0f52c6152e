#!/usr/bin/env bash
# SimpleITK 2.5.7: LabelOverlapMeasures of (reference, prediction) calls what was missed a false positive.
#
# One would believe: the reference comes first, as y_true does in metrics of scikit-learn and others, so
# that a prediction that misses half of an organ has a false negative error of 0.5, and no false positives.
# What happens: the arguments are a source and a target, and the target is the truth. With the reference first, false negatives and false
# positives are exchanged, and the sign of the volume similarity turns: half of the organ missed is a false negative error of 0.
# Dice and Jaccard are the same either way, so that a check by them finds nothing. The makers' own notebook on evaluation had the two
# exchanged until 2022. Beside that, the false positive error is divided by all the background: where as many voxels as the organ
# has are invented, it is 0.02 in a large image and 0.14 in a small one; GetFalseDiscoveryRate is what other packages call so.
# Whom it hurts: tables of over- and under-segmentation, and of volume bias: their columns and signs are exchanged. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 SimpleITK==2.5.7
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import SimpleITK as sitk


def measures(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """SimpleITK's measures of two masks in the given order."""
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(sitk.GetImageFromArray(first), sitk.GetImageFromArray(second))
    return {"false negatives": overlap.GetFalseNegativeError(), "false positives": overlap.GetFalsePositiveError(),
            "false discoveries": overlap.GetFalseDiscoveryRate(), "volume similarity": overlap.GetVolumeSimilarity(),
            "Dice": overlap.GetDiceCoefficient()}


reference = np.zeros((20, 20, 20), np.uint8)
reference[5:15, 5:15, 5:15] = 1
missed = reference.copy()
missed[5:10] = 0                                                      # half of the organ is not found, and nothing invented
doubled = reference.copy()
doubled[5:15, 5:15, 15:] = doubled[5:15, 5:15, :5] = 1                # as much again is invented
cases = {
    "half missed, (reference, prediction)": measures(reference, missed),
    "half missed, (prediction, reference)": measures(missed, reference),
    "doubled, (prediction, reference)": measures(doubled, reference),
    "doubled, in a larger image": measures(np.pad(doubled, 10), np.pad(reference, 10)),
}
for name, values in cases.items():
    print(f"{name}: " + ", ".join(f"{measure} {value:.3f}" for measure, value in values.items()))
wrong, right, small, large = cases.values()
assert wrong["false negatives"] == 0 and wrong["false positives"] > 0 and wrong["volume similarity"] > 0
assert right["false negatives"] == 0.5 and right["false positives"] == 0 and right["volume similarity"] < 0
assert abs(wrong["Dice"] - right["Dice"]) < 1e-12
assert abs(small["false positives"] - 1 / 7) < 1e-9 and large["false positives"] < 0.02
assert small["false discoveries"] == large["false discoveries"] == 0.5
PYTHON
