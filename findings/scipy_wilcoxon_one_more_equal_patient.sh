#!/usr/bin/env bash
# SciPy 1.17.1: one more patient without any difference makes wilcoxon's p significant.
# 
# One would believe: the signed-rank test drops patients in whom both methods are equal, so that they cannot change p; and at
# 14 patients, far below the documented limit of 50 for exact p values, p is exact.
# What happens: with zeros among the differences, method='auto' is exact up to 13 pairs and the normal approximation from 14 on.
# Five patients that all became better have p = 0.0625 exactly, the smallest that five can have; with 8 equal ones beside them
# p is 0.0625, with 9 it is 0.043.
# Whom it hurts: comparisons of segmentation methods, where many cases are equal (both empty, both perfect), that are reported as
# significant below 0.05. Dropping zeros before the call gives the exact value at any number.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import numpy as np
from scipy.stats import wilcoxon

better = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
p = {equal: float(wilcoxon(np.r_[better, np.zeros(equal)]).pvalue) for equal in (0, 4, 8, 9, 20)}
for equal, value in p.items():
    print(f"5 patients better, {equal:2} equal: p = {value:.4f}")
assert p[0] == p[4] == p[8] == 0.0625
assert p[9] == p[20] and 0.0431 < p[9] < 0.0432
PYTHON
