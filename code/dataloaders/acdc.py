"""ACDC: cine MRI of the heart, trained on the 1,312 slices of 70 patients, tested on volumes."""
import itertools

import numpy as np

from dataloaders import augment
from dataloaders.scans import (
    Split,
    check_labelled,
    drawn,
    first_existing,
    read_lists,
    read_scan,
    read_scans,
    read_spacing,
)
from runtime.errors import InputError


def patient_of(name):
    """'patient099_frame01_slice_3' -> 'patient099'."""
    return name.split("_frame")[0]


class ACDC:
    """recipe: train_ACDC's Recipe; `labeled` counts patients; labels of unlabelled slices are never read."""

    dataset = "ACDC"
    lists = {"train": "train_slices.list", "val": "val.list", "test": "test.list"}
    patient_of = staticmethod(patient_of)
    depth_axis = 0              # volumes are stacks of slices (D, H, W)

    def __init__(self, recipe):
        self.recipe = recipe

    def split(self):
        """Slices of the first `labeled` patients of train_slices.list, the other slices, the volume lists."""
        recipe = self.recipe
        lists = read_lists(recipe.data_dir, self.dataset, self.lists)
        slices, val, test = lists["train"], lists["val"], lists["test"]
        patients = list(dict.fromkeys(map(patient_of, slices)))
        if not 0 < recipe.labeled <= len(patients):
            raise InputError(f"--labeled {recipe.labeled}: {self.lists['train']} has {len(patients)} patients; choose "
                             "no more than that")
        chosen = set(drawn(patients, recipe.labeled_draw)[:recipe.labeled])
        of = {role: set(map(patient_of, names)) for role, names in lists.items()}
        for one, other in itertools.combinations(self.lists, 2):
            if shared := of[one] & of[other]:
                raise InputError(f"{self.lists[other]}: {min(shared)} is in {self.lists[one]} too; a patient belongs "
                                 "to one list: remove it from the other")
        return Split([name for name in slices if patient_of(name) in chosen],
                     [name for name in slices if patient_of(name) not in chosen], val, test)

    def path_of(self, name):
        data = self.recipe.data_dir / "data"
        folders = [data / "slices", data] if "_slice_" in name else [data]
        return first_existing([folder / f"{name}.h5" for folder in folders])

    def spacing(self, name):
        """mm along the axes of a prepared volume."""
        return read_spacing(self.path_of(name))

    def _read(self, names, ndim, labelled, what):
        def read(name, path):
            return read_scan(name, path, ndim=ndim, in_channels=self.recipe.in_channels,
                             num_classes=self.recipe.num_classes, labelled=labelled)
        return read_scans(names, self.path_of, read, what)

    def train_scans(self, names, labelled):
        """Slices; without `labelled` their labels are not opened."""
        return self._read(names, 2, labelled, "labelled" if labelled else "unlabelled")

    def check_test(self, names):
        """InputError for a test case that is here and has no label."""
        check_labelled(names, self.path_of)

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
        *channels, label = [None if a is None else augment.resize_nearest(a, self.recipe.patch_size) for a in arrays]
        return np.stack(channels), label
