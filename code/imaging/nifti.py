"""NIfTI and Analyze files: read whole, placed where ITK places them when the header's fields disagree, and written.

ITK's rules (itkNiftiImageIO of version 5.4; the tests compare with SimpleITK): voxel sizes are pixdim's; directions and
origin are the sform's if it is orthogonal and is the only one, is the scanner's (code 1) or agrees with the qform, and
the qform's otherwise; without either, the axes go to the left, the back and the head. Where sform, qform and pixdim
agree, the sform is taken as it stands. Affines map voxel indices to mm, RAS+.
"""
import gzip
import logging
import math
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from imaging.grids import apart, check_stored, is_near, sides, voxel_sum
from runtime.errors import InputError

nib.imageglobals.logger.setLevel(logging.CRITICAL)     # of each file again, that a header was corrected
MM = {1: 1000.0, 2: 1.0, 3: 0.001}      # of xyzt_units: metres, millimetres, micrometres; anything else counts as mm
SIZES_AGREE = 0.01      # share of a voxel's side by which sform and pixdim may differ
ORTHOGONAL = 1e-4       # products of the sform's directions, as ITK has it
PLACE_FIELDS = ("sform_code", "qform_code", "xyzt_units", *(f"srow_{axis}" for axis in "xyz"),
          *(f"quatern_{axis}" for axis in "bcd"), *(f"qoffset_{axis}" for axis in "xyz"))     # of a header's place


def placed(header, shape: tuple[int, ...], geometry: str) -> tuple[np.ndarray, dict[str, str], dict[str, np.ndarray]]:
    """Affine of a header, notes on what was decided, and all that the header says: field -> affine.

    geometry: "itk", or "sform": the sform with its own voxel sizes wherever it has a code.
    """
    unit = 1.0 if not _is_nifti(header) else MM.get(int(header["xyzt_units"]) & 7, 1.0)
    size = np.abs(np.asarray(header["pixdim"][1:4], float)) * unit
    size[~np.isfinite(size) | (size == 0)] = np.nan        # says nothing
    forms = _forms(header, unit) if _is_nifti(header) else {}
    if not forms:
        affine = np.diag([-1, -1, 1, 1]) @ np.diag([*np.nan_to_num(size, nan=1.0), 1])
        return affine, {"orientation": "the header gives no orientation (no sform and no qform); the axes are taken to "
                                       "go to the left, the back and the head, as ITK takes them"}, {}
    taken = next(iter(forms)) if geometry == "sform" else _itks_form(forms, int(header["sform_code"]), shape)
    affine, readings, notes = forms[taken], dict(forms), {}
    if unit != 1:
        notes["unit"] = f"its header is in {'metres' if unit > 1 else 'micrometres'}, which are converted to mm"
    ending = ("(--geometry itk takes the other)" if geometry == "sform" else
              "as ITK does (--geometry sform takes the other)")
    if "sform" in forms and (np.abs(voxel_sizes(forms["sform"]) / size - 1) > SIZES_AGREE).any():
        readings["sform with the sizes of pixdim"] = _resized(forms["sform"], size)
        affine = affine if geometry == "sform" else _resized(affine, size)
        choice = "the sform is taken" if geometry == "sform" else f"pixdim is taken, with the {taken}'s directions,"
        notes["voxel size"] = (f"the sform says {sides(voxel_sizes(forms['sform']))} mm and pixdim {sides(size)} mm; "
                               f"{choice} {ending}")
    elif len(forms) == 2 and not is_near(forms["sform"], forms["qform"], shape):
        notes["place"] = (f"sform and qform put it up to {apart(forms['sform'], forms['qform'], shape):.3g} mm apart; "
                          f"the {taken} is taken {ending}")
    return affine, notes, readings


def _as_written(image):
    """The header without what nibabel corrects as it reads, such as a pixdim of 0."""
    with image.file_map.get("header", image.file_map["image"]).get_prepare_fileobj("rb") as file:
        return type(image.header).from_fileobj(file, check=False)


def _is_nifti(header):
    return isinstance(header, nib.Nifti1Header)


def _forms(header, unit):
    """{"sform": affine in mm, "qform": ...} of those that have a code, the finite ones if there are any."""
    forms = {}
    if header["sform_code"] > 0:
        forms["sform"] = np.array(header.get_sform(), float)
    if header["qform_code"] > 0:
        forms["qform"] = _qform(header)
    for form in forms.values():
        form[:3] *= unit
    return {name: form for name, form in forms.items() if np.isfinite(form).all()} or forms


