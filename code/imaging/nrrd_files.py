"""NRRD files, .nrrd and .nhdr with the voxels beside it: read whole, and placed as ITK places them.

Unlike in ITK, `space units` count. A file that names no space is in ITK's own, and axis minima give it its origin.
Affines map voxel indices to mm, RAS+.
"""
import bz2
import gzip
import io
from pathlib import Path

import nrrd
import numpy as np

from imaging.grids import check_stored, neighbour, voxel_sum
from runtime.errors import InputError

TO_RAS = {"left-posterior-superior": (-1, -1, 1, 1), "right-anterior-superior": (1, 1, 1, 1),
          "left-anterior-superior": (-1, 1, 1, 1)}      # spaces of patients -> signs of the affine's rows
TO_RAS |= {"".join(word[0] for word in name.split("-")): signs for name, signs in TO_RAS.items()}   # lps, ras, las
MM = {"m": 1000.0, "meter": 1000.0, "meters": 1000.0, "cm": 10.0, "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0,
      "um": 0.001, "µm": 0.001, "micron": 0.001, "microns": 0.001, "micrometer": 0.001, "": 1.0, "???": 1.0}
HEADER = 2 ** 24        # bytes: no header is longer
PACKED = {"gzip": gzip.open, "gz": gzip.open, "bzip2": bz2.open, "bz2": bz2.open}
PER_AXIS = "space directions", "spacings", "axis mins", "axis maxs", "centerings"
PLACE = (*PER_AXIS, "space", "space dimension", "space origin", "space units")      # where the voxels lie
STORAGE = ("type", "dimension", "sizes", "endian", "encoding", "data file", "line skip", "byte skip", "min", "max",
           "old min", "old max", "block size", "kinds", "thicknesses", "labels", "units")
SYNONYMS = {"centers": "centerings", "axismins": "axis mins", "axismaxs": "axis maxs", "datafile": "data file",
            "lineskip": "line skip", "byteskip": "byte skip", "oldmin": "old min", "oldmax": "old max",
            "blocksize": "block size"}      # the format's two names of a field: one counts here
MARK = "made_from"      # field of a file that we wrote ...
SUM = "made_voxels"     # ... and its voxels' check sum
TEXT_ENCODINGS = "ascii", "text", "txt"
DIGITS = 64             # bytes: no number in a text is longer


def read_header(path: Path) -> tuple[dict, int]:
    """The fields of a file, and the bytes that they take."""
    with path.open("rb") as file:
        start = io.BytesIO(file.read(HEADER))
    return nrrd.read_header(_lines(start)), start.tell()


def _lines(content):
    """A header's lines, fields by one name each, in whatever case they stand; up to a list of files with the voxels."""
    for line in content:
        line = line.decode(errors="replace")        # pynrrd: ASCII alone
        name, colon, value = line.partition(":")
        if colon and not value.startswith("=") and not line.startswith("#"):
            name = SYNONYMS.get(name.lower(), name.lower())
            line = f"{name}:{value}"
        yield line
        if name == "data file" and value.split()[:1] == ["LIST"]:
            return


def spatial(header: dict) -> list[int]:
    """The axes along which voxels lie; the others hold channels, layers or time."""
    if "space directions" in header:
        return [axis for axis, direction in enumerate(header["space directions"]) if np.isfinite(direction).all()]
    kinds = header.get("kinds", ["space"] * header["dimension"])
    return [axis for axis, kind in enumerate(kinds) if kind in ("space", "domain", "none", "???")]


def placed(path: Path, header: dict) -> tuple[np.ndarray, dict[str, str]]:
    """Affine of a header with three spatial axes, and notes on what was decided."""
    space = str(header.get("space", "left-posterior-superior")).lower()
    if space not in TO_RAS:
        raise InputError(f"{path}: its axes are in the space {space!r}, expected {', '.join(list(TO_RAS)[:3])}; "
                         "export it in one of these")
    axes, affine, notes = spatial(header)[:3], np.eye(4), {}
    if "space directions" in header:
        affine[:3, :3] = np.asarray(header["space directions"], float)[axes, :3].T      # ITK's fourth is time
        affine[:3, 3] = header.get("space origin", np.zeros(3))[:3]
    else:
        lowest, highest = (_of_axes(header, f"axis {end}", axes) for end in ("mins", "maxs"))
        # an axis minimum is the outer end of the first cell, or the centre of the first node
        centerings = header.get("centerings", ["cell"] * header["dimension"])
        is_cell = np.array([centerings[axis] != "node" for axis in axes])
        cells = header["sizes"][axes] - np.where(is_cell, 0, 1)
        sizes = _of_axes(header, "spacings", axes)
        sizes = np.where(np.isnan(sizes), (highest - lowest) / np.maximum(cells, 1), sizes)
        sizes = np.nan_to_num(sizes, nan=1.0)
        affine[:3, :3] = np.diag(sizes)
        affine[:3, 3] = header.get("space origin", np.nan_to_num(lowest + np.where(is_cell, sizes / 2, 0)))
    if units := header.get("space units"):
        scales = [_mm(path, unit) for unit in units]
        affine[:3] *= np.array(scales)[:, None]
        if set(scales) != {1.0}:
            notes["unit"] = f"its space units, {' '.join(units)}, are converted to mm, which ITK does not do"
    return np.diag(TO_RAS[space]) @ affine, notes


