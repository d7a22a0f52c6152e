#!/usr/bin/env bash
# MedPy 0.5.2: the Dice of two empty masks is 1 with NumPy 2.0.2 and not a number with NumPy 2.4.6.
#
# One would believe: one version of a metrics package gives one number for one pair of masks, whatever NumPy is installed beside
# it; and where Jaccard says 1, Dice says 1.
# What happens: `dc` divides and catches Python's division by zero, to give 1. `numpy.count_nonzero` returned a Python int, and
# returns a NumPy integer now, whose division by zero warns and gives NaN. `jc` has a rule of its own and stays at 1.
# Whom it hurts: the mean over cases of a class that is absent in some (lesions, the right ventricle at the apex): it becomes NaN, or
# with nanmean silently leaves out what counted as 1, so that a table made again after an update has other numbers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for numpy in 2.0.2 2.4.6; do
    python3 -m venv "$folder/$numpy"
    "$folder/$numpy/bin/pip" install --quiet --disable-pip-version-check numpy==$numpy scipy==1.16.3 SimpleITK==2.5.7 medpy==0.5.2
    "$folder/$numpy/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from medpy.metric import binary

empty = np.zeros((4, 4, 4), bool)
dice, jaccard = binary.dc(empty, empty), binary.jc(empty, empty)
print(f"NumPy {np.__version__}: Dice {dice}, Jaccard {jaccard}")
assert jaccard == 1 and (dice == 1 if np.__version__ == "2.0.2" else np.isnan(dice))
PYTHON
done
