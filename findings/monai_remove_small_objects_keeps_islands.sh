#!/usr/bin/env bash
# MONAI 1.6.1: RemoveSmallObjects removes the islands of a label map with one class, and none as soon as there are two.
#
# One would believe: an island of 27 voxels, far from everything, is smaller than min_size=64 and is removed, whichever other classes the
# map has; KeepLargestConnectedComponent of the package looks at each class on its own.
# What happens: a map whose largest number is 1 is a mask, of which connected parts are objects. Any other is handed to scikit-image as
# integers, which takes all voxels with one number for one object, wherever they lie: classes of more than min_size voxels
# stay whole, smaller ones are gone altogether. Nested regions in channels (whole tumour, core, enhancing core) are joined through the
# channels, as if they lay one on the other, though independent_channels is on: an island in all three counts three times.
# One-hot channels, each voxel in one of them, and independent_channels=False are right here.
# Whom it hurts: post-processing of predictions with two or more classes: false positives stay, and with them the Hausdorff distance;
# the same code cleans a patient without the second class. The documentation asks for one-hot maps in one line and for maps that are not
# in another. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 scipy==1.17.1 scikit-image==0.26.0 monai==1.6.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from monai.transforms import KeepLargestConnectedComponent, RemoveSmallObjects

organ = torch.zeros(1, 40, 40, 40)
organ[0, 5:25, 5:25, 5:25] = 1
organ[0, 33:36, 33:36, 33:36] = 1                                     # an island of 27 voxels
both = organ.clone()
both[0, 28:34, 5:11, 5:11] = 2                                        # another organ, elsewhere
regions = organ.repeat(3, 1, 1, 1)                                    # three regions that are nested, here equal
one_hot = torch.nn.functional.one_hot(both[0].long(), 3).movedim(-1, 0).float()
remove = RemoveSmallObjects(min_size=64)
results = {
    "one class": remove(organ.clone()),
    "two classes": remove(both.clone()),
    "two classes, KeepLargestConnectedComponent": KeepLargestConnectedComponent()(both.clone()),
    "two classes, independent_channels=False": RemoveSmallObjects(min_size=64, independent_channels=False)(both.clone()),
    "two classes as one-hot": remove(one_hot.clone())[1:2],
    "one region": remove(regions[:1].clone()),
    "three regions": remove(regions.clone())[:1],
}
left = {name: int((result[0, 33:36, 33:36, 33:36] > 0).sum()) for name, result in results.items()}
for name, voxels in left.items():
    print(f"{name}: {voxels} of the island's 27 voxels are left")
assert {name for name, voxels in left.items() if voxels} == {"two classes", "three regions"}
small = RemoveSmallObjects(min_size=300)(both.clone())
print(f"two classes, min_size=300: classes {small.unique().tolist()}")  # 216 voxels of class 2
assert small.unique().tolist() == [0, 1] and int(small.sum()) == 20 ** 3 + 27
PYTHON
