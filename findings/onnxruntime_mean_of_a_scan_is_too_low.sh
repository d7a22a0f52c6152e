#!/usr/bin/env bash
# onnxruntime 1.31.1, OpenVINO 2026.4.1, PyTorch 2.13.0: of large volumes, z-scores and InstanceNorm of an exported network are off.
#
# One would believe: an exported network computes what the network computes, to rounding, at every size; tested on a patch, they agree
# well.
# What happens: on a CPU, onnxruntime adds all voxels into few float32 numbers, each of which stops growing once a voxel is less
# than half its last digit. PyTorch sums in pairs. A constant volume of 100 with 13 million voxels has the mean 97.6 and the
# standard deviation 2.4, and InstanceNorm3d makes it 1 where 0 is right. A CT of 79 million voxels, normalized by its own mean
# and standard deviation in the graph, differs by 0.02 standard deviations, 10 Hounsfield units; one of 96 x 96 x 32 voxels by 0.00003.
# OpenVINO has the means, and the same InstanceNorm3d.
# Whom it hurts: networks that carry their normalization with them, and networks with InstanceNorm or global average pooling
# applied to whole scans: what they see depends on the scan's size. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 openvino==2026.4.1
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import logging
import sys

import onnxruntime
import openvino
import torch

logging.disable(logging.WARNING)


class Function(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


def exported(function):
    """The function by onnxruntime, for volumes of any size."""
    path, sizes = f"{sys.argv[1]}/function.onnx", {axis: torch.export.Dim.DYNAMIC for axis in (2, 3, 4)}
    torch.onnx.export(Function(function).eval(), (torch.rand(1, 1, 8, 9, 10),), path, dynamo=True, verbose=False,
                      dynamic_shapes=(sizes,))
    session = onnxruntime.InferenceSession(path)
    return lambda x: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def z_score(x):
    return (x - x.mean()) / x.std()


functions = {"mean": lambda x: x.mean((2, 3, 4)), "standard deviation": lambda x: x.std((2, 3, 4)),
             "InstanceNorm": torch.nn.functional.instance_norm}
constant, found = torch.full((1, 1, 200, 256, 256), 100.0), {}
for name, function in functions.items():
    found[name] = [call(constant).flatten()[0].item() for call in (function, exported(function))]
    print("{} of a constant volume of 100: {:.2f} by PyTorch, {:.2f} by onnxruntime".format(name, *found[name]))
module = torch.nn.InstanceNorm3d(1)
compiled = openvino.Core().compile_model(openvino.convert_model(module, example_input=(constant,)), "CPU")
by_openvino = float(compiled(constant.numpy())[0].flat[0])
print(f"InstanceNorm by OpenVINO: {by_openvino:.2f}")
runs, apart = exported(z_score), {}
for depth, size in ((32, 96), (300, 512)):
    torch.manual_seed(0)
    row, column = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    body = (row / 0.8) ** 2 + (column / 0.95) ** 2 < 1
    scan = torch.randn(1, 1, depth, size, size).mul_(60).add_(torch.where(body, 1024.0, 24.0)).round_().clamp_(0)
    apart[size] = (runs(scan) - z_score(scan)).abs().max().item()
    print(f"z-scores of a CT of {size} x {size} x {depth} voxels differ by {apart[size]:.2g}")
assert abs(found["mean"][0] - 100) < 0.01 and abs(found["mean"][1] - 100) > 0.5
assert abs(found["InstanceNorm"][0]) < 0.01 and min(abs(found["InstanceNorm"][1]), abs(by_openvino)) > 0.5
assert apart[96] < 1e-4 and apart[512] > 0.005
PYTHON
