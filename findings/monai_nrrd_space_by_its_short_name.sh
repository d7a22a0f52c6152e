#!/usr/bin/env bash
# MONAI 1.6.1: NrrdReader turns a scan by 180 degrees when its header writes its space as LPS, not left-posterior-superior.
# 
# One would believe: 'LPS' and 'left-posterior-superior' are the same, as the NRRD format defines, and as ITK reads them.
# What happens: NrrdReader converts to its own RAS only where the long name stands. With the short name the affine is taken as
# RAS already: left and right, front and back are exchanged. left-anterior-superior is taken as RAS under both names.
# Whom it hurts: a network that is trained on files of one program and applied to files of another sees mirrored patients,
# Orientationd turns them wrongly, and label maps are saved half a body away. No warning is printed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 monai==1.6.1 pynrrd==1.1.3 SimpleITK==2.5.7
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import monai.data
import nrrd
import numpy as np
import SimpleITK as sitk

voxels = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
places = {}
for space in ("left-posterior-superior", "LPS", "left-anterior-superior"):
    path = f"{sys.argv[1]}/scan.nrrd"
    nrrd.write(path, voxels, {"space": space, "space directions": np.diag([2.0, 3.0, 4.0]),
                              "space origin": [10.0, 20.0, 30.0]})
    itk = np.array(sitk.ReadImage(path).GetOrigin()) * (-1, -1, 1)      # ITK's space is LPS; in RAS
    reader = monai.data.NrrdReader()
    _, meta = reader.get_data(reader.read(path))
    places[space] = itk, np.asarray(meta["affine"])[:3, 3]
    print(f"space: {space}: the first voxel is, in RAS, at {itk} by SimpleITK, at {places[space][1]} by MONAI")
same = {space: np.allclose(*pair) for space, pair in places.items()}
assert same == {"left-posterior-superior": True, "LPS": False, "left-anterior-superior": False}
PYTHON
