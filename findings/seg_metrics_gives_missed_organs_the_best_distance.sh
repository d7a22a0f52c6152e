#!/usr/bin/env bash
# seg-metrics 1.2.8: a prediction that misses the whole organ has the Hausdorff distance 0, that of a perfect one.
#
# One would believe: where one of two masks is empty there is no distance, so that it is infinite or not a number, as with
# MONAI, or an error, as with MedPy; the worst value at the least.
# What happens: the distance map of an empty mask is taken to be 0 everywhere. The organ's surface is at the distance 0 from a
# prediction that is not there: hd, hd95, msd and mdsd are 0. So are they where the organ is not there and the prediction invents it.
# The note that is logged speaks of precision and recall alone. A prediction one voxel off has 1, a network that finds nothing 0.
# Whom it hurts: means of distances over cases: the more organs a network misses, the smaller its distances. Dice, beside it, is 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 SimpleITK==2.5.7 seg-metrics==1.2.8
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from seg_metrics import seg_metrics

organ = np.zeros((32, 32, 32), np.uint8)
organ[8:24, 8:24, 8:24] = 1
empty = np.zeros_like(organ)
found = {}
for name, reference, prediction in (("perfect", organ, organ), ("one voxel off", organ, np.roll(organ, 1, 0)),
                                    ("missed", organ, empty), ("invented", empty, organ)):
    result = seg_metrics.write_metrics(labels=[1], gdth_img=reference, pred_img=prediction, spacing=np.ones(3))
    result = result[0] if isinstance(result, list) else result
    found[name] = {metric: float(result[metric][0]) for metric in ("dice", "hd", "hd95", "msd", "mdsd")}
    print(f"{name}:", ", ".join(f"{metric} {value:.2f}" for metric, value in found[name].items()))
for name in ("missed", "invented"):
    assert found[name].pop("dice") == 0 and set(found[name].values()) == {0}
assert found["one voxel off"]["hd"] == 1 and found["perfect"]["dice"] == 1
PYTHON