def _of_axes(header, name, axes):
    """The numbers of a field for these axes; NaN where it says nothing."""
    return np.asarray(header.get(name, [np.nan] * header["dimension"]), float)[axes]


def _mm(path, unit):
    try:
        return MM[unit.strip().lower()]
    except KeyError:
        raise InputError(f"{path}: its space units are {unit!a}, expected mm, cm, m or um; export it in mm") from None


def read(path: Path, geometry: str, channels: int):
    """Array (*N, ...) float32, affine, notes and readings of a file of one or several channels."""
    header, start = read_header(path)
    axes = spatial(header)
    if header["dimension"] == 4 and len(axes) == 4 and header["sizes"][3] == 1:
        axes = axes[:3]
    order = [*axes, *(axis for axis in range(header["dimension"]) if axis not in axes)]
    check_stored(path, tuple(int(header["sizes"][axis]) for axis in order), 16, channels)
    place = placed(path, header)
    return np.asarray(read_voxels(path, header, start), np.float32).transpose(order), *place, {}


def voxel_file(path: Path, header: dict | None = None) -> Path:
    """The file itself or, of a detached header, the one that it names."""
    header = read_header(path)[0] if header is None else header
    beside = header.get("data file")
    return path if beside is None else neighbour(path, beside)


def read_voxels(path: Path, header: dict, start: int) -> np.ndarray:
    """The array as it is stored: as many bytes of it as the header says, and packed ones to their check sum."""
    file = voxel_file(path, header)
    lines, skip = (header.get(f"{what} skip", 0) for what in ("line", "byte"))
    encoding = header["encoding"].lower()
    plain = {"endian": "little"} if encoding in TEXT_ENCODINGS else {}
    plain |= {key: value for key, value in header.items() if key in ("type", "endian", "dimension", "sizes")}
    dtype = nrrd.read_data(plain | {"encoding": "raw", "dimension": 1, "sizes": np.ones(1, int)},
                           io.BytesIO(bytes(16))).dtype
    count = int(np.prod(header["sizes"], dtype=object))
    with file.open("rb") as raw:
        raw.seek(start if file == path else 0)
        for _ in range(lines):
            if not raw.readline():
                break
        if encoding in PACKED:
            with PACKED[encoding](raw) as unpacked:
                unpacked.seek(skip)
                content = unpacked.read(count * dtype.itemsize)
                while unpacked.read(2 ** 20):       # what follows the voxels is of no use, however long it is
                    pass
        elif encoding == "raw":
            raw.seek(-count * dtype.itemsize, io.SEEK_END) if skip == -1 else raw.seek(skip, io.SEEK_CUR)
            content = raw.read(count * dtype.itemsize)
            if raw.read(1):
                raise InputError(f"{path}: {file.name} holds more bytes than its voxels need; copy or export it again")
        else:
            raw.seek(skip, io.SEEK_CUR)
            return nrrd.read_data(plain | {"encoding": encoding}, io.BytesIO(raw.read(count * DIGITS)))
    return nrrd.read_data(plain | {"encoding": "raw"}, io.BytesIO(content))


def encoded(array: np.ndarray, affine: np.ndarray, source: Path | None, mark: str, keep_header: bool) -> bytes:
    """A .nrrd of (*N) or (*N, C): with the place that the header of `source` has, field by field, or with the affine.

    keep_header: all other fields of `source`, too.
    """
    header = {"space": "left-posterior-superior", "space directions": (affine[:3, :3].T * (-1, -1, 1)),
              "space origin": affine[:3, 3] * (-1, -1, 1)}
    own = read_header(source)[0] if source else None
    if own and own.get("space dimension", 3) == 3:      # 4: the vectors of ITK's files of four axes
        axes = spatial(own)[:3]
        header = {_ascii(key): _ascii(value) for key, value in own.items()
                  if key in PLACE or keep_header and key not in STORAGE}
        header |= {key: np.asarray(value)[axes] for key, value in header.items() if key in PER_AXIS}
    if array.ndim == 4:
        array = np.moveaxis(array, -1, 0)
        header |= {key: [np.nan, *value] if key != "space directions" else np.vstack([[np.nan] * 3, value])
                   for key, value in header.items() if key in PER_AXIS and key != "centerings"}
        header |= {"centerings": ["???", *header["centerings"]]} if "centerings" in header else {}
    header["kinds"] = ["vector"] * (array.ndim - 3) + ["domain"] * 3
    header |= {"encoding": "gzip", MARK: mark} | ({SUM: voxel_sum(array)} if mark else {})
    content = io.BytesIO()
    nrrd.write(content, np.asfortranarray(array), header, compression_level=1)
    return content.getvalue()


def _ascii(value):
    """A field, or its name, as pynrrd can write it."""
    if isinstance(value, list):
        return [_ascii(one) for one in value]
    return value.replace("µ", "u").encode("ascii", "ignore").decode() if isinstance(value, str) else value


def mark_of(path: Path) -> tuple[str, bool]:
    """The mark, and whether the voxels are those that it was written with, as far as a check sum says so."""
    header, start = read_header(path)
    mark, said = header.get(MARK, ""), header.get(SUM)
    return mark, not mark or said in (None, voxel_sum(read_voxels(path, header, start)))
