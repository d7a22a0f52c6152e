"""3D Slicer's segmentations, .seg.nrrd, or .nrrd: cropped to what is drawn, in layers, with a name for each segment."""
import re
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes

from imaging import nrrd_files
from imaging.grids import ScanFile, check_stored, is_near, sides, turned
from runtime.errors import InputError, one_line

SEG_NRRD = ".seg.nrrd"
FIELD = re.compile(r"Segment(\d+)_(Name|LabelValue|Layer|ID)")
STORED = ".nrrd", ".nhdr"       # as which 3D Slicer saves segmentations, too, with the same fields
NAMED, BLANK = re.compile(rb"^Segment\d+_(Name|ID):=", re.MULTILINE), re.compile(rb"\r?\n\r?\n")
HEADER_START = 2 ** 16      # bytes in which they stand
OFFSET = "Segmentation_ReferenceImageExtentOffset"      # of the stored box in the scan's voxels


def is_segmentation(path: Path) -> bool:
    """Whether a file is one by its name, or a NRRD whose header names segments."""
    name = path.name.lower()
    if name.endswith(SEG_NRRD) or not name.endswith(STORED) or not path.is_file():
        return name.endswith(SEG_NRRD)
    try:
        with path.open("rb") as file:
            start = file.read(HEADER_START)
    except OSError:     # is said where it is read
        return False
    return start.startswith(b"NRRD") and bool(NAMED.search(BLANK.split(start, 1)[0]))


def segments(path: Path) -> dict[str, tuple[int, int, int]]:
    """{name: (layer, value in that layer, value among all segments)}, in the file's order.

    The last is the file's own where no two segments share one, and the place in the order, from 1, otherwise.
    """
    return _segments(path, nrrd_files.read_header(path)[0])


def _segments(path, header):
    found = {}
    for key, text in header.items():
        if match := FIELD.fullmatch(key):
            found.setdefault(int(match[1]), {})[match[2]] = text
    numbers = sorted(found)
    # before 4.11, Slicer gave each segment a layer of its own, of zeros and ones, and no further field
    stored = [(int(found[number].get("Layer", place)), int(found[number].get("LabelValue", 1)))
              for place, number in enumerate(numbers)]
    names = [found[number].get("Name", found[number].get("ID", f"segment {number}")) for number in numbers]
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path}: has two segments called {one_line(double[0])}; give each its own name")
    own = [value for _, value in stored]
    values = own if len(set(own)) == len(own) else range(1, len(own) + 1)
    return {name: (*place, value) for name, place, value in zip(names, stored, values, strict=True)}


def read_values(path: Path, scan: ScanFile, values: dict[str, int] | None, same_affine: bool) -> np.ndarray:
    """Values (*N) of the segments on the scan's grid, 0 elsewhere.

    values: {segment's name: value}; the file's own by default. Where headers need not agree (`same_affine` False), the
    box lies where the file says that it was cut out of the scan. InputError where segments overlap.
    """
    header, start = nrrd_files.read_header(path)
    axes = nrrd_files.spatial(header)
    others = [axis for axis in range(header["dimension"]) if axis not in axes]
    shape = tuple(int(header["sizes"][axis]) for axis in (*axes, *others))
    check_stored(path, shape, 16, int(np.prod(shape[3:])))
    layers = nrrd_files.read_voxels(path, header, start).transpose(*axes, *others).reshape(*shape[:3], -1)
    affine, _ = nrrd_files.placed(path, header)
    if same_affine:
        layers, affine = turned(layers, affine, scan.affine)
    place = _offset(path, affine, layers.shape[:3], scan, same_affine, header.get(OFFSET))
    box, owner, names = np.zeros(layers.shape[:3], np.float32), np.full(layers.shape[:3], -1, np.int16), []
    for name, (layer, stored, value) in _segments(path, header).items():
        if values is not None and name not in values:
            raise InputError(f"{path}: has the segment {one_line(name)}, expected only {', '.join(values)}; rename or "
                             "remove it")
        here = layers[..., layer] == stored
        if taken := int((owner[here] >= 0).sum()):
            other = names[owner[here].max()]
            raise InputError(f"{path}: the segments {one_line(other)} and {one_line(name)} overlap in {taken} voxels; "
                             "remove the overlap, since a voxel has one class, or export a label map")
        box[here], owner[here] = value if values is None else values[name], len(names)
        names.append(name)
    if odd := int(((layers != 0).any(-1) & (owner < 0)).sum()):
        raise InputError(f"{path}: {odd} of its voxels have a value that belongs to no segment; export it again")
    shape = scan.array.shape
    if lost := int((owner >= 0).sum() - _pasted(owner >= 0, place, shape).sum()):
        raise InputError(f"{path}: {lost} of its voxels lie outside {scan.path.name}; it should be that scan's")
    return _pasted(box, place, shape)


def _offset(path, affine, shape, scan, same_affine, said):
    """Where the box's first voxel lies among the scan's."""
    if not same_affine:
        if said is None and shape != scan.array.shape:
            raise InputError(f"{path}: has shape {shape}, {scan.path.name} {scan.array.shape}, and does not say where "
                             "in it it lies; export it with that scan as its reference")
        return np.array((said or "0 0 0").split(), int)
    place = np.rint((np.linalg.inv(scan.affine) @ affine)[:3, 3]).astype(int)
    moved = scan.affine.copy()
    moved[:3, 3] += scan.affine[:3, :3] @ place
    if not is_near(affine, moved, shape):
        raise InputError(f"{path}: its voxels of {sides(voxel_sizes(affine))} mm are not those of {scan.path.name}; "
                         "export it with that scan as its reference, or, where headers are wrong, use --same-voxels")
    return place


def _pasted(box, place, shape):
    """The box in a volume of zeros, as far as it lies inside."""
    whole = np.zeros(shape, box.dtype)
    first, last = np.maximum(place, 0), np.minimum(place + box.shape, shape)
    if (first < last).all():
        whole[tuple(map(slice, first, last))] = box[tuple(map(slice, first - place, last - place))]
    return whole
