#!/usr/bin/env bash
# antspyx 0.6.3: image_read joins labels above 16,777,216, those of the Allen mouse brain atlas, into fewer regions.
#
# One would believe: a label map of 32-bit integers has the same labels in memory as in its file; ANTs has a pixel type for them.
# What happens: signed and unsigned 32-bit integers are made float32, which has 24 bits for a number: regions 312782546, 312782550
# and 312782554 become one, 312782560, which no table of names knows. Written again, the file holds these. nibabel and SimpleITK
# have the labels as they are.
# Whom it hurts: atlases whose identifiers are large: the Allen atlas' reach 614,454,277, and layers of one area have numbers that
# follow each other. Registered by ANTs, layers are merged, volumes of regions are wrong, and others are missing. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.3.5 nibabel==5.4.2 SimpleITK==2.5.7 antspyx==0.6.3
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

import ants
import nibabel as nib
import numpy as np
import SimpleITK as sitk

REGIONS = [997, 312782546, 312782550, 312782554, 614454277]      # the root, an area of the cortex, two of its layers, and one more
found = {}
for kind in (np.int32, np.uint32):
    path, copy = f"{sys.argv[1]}/{kind.__name__}.nii.gz", f"{sys.argv[1]}/copy.nii.gz"
    labels = np.repeat(np.array(REGIONS, kind), 25).reshape(5, 5, 5)
    nib.save(nib.Nifti1Image(labels, np.diag([-0.025, -0.025, 0.025, 1])), path)
    image = ants.image_read(path)
    ants.image_write(image, copy)
    for name, array in (("nibabel", np.asanyarray(nib.load(path).dataobj)), ("SimpleITK", sitk.GetArrayFromImage(sitk.ReadImage(path))),
                        ("antspyx", image.numpy()), ("a copy by antspyx", np.asanyarray(nib.load(copy).dataobj))):
        found[kind, name] = np.unique(array).astype(np.int64).tolist()
        print(f"{kind.__name__}, {name}: {array.dtype}, {found[kind, name]}")
for (kind, name), labels in found.items():
    assert (labels == REGIONS) if "antspyx" not in name else labels == [997, 312782560, 614454272]
PYTHON
