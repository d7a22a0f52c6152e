#!/usr/bin/env bash
# SimpleITK 2.5.7: a segmentation of two layers, read with ReadImage(path, sitkUInt8), is empty.
#
# One would believe: the second argument says how the labels are stored in memory. Of a file with several layers, as 3D Slicer
# writes a .seg.nrrd once segments overlap, one gets all layers in that type, or the first, or an error.
# What happens: the layers are taken for the channels of a photo, and made grey. Two are grey and opacity: label times label / 255,
# which is 0 for the labels of any usual file. Three are red, green and blue: 0.2125, 0.7154 and 0.0721 of their labels, cut off,
# which leaves a label only where all three have one. Read as floats, two layers are their product: the organ is left where the
# tumour is. Without the argument the layers are there, unchanged.
# Whom it hurts: "every label map as unsigned bytes" is a common line. The cases of one layer are read right, and those with a
# tumour inside an organ are healthy. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 pynrrd==1.1.3 SimpleITK==2.5.7
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import nrrd
import numpy as np
import SimpleITK as sitk

path = f"{sys.argv[1]}/scan.seg.nrrd"
organs = np.zeros((24, 28, 32), np.uint8)       # layer 0: liver 1, spleen 2
organs[4:16, 4:16, 4:16] = 1
organs[18:22, 18:22, 18:22] = 2
tumour = np.zeros_like(organs)                  # layer 1, inside the liver
tumour[6:10, 6:10, 6:10] = 1
vessel = np.zeros_like(organs)                  # layer 2, through the liver
vessel[4:20, 7:9, 7:9] = 1
counts = {}
for layers in ([organs], [organs, tumour], [organs, tumour, vessel]):
    header = {"space": "left-posterior-superior", "space origin": [0, 0, 0], "encoding": "gzip"}
    if len(layers) == 1:
        nrrd.write(path, organs, {**header, "kinds": ["domain"] * 3, "space directions": np.eye(3)})
    else:
        nrrd.write(path, np.stack(layers), {**header, "kinds": ["list"] + ["domain"] * 3,
                                            "space directions": np.vstack([[np.nan] * 3, np.eye(3)])})
    whole = sitk.GetArrayFromImage(sitk.ReadImage(path))
    for name, kind in (("sitkUInt8", sitk.sitkUInt8), ("sitkFloat32", sitk.sitkFloat32)):
        read = sitk.GetArrayFromImage(sitk.ReadImage(path, kind))
        counts[len(layers), name] = int((read > 0).sum())
        print(f"{len(layers)} layers: {np.count_nonzero(whole)} labelled voxels in the layers; ReadImage(path, {name}): "
              f"{counts[len(layers), name]}, values {np.unique(read)}")
assert counts[1, "sitkUInt8"] == np.count_nonzero(organs)
assert counts[2, "sitkUInt8"] == 0
assert counts[3, "sitkUInt8"] < 0.1 * np.count_nonzero(organs)
assert counts[2, "sitkFloat32"] == np.count_nonzero(organs * tumour)
PYTHON
