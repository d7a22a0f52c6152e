"""Segment a scan with the network beside this file: the label map that predict.py of the run writes for it.

    python segment.py LABELS.nii.gz SCAN.nii.gz [SCAN.nii.gz ...]       one scan per channel, named as "modalities" says

Needs numpy, scipy, nibabel, onnxruntime. Exit code: 0, or 2 with one line on what is wrong; nothing is overwritten.
"""
import json
import sys
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import onnxruntime
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage

HERE = Path(__file__).resolve().parent
HOW, NET = (json.loads((HERE / name).read_text(encoding="utf-8")) for name in ("preprocessing.json", "network.json"))
EDGES, UNITS = np.array(NET["patch_size"]), {1: 1000.0, 3: 0.001}       # mm of a header's metres and micrometres


def read(path):
    """Voxels (*N) float32, affine in mm and header of a NIfTI file; ValueError for what predict.py may still read."""
    header, shape, _ = (image := nib.load(path)).header, image.shape, nib.openers.Opener(path).read()   # to check sums
    usual = "sform_code" in header and image.dataobj.offset > 347 and image.get_data_dtype().kind in "iuf"
    array = image.get_fdata(dtype=np.float32) if usual else np.zeros(1)
    if len(shape) < 3 or np.prod(shape[3:]) != 1 or not 0 < np.ptp(array) < np.inf:
        raise ValueError(f"{path}: expected a NIfTI file of one volume, of finite numbers that differ")
    sides = np.array(header.get_zooms()[:3], float)
    forms = [form for form in (header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]) if form is not None]
    forms = forms or [np.diag([-sides[0], -sides[1], sides[2], 1.0])]       # as ITK has it
    far = (np.abs(forms[0] - forms[-1]) @ (*shape[:3], 1)).max()
    if far > 0.1 * sides.min() or not np.allclose(nib.affines.voxel_sizes(forms[0]), sides, rtol=0.01, atol=0):
        raise ValueError(f"{path}: sform, qform and pixdim of its header disagree; correct it, or take predict.py")
    return array.reshape(shape[:3]), np.diag([*[UNITS.get(header["xyzt_units"] & 7, 1)] * 3, 1]) @ forms[0], header


def resample(maps, shape):
    """Maps (C, *S) -> (C, *shape), linear; the outer faces of the volume stay where they are."""
    return maps if maps.shape[1:] == tuple(shape) else np.stack([ndimage.zoom(
        one, np.divide(shape, one.shape), order=1, mode="nearest", grid_mode=True) for one in maps])


def to_input(scans, affine):
    """Scans (channels, *N) -> image (channels, *S), of slices the coarsest axis first, and each axis' own, 1 or -1."""
    axes = sorted((2, 1, 0), key=(2 - int(np.argmax((sides := nib.affines.voxel_sizes(affine))[::-1].round(3)))).__ne__)
    turn = np.array([(axes.index(axis), 1) for axis in range(3)]) if HOW["orientation"] == "slices" else (
        ornt_transform(io_orientation(affine), axcodes2ornt(HOW["orientation"])).astype(int))
    back = np.array([(axis, turn[axis, 1]) for axis in np.argsort(turn[:, 0])])
    image, sides = np.stack([apply_orientation(scan, turn) for scan in scans]), sides[back[:, 0]]
    brains = (image != image[:, :1, :1, :1]) | (HOW["normalise"] != "zscore_brain")     # the background: as the corner
    shape = [max(1, round(round(n, 3))) for n in image.shape[1:] * sides / (HOW["spacing"] or sides)]
    image, brains = resample(image, shape), resample(brains.astype(np.float32), shape) > 0.5 - 5e-7
    for channel, (volume, brain) in enumerate(zip(image, brains, strict=True)):
        low, high, shift, scale = map(np.float32, HOW["windows"][channel]) if HOW["windows"] else map(float, (
            volume.min(), volume.max(), volume[brain].mean(dtype=float), volume[brain].std(dtype=float)))
        shift, scale = (low, high - low) if HOW["normalise"] == "minmax" else (shift, scale)
        if min(image[0].shape) < min(2, *scans[0].shape) or not 0 < min(scale, np.ptp(volume.clip(low, high))) < np.inf:
            raise ValueError("the scan, once prepared, is one value or one voxel thin: look at it and its voxel size")
        image[channel] = (volume.clip(low, high) - shift) / scale * brain
    return image, back


