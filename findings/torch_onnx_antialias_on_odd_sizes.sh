#!/usr/bin/env bash
# PyTorch 2.13.0 with onnxruntime 1.31.1: an exported F.interpolate(scale_factor=0.5, antialias=True) gives other values on odd sizes.
# 
# One would believe: the exported network computes what the network computes, to rounding, since the exporter raised nothing
# and even sizes agree to 1e-7.
# What happens: PyTorch keeps the given factor (17 pixels are halved to 8 at steps of 2 pixels); the exported Resize node is
# given the output size alone, and works at steps of 17/8. Values in [0, 1] differ by more than 0.1. Without antialias the
# factor is exported and both agree. size=... instead of scale_factor=... agrees in both.
# Whom it hurts: networks and preprocessing that halve slices of any size inside the exported graph.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import logging
import sys
import warnings

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


class Halved(torch.nn.Module):
    def __init__(self, antialias):
        super().__init__()
        self.antialias = antialias

    def forward(self, x):
        return F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False, antialias=self.antialias)


torch.manual_seed(0)
apart = {}
for antialias in (True, False):
    for size in (16, 17):
        x, path = torch.rand(1, 1, size, size), f"{sys.argv[1]}/halved.onnx"
        torch.onnx.export(Halved(antialias), (x,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path)
        [y] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        apart[antialias, size] = float(np.abs(y - Halved(antialias)(x).numpy()).max())
        print(f"antialias={antialias}, {size} x {size}: PyTorch and onnxruntime differ by {apart[antialias, size]:.2g}")
assert apart[True, 17] > 0.05
assert max(apart[True, 16], apart[False, 16], apart[False, 17]) < 1e-5
PYTHON
