#!/usr/bin/env bash
# SimpleITK 2.5.7: GetAverageHausdorffDistance() is no average over surfaces, and depends on the size of the organ.
# 
# One would believe: HausdorffDistanceImageFilter.GetAverageHausdorffDistance() is the average symmetric surface distance, the
# ASSD of other packages, since the filter stands beside the Hausdorff distance of the same surfaces.
# What happens: distances are averaged over all voxels of a mask, and those inside the other mask count as 0. The same
# displacement by one voxel gives 0.33 by medpy's surfaces at every size, and here 0.10, 0.05, 0.025 for cubes of 10, 20 and 40
# voxels. Networks are ranked by how large their organ is, and a number comes out that no other package gives.
# Whom it hurts: studies that report it as average surface distance.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 scipy==1.17.1 SimpleITK==2.5.7 medpy==0.5.2
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import numpy as np
import SimpleITK as sitk
from medpy.metric.binary import assd

measured = {}
for size in (10, 20, 40):
    cube = np.zeros((60, 60, 60), np.uint8)
    cube[10:10 + size, 10:10 + size, 10:10 + size] = 1
    moved = np.roll(cube, 1, 0)
    hausdorff = sitk.HausdorffDistanceImageFilter()
    hausdorff.Execute(sitk.GetImageFromArray(moved), sitk.GetImageFromArray(cube))
    measured[size] = hausdorff.GetAverageHausdorffDistance(), assd(moved, cube)
    print(f"cube of {size} voxels, moved by one: SimpleITK {measured[size][0]:.3f}, medpy's ASSD {measured[size][1]:.3f}")
for size, (simpleitk, medpy) in measured.items():
    assert abs(simpleitk - 1 / size) < 1e-6     # one layer of `size` layers is one voxel away, the others are at 0
    assert 0.33 < medpy < 0.37
PYTHON
