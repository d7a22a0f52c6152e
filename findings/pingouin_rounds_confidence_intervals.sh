#!/usr/bin/env bash
# pingouin 0.7.0: the confidence interval of a difference in Dice is [0.00, 0.01], in the numbers themselves.
#
# One would believe: a table of statistics holds numbers; they may be printed with few digits, and have all of them. The interval that
# belongs to a p of 0.00007 does not hold 0.
# What happens: CI95 is rounded to two decimals before it is returned, in ttest, intraclass_corr, corr and others, while the p beside it has
# all its digits. Of 20 patients whose Dice rises by 0.0065 on average, the interval is 0.0038 to 0.0092 by SciPy and 0.00 to 0.01 here.
# The same numbers in percent have 0.38 to 0.92. pingouin.options["round.column.CI95"] = None returns what was computed.
# Whom it hurts: differences between methods on the scale of 0 to 1, where most are below 0.05: an interval that excludes zero seems
# to include it, error bars have a length of 0 or 0.01, and what is computed from them is wrong by up to the effect itself. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 scipy==1.17.1 pandas==3.1.1 pingouin==0.7.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import pandas as pd
import pingouin
from scipy.stats import ttest_rel

rng = np.random.default_rng(0)
before = rng.uniform(0.85, 0.92, 20)                                  # Dice of 20 patients
after = before + rng.normal(0.006, 0.008, 20)
scipy = ttest_rel(after, before)
exact = scipy.confidence_interval()
table = pingouin.ttest(after, before, paired=True).iloc[0]
percent = pingouin.ttest(100 * after, 100 * before, paired=True).iloc[0]
print(f"SciPy: p = {scipy.pvalue:.3g}, interval {exact.low:.4f} to {exact.high:.4f}")
print(f"pingouin: p = {table['p_val']:.3g}, interval {float(table['CI95'][0])!r} to {float(table['CI95'][1])!r}")
print(f"pingouin, in percent: interval {float(percent['CI95'][0])!r} to {float(percent['CI95'][1])!r}")
assert np.isclose(table["p_val"], scipy.pvalue) and scipy.pvalue < 1e-4 and exact.low > 0.003
assert table["CI95"].tolist() == [0.0, 0.01]
assert np.allclose(percent["CI95"], [100 * exact.low, 100 * exact.high], atol=0.005)
long = pd.DataFrame({"patient": np.tile(np.arange(20), 2), "rater": np.repeat(["A", "B"], 20), "dice": np.r_[before, after]})
agreement = pingouin.intraclass_corr(long, targets="patient", raters="rater", ratings="dice")
print("intraclass correlation:", [interval.tolist() for interval in agreement["CI95"]])
assert all(np.array_equal(interval, np.round(interval, 2)) for interval in agreement["CI95"])
pingouin.options["round.column.CI95"] = None
kept = pingouin.ttest(after, before, paired=True).iloc[0]["CI95"]
print(f"pingouin, without rounding: {kept[0]:.4f} to {kept[1]:.4f}")
assert np.allclose(kept, exact)
PYTHON
