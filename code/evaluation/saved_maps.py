"""Label maps and overlays that a test keeps in its run's folder, each with a mark of what made it."""
import zlib

import numpy as np

from dataloaders.scans import read_geometry
from evaluation.windows import windows_of
from imaging.grids import voxel_sum
from imaging.record import PUBLISHED, read_preprocessing
from imaging.scan_files import mark_of
from runtime.errors import InputError
from runtime.files import inside, write_aside

PREDICTIONS = "predictions"     # folder in the run's


def prediction_marks(trained, names, options):
    """{case: mark of its predictions}, by weights, scan and windows; InputError where other ones are there already.

    A map that somebody corrected, or that other weights made, is replaced with --force alone.
    """
    weights = zlib.crc32((trained.run / f"{options.checkpoint}.pt").read_bytes(),
                         zlib.crc32(repr(windows_of(trained.recipe, options.stride, options.weights)).encode()))
    marks = {name: f"{weights:08x}{zlib.crc32(repr(scan.content[:2]).encode()):08x}"
             for name in names for scan in trained.data.cases([name])}
    for path in () if options.force else sorted((options.run / PREDICTIONS).glob("*.nii")):
        if owners := [name for name in marks if path.name.startswith(f"{name}_")]:
            if mark_of(path) != marks[max(owners, key=len)]:
                raise InputError(f"{path}: was made with other weights or windows, from another scan or by something "
                                 "else; --force replaces it, or move the folder away")
    return marks


def save_prediction(folder, name, scan, maps, data, mark):
    """NIfTI label maps of every view, on the prepared scan's grid, and an overlay in Figure 4's layout.

    A viewer shows the maps on the scan's own file; for published files its place is not known. Maps that are there with
    this mark stay as they are.
    """
    import nibabel

    from evaluation import plots
    geometry = read_geometry(data.path_of(name))
    affine = np.eye(4) if geometry is None else geometry.prepared_affine
    for view, labels in maps.items():
        path = inside(folder.parent, folder / f"{name}_{view}.nii")
        if not path.exists() or mark_of(path) != mark:
            nifti = nibabel.Nifti1Image(labels, affine)
            nifti.header.set_xyzt_units("unknown" if geometry is None else "mm")
            nifti.header["intent_name"], nifti.header["aux_file"] = mark, voxel_sum(labels)
            write_aside(path, lambda file, nifti=nifti: file.write(nifti.to_bytes()))
    plots.overlay(folder / f"{name}.png", scan.image[0].numpy(), scan.label.numpy(), maps, data.depth_axis,
                  prepared_axes(data), names=data.recipe.classes)


def prepared_axes(data):
    """Where the axes of prepared scans point, "LPS" say, or None where nothing says so."""
    record = read_preprocessing(data.recipe.data_dir) or PUBLISHED.get(data.dataset)
    return record.orientation if record and record.orientation != "slices" else None
