"""One scan to its files: segmented by one run or several, put back on its own grid, written in the forms asked for."""
import zlib
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from nibabel.orientations import aff2axcodes, apply_orientation

from dataloaders.scans import Scan
from evaluation import components, trust
from evaluation.windows import DISAGREEMENT, Member
from imaging import dicom_contours, dicom_segmentations
from imaging.preparation import SMALLER
from imaging.preprocess import apply, restore, restore_labels
from imaging.record import Preprocessing
from imaging.scan_files import SUFFIXES, WRITERS, checksum, format_of, mark_of, parts, read_scans, save_on_grid
from runtime.errors import InputError
from runtime.files import check_readable
from runtime.memory import check_fits

OBJECTS = {"dicom-seg": dicom_segmentations, "rtstruct": dicom_contours}     # --format -> module that writes it


class Job(NamedTuple):
    """What all cases of a call share."""

    method: Any
    recipe: Any
    preprocessing: Preprocessing
    options: Any            # of predict.py
    windows: dict           # of `segment`
    keep_largest: Any       # as components.keep_largest takes it
    views: tuple            # that are wanted beside the first one
    values: np.ndarray      # of each class, in the files that are written
    weights: int            # check sum of what a result depends on besides the scan
    training: Any           # trust.TrainingCases, or None
    predictions: Any        # the folder's Predictions
    codes: Any = ()         # of each class but the background, in DICOM
    others: tuple = ()      # windows.Member of further runs, whose probabilities are averaged with the first one's
    finders: tuple = ()     # of each run that knows what it was trained on: Content.finder's function

    @property
    def members(self):
        """All runs, as windows.Member."""
        return Member(self.method, self.recipe, self.windows), *self.others


def outputs(name, scan, options):
    """{what: file} that a case gets, the label map first: nothing that fails later costs it."""
    end = WRITERS[options.format if options.format in WRITERS else format_of(scan).out][0]
    kinds = {"probabilities": f"_probabilities{end}", "disagreement": f"_disagreement{end}", "overlay": ".png"}
    files = {kind: options.output / f"{name}{end}" for kind, end in kinds.items() if getattr(options, kind)}
    end = OBJECTS[options.format].SUFFIX if options.format in OBJECTS else end
    return {"labels": options.output / f"{name}{end}"} | files


def is_there(files, mark):
    """Whether all outputs of a case were made with this mark; InputError where one was made with another."""
    there = [path for path in reversed(files.values()) if path.exists()]
    for path in there:
        check_readable(path)
        if mark not in path.read_bytes().decode("latin-1") if path.suffix == ".png" else mark_of(path) != mark:
            raise InputError(f"{path}: was made by another run, with other options, from another scan or by something "
                             "else; --force overwrites it, another --output keeps it")
    return len(there) == len(files)


def segment_case(job, paths):
    """Files of one case -> the first scan, its Geometry, {view: probabilities (C, *S)} on the prepared grid, what they
    say of themselves (trust.Evidence), and what training had the scan as, see `role_in_training`.
    """
    import torch  # here: options are read without PyTorch

    from evaluation.evidence import examined, examined_together
    scans = read_scans(paths, job.preprocessing.geometry, len(job.preprocessing.modalities))
    image, _, geometry = apply(scans, job.preprocessing)
    image = image[None] if image.ndim == 3 else image
    check_fits(f"{paths[0]}: its {scans[0].array.size} voxels need, segmented,", memory(job, image, scans[0]), SMALLER)
    image = torch.from_numpy(image)
    if job.others:
        views, evidence = examined_together(job.members, image, job.options.disagreement)
    else:
        views, evidence = examined(job.method, image, job.recipe, views=job.views, **job.windows)
    if not all(share.isfinite().all() for probs in views.values() for share in probs):
        raise InputError(f"{paths[0]}: the network's probabilities are not numbers: its weights or this scan's values "
                         "are far from any in training; look at log.csv of the run, and at the scan")
    return scans[0], geometry, views, evidence, role_in_training(job, image)


def role_in_training(job, image):
    """'labelled' or 'unlabelled' where a run was trained on a prepared image (in_channels, *S), by voxels, else ''."""
    scan = Scan("", image, None, (tuple(image.shape), zlib.crc32(image.numpy()), None))
    return min(filter(None, (role_of(scan) for role_of in job.finders)), default="")


