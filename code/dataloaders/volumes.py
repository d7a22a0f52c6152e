"""What LA and BraTS share: 3D volumes, random patches, sliding windows, optionally at half resolution."""
from dataclasses import replace
from functools import cached_property

import numpy as np

from dataloaders import augment, strong
from dataloaders.lists import Split, check_patients, drawn, read_lists
from dataloaders.scans import check_prepared, first_existing, for_networks, read_all, read_scan, read_spacing
from imaging.record import read_preprocessing
from imaging.resample import resample_label
from runtime.errors import InputError, counted


def half(shape):
    """Extents rounded down, to no less than a voxel."""
    return [max(extent // 2, 1) for extent in shape]


def halved(image):
    """Image (in_channels, *S) at half its shape, trilinear."""
    import torch.nn.functional as F  # here: options are read without PyTorch
    shape = half(image.shape[1:])
    return F.interpolate(image[None], shape, mode="trilinear", align_corners=False)[0]


class Volumes:
    """A data set of 3D volumes; the subclass says where files and lists are.

    recipe: a train script's Recipe; labels are read for labelled, validation and test cases alone.
    """

    dataset = ""                # folder name under data/
    lists = {}                  # split -> list file
    depth_axis = 2              # slices are looked at along the last axis
    patient_of = str            # a patient is a case
    volume_of = str             # ... and a volume

    def __init__(self, recipe):
        self.recipe = recipe

    def paths(self, name):
        """Where the case's HDF5 file may be, relative to the data folder, likeliest first."""
        raise NotImplementedError

    def path_of(self, name):
        return first_existing([self.recipe.data_dir / path for path in self.paths(name)])

    def spacing(self, name):
        """mm along the axes of a prepared scan."""
        return read_spacing(self.path_of(name))

    def split(self):
        """The lists, with --holdout-test and --holdout-val cases taken from the end of the train list."""
        recipe = self.recipe
        lists = read_lists(recipe.data_dir, self.dataset, self.lists)
        train, val, test = lists["train"], lists.get("val", []), lists.get("test", [])
        where = dict(self.lists)
        for role in ("test", "val"):
            count = getattr(recipe, f"holdout_{role}")
            if count:
                train, held = train[:-count], train[-count:]
                test, val = (held, val) if role == "test" else (test, held)
                where[role] = f"--holdout-{role} {count}"
        if not 0 < recipe.labeled <= len(train):
            raise InputError(f"--labeled {recipe.labeled}: {self.lists['train']} has {counted(len(train), 'case')}"
                             f"{' after the hold-outs' if recipe.holdout_test or recipe.holdout_val else ''}; choose "
                             "no more than that")
        check_patients({"train": train, "val": val, "test": test}, self.patient_of, where)
        train = drawn(train, recipe.labeled_draw)
        return Split(train[:recipe.labeled], train[recipe.labeled:], val, test)

    @cached_property
    def _record(self):
        return read_preprocessing(self.recipe.data_dir)

    def _read(self, name, path, labelled):
        check_prepared(path, self._record)
        return read_scan(name, path, ndim=3, in_channels=self.recipe.in_channels,
                         num_classes=self.recipe.num_classes, labelled=labelled)

    def train_scans(self, names, labelled):
        """Scans at training resolution and intensities; without `labelled` their labels are not opened."""
        what = "labelled" if labelled else "unlabelled"

        def read(name, path):
            return self._as_trained(self._read(name, path, labelled))
        return read_all(names, self.path_of, read, what)

    def cases(self, names):
        """Validation or test scans with labels, on their own grid."""
        return read_all(names, self.path_of, lambda name, path: self._read(name, path, True), "reference")

    def _as_trained(self, scan):
        """As it is trained on: intensities first, then the resolution."""
        image, label = for_networks(scan.image, self.recipe), scan.label
        if not self.recipe.half_resolution:
            return replace(scan, image=image)
        if label is not None:
            label = label.new_tensor(resample_label(label.numpy(), half(label.shape)))
        return replace(scan, image=halved(image), label=label)

    def sample(self, scan, rng):
        """One augmented patch: image (in_channels, *P), label (*P) or None, as arrays."""
        channels = list(scan.image.numpy())
        label = None if scan.label is None else scan.label.numpy()
        arrays, size = augment.rotate_flip([*channels, label], rng), self.recipe.patch_size
        if self.recipe.augment in strong.GEOMETRY:
            *channels, label = strong.distort(arrays, augment.random_start(arrays, size, rng), size, rng)
        else:
            *channels, label = augment.random_crop(arrays, size, rng)
        return np.stack(channels), label

    def changed(self, patch, rng):
        """A patch (in_channels, *P) of `sample` with other intensities; they are standardised in the prepared scans."""
        return strong.intensities(patch, rng)