def _qform(header):
    """The qform with its quaternion brought to length 1 where it is longer, as the NIfTI library does."""
    bcd = np.array([header[f"quatern_{axis}"] for axis in "bcd"], float)
    quaternion = np.array([math.sqrt(max(1 - bcd @ bcd, 0)), *bcd])
    sizes = np.abs(np.asarray(header["pixdim"][1:4], float))
    affine = np.eye(4)
    affine[:3, :3] = nib.quaternions.quat2mat(quaternion) * np.where(sizes > 0, sizes, 1)
    affine[:3, 2] *= -1 if header["pixdim"][0] < 0 else 1
    affine[:3, 3] = [header[f"qoffset_{axis}"] for axis in "xyz"]
    return affine


def _itks_form(forms, sform_code, shape):
    if len(forms) == 1 or is_near(forms["sform"], forms["qform"], shape):
        return next(iter(forms))
    directions = forms["sform"][:3, :3] / voxel_sizes(forms["sform"])
    orthogonal = np.allclose(directions.T @ directions, np.eye(3), rtol=0, atol=ORTHOGONAL)
    return "sform" if orthogonal and sform_code == 1 else "qform"


def _resized(affine, size):
    """`affine` with voxels of `size` mm; NaN keeps a side."""
    own = voxel_sizes(affine)
    resized = affine.copy()
    with np.errstate(divide="ignore", invalid="ignore"):       # sides of 0, which are refused later
        resized[:3, :3] *= np.where(np.isnan(size), own, size) / own
    return resized


def voxel_file(path: Path) -> Path:
    """The file itself or, of a pair, the .img."""
    return Path(nib.load(path).file_map["image"].filename)


def read(path: Path, geometry: str, channels: int):
    """Array (*N, ...) float32, affine, notes and readings of a NIfTI or Analyze file of one or several channels."""
    image = nib.load(path)
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: holds {dtype} voxels, expected one number per voxel; export it as greyscale")
    check_stored(path, image.shape, dtype.itemsize, channels)
    first = image.header.single_vox_offset if getattr(image.header, "is_single", False) else 0
    if image.dataobj.offset < first:
        raise InputError(f"{path}: its voxels begin at byte {image.dataobj.offset} (vox_offset), inside its header, "
                         f"expected {first} or more; export it again")
    voxels = voxel_file(path)
    if not voxels.is_file():
        raise InputError(f"{path}: its voxels should be in {voxels.name} beside it, which is no regular file; copy "
                         "both")
    place = placed(_as_written(image), image.shape[:3], geometry)
    if voxels.name.lower().endswith(".gz"):   # whole: nibabel stops before gzip's check sum
        with gzip.open(path) as file:
            content = file.read(image.dataobj.offset + math.prod(image.shape) * dtype.itemsize)
            while file.read(2 ** 20):       # what follows the voxels is of no use, however long it is
                pass
        image = type(image).from_bytes(content)
    return image.get_fdata(dtype=np.float32, caching="unchanged"), *place


def encoded(array: np.ndarray, affine: np.ndarray, source: Path | None, mark: str, keep_header: bool) -> bytes:
    """A .nii of (*N) or (*N, C): with the place that the header of `source` has, field by field, or with the affine.

    keep_header: all other fields and extensions of `source`, too. mark: at most 16 characters; the voxels' check sum
    goes along with it.
    """
    own = _as_written(nib.load(source)) if source else None
    image = nib.Nifti1Image(array, None, own if _is_nifti(own) and keep_header else None, dtype=array.dtype)
    if _is_nifti(own):      # after nibabel has corrected what it was given
        for key in PLACE_FIELDS:
            image.header[key] = own[key]
        image.header["pixdim"][:4] = own["pixdim"][:4]
    else:
        image.set_qform(affine, 1)
        image.set_sform(affine, 1)
        image.header.set_xyzt_units("mm")
    image.header["cal_min"] = image.header["cal_max"] = 0   # the scan's display window
    image.header["intent_name"] = mark
    if mark:
        image.header["aux_file"] = voxel_sum(array)
    return image.to_bytes()


def mark_of(path: Path) -> tuple[str, bool]:
    """The mark, and whether the voxels are those that it was written with, as far as a check sum says so."""
    image = nib.load(path)
    mark, said = (image.header[key].item().decode(errors="replace") for key in ("intent_name", "aux_file"))
    return mark, not mark or not said or said == voxel_sum(np.asanyarray(image.dataobj))