def memory(job, image, scan):
    """Bytes that a scan takes at most: image, probabilities of the views, and two of their classes when they decide."""
    voxels, own, classes = image[0].size, scan.array.size, job.recipe.num_classes
    views, decided = 1 + len(job.views), 0
    if job.others:          # one run's, their sum and that of their squares; what each decided
        pairs = [len(member.method.pair or ()) for member in job.members]
        views, decided = 2 + max(pairs) + job.options.disagreement, sum(max(pair, 1) for pair in pairs)
    kept = voxels * (4 * (classes * views + 2 * len(image)) + decided) + own * (4 * len(image) + 20)
    return kept + own * classes * 12 * job.options.probabilities


def label_map(job, probabilities, geometry):
    """Probabilities (C, *S) -> label map on the scan's own grid, post-processed; what that took of each class."""
    taken = []

    def finish(labels):
        kept = components.keep_largest(labels, job.keep_largest)
        taken.extend(trust.taken_away(labels, kept, job.recipe.num_classes))
        return kept
    return restore_labels((share.float().cpu().numpy() for share in probabilities), geometry, finish), taken


def write_case(job, files, mark, scan, geometry, views):
    """The label map of the first view, then what else was asked for -> `label_map`, errors of what else failed."""
    from evaluation import plots
    (labels, taken), failed = label_map(job, next(iter(views.values())), geometry), []
    for what, path in files.items():
        if not job.options.force:
            is_there(files, mark)       # another program may have written since
        try:
            if what == "overlay":
                others = {view: label_map(job, views[view], geometry)[0] for view in job.views}
                maps = {next(iter(views)): labels} | others
                plots.overlay(path, scan.array, None, maps, depth_axis(scan), body_axes(scan), mark,
                              job.recipe.classes)
                continue
            if what == "labels" and job.options.format in OBJECTS:
                OBJECTS[job.options.format].save(path, labels, scan.path, job.recipe.classes, job.values[1:].tolist(),
                                                 job.codes, f"CML {job.recipe.method}", mark)
                continue
            if what == "labels":
                array = job.values[labels]
            elif what == "probabilities":
                array = np.moveaxis(restore(next(iter(views.values())).float().cpu().numpy(), geometry), 0, -1)
            elif job.others:
                array = restore(views[DISAGREEMENT].numpy(), geometry)
            else:
                array = disagreement(*(views[view] for view in job.method.pair), geometry)
            save_on_grid(path, array, scan, mark, job.options.keep_header)
        except Exception as error:
            if what == "labels":
                raise
            failed.append(error)
    return (labels, taken), failed


def disagreement(first, second, geometry):
    """Half the sum over the classes of the difference of two views' probabilities (C, *S) -> (*N), 0 to 1."""
    apart = sum(np.abs(np.subtract(*(restore(share.float().cpu().numpy(), geometry) for share in pair)))
                for pair in zip(first, second, strict=True)) / 2
    return np.minimum(apart, 1)     # whose rounding errors add up


def depth_axis(scan):
    """The axis that slices of a picture are cut along: the coarsest, or of equal ones the body's own."""
    coarsest, axes = int(np.argmax(scan.spacing)), body_axes(scan)
    upright = next((axis for axis, side in enumerate(axes or "") if side in "IS"), coarsest)
    return coarsest if scan.spacing[coarsest] > 1.01 * scan.spacing[upright] else upright


def body_axes(scan):
    """Where the axes of a scan's array point, "RAS" say; None where its header gives no orientation."""
    return None if "orientation" in scan.notes else "".join(aff2axcodes(scan.affine))


def predict_case(job, name, paths):
    """Notes on the scan's header (path, {kind: sentence}); None where all that is asked for is there."""
    for path in paths:
        if not parts(path):
            raise InputError(f"{path}: is no regular file; expected a scan ({', '.join(SUFFIXES)})")
    mark = f"{job.weights:08x}{reduce(lambda total, path: checksum(path, total), paths, 0):08x}"
    files = outputs(name, paths[0], job.options)
    if not job.options.force and is_there(files, mark) and job.predictions.has(name, mark, len(job.recipe.classes)):
        return None
    scan, geometry, views, evidence, role = segment_case(job, paths)
    (labels, taken), failed = write_case(job, files, mark, scan, geometry, views)
    rows = trust.case_rows(name, job.recipe.classes, trust.measured(labels, job.recipe.num_classes), evidence,
                           job.training, float(np.prod(scan.spacing)) / 1000, geometry.voxel_size,
                           trust.middles(apply_orientation(labels, np.asarray(geometry.turn)), job.recipe.num_classes),
                           taken)
    values = range(len(job.values)) if job.options.format in OBJECTS else job.values.tolist()
    rows = [{"case": name, "class": row["class"], "value": values[row["class"]], "training": role} | row
            for row in rows]
    job.predictions.note(rows, files["labels"].name, mark)
    if failed:
        raise failed[0]
    return scan.path, scan.notes
