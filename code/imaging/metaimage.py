"""MetaImage files, .mha and .mhd with the voxels beside it: read whole, and placed as ITK places them.

Read here and not by SimpleITK, which takes a damaged compressed file for a good one. Affines map voxel indices to mm,
RAS+.
"""
import math
import re
import zlib
from pathlib import Path

import numpy as np

from imaging.grids import check_stored, neighbour
from runtime.errors import InputError

HEADER = 2 ** 20        # bytes: no header is longer
TYPES = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4",
         "ULONG": "u4", "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"}     # MET_...
MM = {"mm": 1.0, "cm": 10.0, "um": 0.001, "?": 1.0}
DEFLATED = 47           # zlib's or gzip's header, whichever is there


def read_header(path: Path) -> tuple[dict[str, str], int]:
    """The fields of a file, and the bytes that they take."""
    with path.open("rb") as file:
        start = file.read(HEADER) + b"\n"       # which the last line may lack
    fields, place = {}, 0
    while "ElementDataFile" not in fields:
        end = start.index(b"\n", place)
        key, *value = re.split("[=:]", start[place:end].decode(errors="replace"), maxsplit=1)   # DICOM's: any encoding
        fields[key.strip()] = "".join(value).strip()
        place = end + 1
    return fields, place


def _numbers(fields, names, default):
    """The numbers of the first of these fields that is there."""
    text = next((fields[name] for name in names if name in fields), None)
    return np.array(default if text is None else text.split(), float)


def placed(path: Path, fields: dict[str, str]) -> tuple[np.ndarray, dict[str, str]]:
    """Affine of a header, and notes on what was decided."""
    count = int(fields["NDims"])
    matrix = _numbers(fields, ("TransformMatrix", "Rotation", "Orientation"), np.eye(count).ravel())
    sizes = _numbers(fields, ("ElementSpacing", "ElementSize"), [1] * count)
    affine, notes = np.eye(4), {}
    affine[:3, :3] = matrix.reshape(count, count)[:3, :3].T * sizes[:3]
    affine[:3, 3] = _numbers(fields, ("Offset", "Position", "Origin"), [0] * count)[:3]
    unit = fields.get("DistanceUnits", "mm")
    if unit not in MM:
        raise InputError(f"{path}: its DistanceUnits are {unit!a}, expected mm, cm or um; export it in mm")
    if MM[unit] != 1:
        affine[:3] *= MM[unit]
        notes["unit"] = f"its DistanceUnits, {unit}, are converted to mm, which ITK does not do"
    return np.diag([-1, -1, 1, 1]) @ affine, notes


def read(path: Path, geometry: str, channels: int):
    """Array (*N, ...) float32, affine, notes and readings of a file of one or several channels."""
    fields, start = read_header(path)
    shape = tuple(int(side) for side in fields["DimSize"].split())
    interleaved = int(fields.get("ElementNumberOfChannels", 1))
    if len(shape) != int(fields["NDims"]) or min(shape) < 0:
        raise ValueError(f"NDims {fields['NDims']}, DimSize {fields['DimSize']}")
    order = "<>"[_says(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB")]
    kind = fields["ElementType"].removeprefix("MET_").removesuffix("_ARRAY")
    if kind not in TYPES:
        raise InputError(f"{path}: holds {fields['ElementType']} voxels, expected one number per voxel; export it as "
                         "greyscale")
    dtype = np.dtype(order + TYPES[kind])
    whole = shape if interleaved == 1 else (*shape, interleaved)
    check_stored(path, whole, 2 * dtype.itemsize, channels)
    place = placed(path, fields)
    content = _voxels(path, fields, start, math.prod(whole) * dtype.itemsize)
    array = np.frombuffer(content, dtype).reshape((interleaved, *shape), order="F")
    return np.moveaxis(array, 0, -1).astype(np.float32).reshape(whole), *place, {}


def _says(fields, *names):
    return any(fields.get(name, "")[:1] in ("T", "t", "1") for name in names)     # MetaIO looks at no more letters


def voxel_file(path: Path, fields: dict[str, str] | None = None) -> Path:
    """The file itself or, of a detached header, the one that it names."""
    name = (read_header(path)[0] if fields is None else fields)["ElementDataFile"]
    return path if name.upper() == "LOCAL" else neighbour(path, name)


def _voxels(path, fields, start, count):
    """The `count` bytes of the voxels; ValueError where there are fewer or more."""
    if not _says({"BinaryData": "True"} | fields, "BinaryData"):
        raise InputError(f"{path}: its voxels are text, which is not read; export it as binary")
    file = voxel_file(path, fields)
    with file.open("rb") as raw:
        raw.seek(start if file == path else 0)
        if (skip := int(fields.get("HeaderSize", 0))) and file != path:
            raw.seek(*(-count, 2) if skip == -1 else (skip, 0))
        if not _says(fields, "CompressedData"):
            content, more = raw.read(count), raw.read(1)
        else:
            unpacker = zlib.decompressobj(DEFLATED)
            content = unpacker.decompress(raw.read(), count)
            more = unpacker.decompress(unpacker.unconsumed_tail, 1)     # nothing, and the check sum is looked at
            if not unpacker.eof and not more:
                raise ValueError("the compressed voxels are cut off")
    if len(content) < count or more:
        raise ValueError(f"{file.name} holds {'more' if more else 'fewer'} than the {count} bytes of its voxels")
    return content