def windowed(network, image):
    """Image (channels, *S) -> class probabilities (C, *S), the weighted mean over windows."""
    pads = (EDGES - (sizes := np.array(image.shape[1:]))).clip(0)
    whole = np.pad(image, [(0, 0), *((pad // 2, pad - pad // 2) for pad in pads)])
    starts = map(lambda far, step: np.minimum(range(0, far + step, step), far), (sizes - EDGES).clip(0), NET["stride"])
    places = ((2 * np.indices(EDGES).T - EDGES + 1) * (4 / EDGES)).T * (NET["weights"] == "gaussian")
    weight = np.exp(-np.square(places).sum(0) / 2).astype(np.float32)
    sums = np.zeros((NET["num_classes"] + 1, *whole.shape[1:]), np.float32)     # the last one: of the weights
    for corner in np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, len(EDGES)):
        box = tuple(map(slice, corner, corner + EDGES))
        sums[:, *box] += np.append(network(whole[:, *box]), np.ones((1, *EDGES), np.float32), 0) * weight
    return (sums[:-1] / sums[-1])[:, *map(slice, pads // 2, pads // 2 + sizes)]


def segment(network, image):
    """Image (channels, *S) -> class probabilities (C, *S), as a volume or slice by slice."""
    if NET["standardise"]:
        mean, deviation = (of(image, tuple(range(-len(EDGES), 0)), keepdims=True) for of in (np.mean, np.std))
        image = (image - mean) / np.where(deviation > 0, deviation, np.float32(1))
    if len(EDGES) == 3:
        shape = [max(extent // 2, 1) if NET["half_resolution"] else extent for extent in image.shape[1:]]
        return resample(windowed(network, resample(image, shape)), image.shape[1:])
    to, back = (np.ix_(*(np.minimum((np.arange(new) * ((old - 1) / max(new - 1, 1)) + 0.5).astype(int), old - 1)
                         for old, new in zip(*shapes, strict=True)))        # the nearest pixels, ends on ends
                for shapes in ((image.shape[2:], EDGES), (EDGES, image.shape[2:])))
    return np.stack([windowed(network, one) if NET["stride"] else network(one[:, *to])[:, *back]
                     for one in image.swapaxes(0, 1)], 1)


def main(target, *paths):
    ends = [end.lower() for end in HOW["modalities"]] if len(HOW["modalities"]) > 1 else [""]
    found = {end: path for end in ends for path in paths if path.lower().endswith((f"{end}.nii", f"{end}.nii.gz"))}
    if Path(target).exists() or not target.endswith(".nii.gz") or not len({*found.values()}) == len(paths) == len(ends):
        raise ValueError(f"{target} {' '.join(paths)}: expected a new .nii.gz, a NIfTI for each of {HOW['modalities']}")
    scans, affines, headers = zip(*map(read, found.values()), strict=True)
    if len({scan.shape for scan in scans}) > 1 or not np.allclose(affines, affines[0], atol=0.01):
        raise ValueError(f"{' '.join(paths)}: lie on different grids, expected one; resample them")
    image, back = to_input(scans, affines[0])
    session = onnxruntime.InferenceSession(HERE / "network.onnx", providers=["CPUExecutionProvider"])
    maps = segment(lambda patch: session.run(None, {"image": np.ascontiguousarray(patch[None])})[0][0], image)
    labels = resample(maps, [scans[0].shape[axis] for axis in back[:, 0]]).argmax(0)
    for kept in NET["keep_largest"]:
        parts = ndimage.label(labels == kept, np.ones((3, 3, 3)))[0]
        labels[(parts > 0) & (parts != np.bincount(parts[parts > 0], minlength=1).argmax())] = 0
    labels = np.array(NET["values"], NET["dtype"])[apply_orientation(labels, back)]
    header, total = nib.Nifti1Header(), f"{zlib.crc32(np.ascontiguousarray(labels, '<i4')):08x}"
    header["intent_name"], header["aux_file"] = 2 * total, total      # told from what somebody drew
    for key in filter(lambda key: key[:4] in {"sfor", "qfor", "xyzt", "srow", "quat", "qoff", "pixd"}, header):
        header[key] = headers[0][key]
    nib.save(nib.Nifti1Image(labels, None, header, dtype=labels.dtype), target)


try:
    main(*sys.argv[1:])
except Exception as error:      # bytes of anybody's making end in any error
    sys.exit(print(f"error: {' '.join(str(error).split())}", file=sys.stderr) or 2)
