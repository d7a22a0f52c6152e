"""What a test saves of its label maps: where a viewer shows them."""
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine, voxel_sizes

from evaluation import plots, saved_maps
from imaging.grids import ScanFile
from imaging.preparation import write_case
from imaging.preprocess import apply
from imaging.record import Preprocessing

AXES = np.array([[0, -1.5, 0.1, 20], [1.2, 0, 0, -30], [0, 0.1, 3, 5], [0, 0, 0, 1.0]])     # turned, flipped, oblique
RISE = np.array([0.3, -0.7, 1.1])       # of the intensity, per mm


def places(affine, shape):
    """mm of each voxel (*N, 3)."""
    return apply_affine(affine, np.stack(np.indices(shape), -1))


@pytest.mark.parametrize(("orientation", "spacing"), [
    ("LPS", None), ("RAS", (2.1, 1, 2)), ("slices", (2.1, 1, 2))])
def test_a_saved_map_lies_where_the_scans_own_file_does(tmp_path, monkeypatch, orientation, spacing):
    """The intensities of a scan that is linear in space are, prepared, those of the places of the map that is saved."""
    array = np.float32(places(AXES, (16, 14, 12)) @ RISE + 90)
    array[:3] = array[-1] = array[:, :1] = array[:, -2:] = array[..., :1] = array[..., -1] = 0      # what is cropped
    scan = ScanFile(array, AXES, voxel_sizes(AXES), Path("scan.nii"))
    image, _, geometry = apply(scan, Preprocessing(
        "own", orientation, "ct", crop="brain", spacing=spacing, modalities=("image",), labels={0: 0, 1: 1},
        windows=((-1e3, 1e3, 0, 1),)))
    labels, file = np.zeros(image.shape, np.uint8), tmp_path / "case.h5"
    write_case(file, image, labels, attributes={"geometry": json.dumps(asdict(geometry))})
    data = SimpleNamespace(path_of=lambda name: file, depth_axis=2, dataset="own", recipe=SimpleNamespace(
        classes=("organ",), data_dir=tmp_path))
    monkeypatch.setattr(plots, "overlay", lambda *args, **how: None)
    case = SimpleNamespace(image=torch.from_numpy(image)[None], label=torch.from_numpy(labels))
    saved_maps.save_prediction(tmp_path / "predictions", "case", case, {"fused": labels}, data, "mark")
    saved = nibabel.load(tmp_path / "predictions" / "case_fused.nii")
    inner = (slice(2, -2),) * 3                 # where nothing of the background is mixed in
    assert places(saved.affine, image.shape)[inner] @ RISE + 90 == pytest.approx(image[inner], abs=1e-3)
    assert saved.header.get_xyzt_units()[0] == "mm"
