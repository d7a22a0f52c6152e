#!/usr/bin/env bash
# panoptica 2.1.7: one slice has five lesions as a 2D array and two as a volume of one slice.
#
# One would believe: what counts as one lesion does not depend on how many axes of length one an array has; neighbourhoods in a slice
# are of 8 pixels, or of 4, in 2D as in 3D.
# What happens: without a backend, ConnectedComponentsInstanceApproximator takes SciPy for 2D and cc3d for 3D, as it says. It does
# not say that SciPy joins pixels at their sides alone, and cc3d also at their corners: 4 neighbours in 2D, 26 in 3D. A thin lesion
# along a diagonal falls into one lesion for each pixel, each of which is found or missed. Asked for cc3d in 2D, it has two.
# Whom it hurts: numbers of lesions, recognition and panoptic quality of slices beside those of volumes, and of the same data
# evaluated slice by slice and as a whole. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.2.6 scipy==1.15.3 panoptica==2.1.7
"$folder/venv/bin/python" -W ignore - 2> /dev/null <<'PYTHON'
import numpy as np
from panoptica import (CCABackend, ConnectedComponentsInstanceApproximator, InputType, NaiveThresholdMatching,
                       Panoptica_Evaluator)

reference = np.zeros((16, 16), np.uint8)
reference[range(3, 7), range(3, 7)] = 1          # a thin lesion of four pixels
reference[10:13, 10:13] = 1                      # and a round one
prediction = reference.copy()
prediction[range(3, 7), range(3, 7)] = 0         # the thin one is missed


def quality(reference, prediction, backend=None):
    evaluator = Panoptica_Evaluator(
        expected_input=InputType.SEMANTIC, instance_approximator=ConnectedComponentsInstanceApproximator(backend),
        instance_matcher=NaiveThresholdMatching(), verbose=False)
    result = evaluator.evaluate(prediction, reference)["ungrouped"]
    return result.tp + result.fn, round(result.rq, 2)


found = {"2D": quality(reference, prediction), "3D, one slice": quality(reference[None], prediction[None]),
         "2D, cc3d": quality(reference, prediction, CCABackend.cc3d)}
for name, (lesions, recognition) in found.items():
    print(f"{name}: {lesions} lesions in the reference, recognition quality {recognition}")
assert found["2D"] == (5, 0.33) and found["3D, one slice"] == found["2D, cc3d"] == (2, 0.67)
PYTHON
