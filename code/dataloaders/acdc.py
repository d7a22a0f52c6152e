"""ACDC: cine MRI of the heart, trained on the 1,312 slices of 70 patients, tested on volumes."""
import re
from dataclasses import replace

import numpy as np

from dataloaders import augment, strong
from dataloaders.lists import Split, check_patients, drawn, read_lists
from dataloaders.scans import first_existing, for_networks, read_all, read_scan, read_spacing
from runtime.errors import InputError, counted

SLICE = re.compile(r"[_-]slice[_-]?\d+$", re.IGNORECASE)
FRAME = re.compile(r"[_.-]?frame[_-]?\d.*$", re.IGNORECASE)
PHASE = re.compile(r"[_-](ed|es|(phase|time|t)[_-]?\d+)$", re.IGNORECASE)
UNCLEAR = re.compile(r"\d[^_-]*[_-](\d+|[a-z]+)$", re.IGNORECASE)     # p1_02, p1_diastole: a patient, or one's phase?


def patient_of(name):
    """'patient099_frame01_slice_3' -> 'patient099', and so 'patient099-Frame01', 'patient099_ED_slice_3' and
    'patient099_slice_3'.
    """
    return PHASE.sub("", FRAME.sub("", SLICE.sub("", name)))


def volume_of(name):
    """'patient099_frame01_slice_3' -> 'patient099_frame01'."""
    return SLICE.sub("", name)


def check_names(names, file, slices):
    """InputError for a listed name without a frame that does not say its patient or, in a list of slices, its slice."""
    for name in [name for name in names if not FRAME.search(name)]:
        if slices and not SLICE.search(name):
            raise InputError(f"{file}: {name} does not end in its slice, expected <patient>_frame01_slice_3: slices of "
                             "one patient would be taken for several; rename the files and the lines")
        if UNCLEAR.search(patient_of(name)):
            raise InputError(f"{file}: {name} does not say which patient it is of, expected "
                             f"<patient>_frame01{'_slice_3' if slices else ''}: a patient in two lists would not be "
                             "noticed; rename the files and the lines")


class ACDC:
    """recipe: train_ACDC's Recipe; `labeled` counts patients; labels of unlabelled slices are never read."""

    dataset = "ACDC"
    lists = {"train": "train_slices.list", "val": "val.list", "test": "test.list"}
    patient_of = staticmethod(patient_of)
    volume_of = staticmethod(volume_of)
    depth_axis = 0              # volumes are stacks of slices (D, H, W)

    def __init__(self, recipe):
        self.recipe = recipe

    def split(self):
        """Slices of the first `labeled` patients of train_slices.list, the other slices, the volume lists."""
        recipe = self.recipe
        lists = read_lists(recipe.data_dir, self.dataset, self.lists)
        slices, val, test = lists["train"], lists["val"], lists["test"]
        for role, names in lists.items():
            check_names(names, self.lists[role], slices=role == "train")
        patients = list(dict.fromkeys(map(patient_of, slices)))
        if not 0 < recipe.labeled <= len(patients):
            raise InputError(f"--labeled {recipe.labeled}: {self.lists['train']} has "
                             f"{counted(len(patients), 'patient')}; choose no more than that")
        chosen = set(drawn(patients, recipe.labeled_draw)[:recipe.labeled])
        check_patients({role: lists[role] for role in self.lists}, patient_of, self.lists)
        return Split([name for name in slices if patient_of(name) in chosen],
                     [name for name in slices if patient_of(name) not in chosen], val, test)

    def path_of(self, name):
        folders = ["data/slices", "data", "ACDC_training_slices"] if SLICE.search(name) else [
            "data", "ACDC_training_volumes", "ACDC_testing_volumes"]
        return first_existing([self.recipe.data_dir / folder / f"{name}.h5" for folder in folders])

    def spacing(self, name):
        """mm along the axes of a prepared volume."""
        return read_spacing(self.path_of(name))

    def _read(self, names, ndim, labelled, what):
        def read(name, path):
            return read_scan(name, path, ndim=ndim, in_channels=self.recipe.in_channels,
                             num_classes=self.recipe.num_classes, labelled=labelled)
        return read_all(names, self.path_of, read, what)

    def train_scans(self, names, labelled):
        """Slices as they are trained on; without `labelled` their labels are not opened."""
        slices = self._read(names, 2, labelled, "labelled" if labelled else "unlabelled")
        return [replace(scan, image=for_networks(scan.image, self.recipe)) for scan in slices]

    def cases(self, names):
        """Validation or test volumes (D, H, W) with labels, on their own grid."""
        return self._read(names, 3, True, "reference")

    def sample(self, scan, rng):
        """One augmented slice at the patch size: image (in_channels, H, W), label (H, W) or None, as arrays.

        Half of the draws turn and flip, a quarter rotates by a small angle, a quarter leaves the slice as it is.
        """
        arrays = [*scan.image.numpy(), None if scan.label is None else scan.label.numpy()]
        draw = rng.random()
        if draw < 0.5:
            arrays = augment.rotate_flip(arrays, rng)
        elif draw < 0.75:
            arrays = augment.rotate_small(arrays, rng)
        size = self.recipe.patch_size
        arrays = augment.each(arrays, lambda a: augment.resize_nearest(a, size))
        if self.recipe.augment in strong.GEOMETRY:
            arrays = strong.distort(arrays, (0, 0), size, rng)
        *channels, label = arrays
        return np.stack(channels), label

    def changed(self, patch, rng):
        """A patch (in_channels, H, W) of `sample` with other intensities, standardised meanwhile: stored are 0 to 1."""
        patch, mean, deviation = augment.standardised(patch, 2)
        return strong.intensities(patch, rng) * deviation + mean
