#!/usr/bin/env bash
# medpy 0.5.2 and MONAI 1.6.1: the 95 % Hausdorff distance of the same two masks is 0 in one and 50 voxels in the other.
# 
# One would believe: 95HD is one metric, so that numbers of papers that use either package can stand in one table.
# What happens: medpy takes the percentile of the distances of both directions pooled, MONAI the larger of the percentiles of
# each direction. A false positive far away whose surface is 7 % of the prediction's is 4 % of both together: below 5 % for
# medpy (0.0), above it for MONAI (50.4). Dice is 0.987 in both. Most published code of semi-supervised segmentation uses
# medpy, most newer frameworks MONAI's definition.
# Whom it hurts: whoever compares a 95HD that was measured with one package with a published one from the other.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 scipy==1.17.1 medpy==0.5.2 monai==1.6.1
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import numpy as np
import torch
from medpy.metric.binary import dc, hd95
from monai.metrics import compute_hausdorff_distance

organ = np.zeros((80, 80, 80), bool)
organ[10:40, 10:40, 10:40] = True
prediction = organ.copy()
prediction[65:74, 65:74, 65:74] = True
pooled = float(hd95(prediction, organ))
tensors = (torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (prediction, organ))
larger = float(compute_hausdorff_distance(*tensors, include_background=True, percentile=95))
print(f"Dice {dc(prediction, organ):.3f}; 95HD by medpy {pooled:.1f} voxels, by MONAI {larger:.1f}")
assert pooled == 0 and 50 < larger < 51
PYTHON
