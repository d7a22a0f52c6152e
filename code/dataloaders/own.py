"""Own data, as prepare_folder.py writes them: volumes, or the slices of volumes, at their full resolution."""
import numpy as np

from dataloaders import strong
from dataloaders.augment import each, window_at
from dataloaders.folds import divided, fold_number
from dataloaders.lists import Split, check_patients, drawn, read_list
from dataloaders.scans import has_label
from dataloaders.volumes import Volumes
from imaging.cases import IGNORED, LAYOUT
from imaging.patients import PATIENTS, read_patients
from runtime.errors import InputError

REMEMBERED = 10_000     # voxels of each class and scan, for patches that hold one


class Own(Volumes):
    """recipe: train_own's. A patch of two axes is cut from a slice along the volumes' first axis."""

    dataset = "own"
    lists = {"train": "train.list", "val": "val.list", "test": "test.list"}

    def __init__(self, recipe):
        super().__init__(recipe)
        self.depth_axis = 0 if len(recipe.patch_size) == 2 else 2
        self.patients = read_patients(recipe.data_dir)
        self.patient_of = self.patients.of
        self.places = {}        # name of a labelled scan -> voxels (n, 3) of each of its foreground classes
        self.learnt = {}        # ... of which voxels are ignored -> some (n, 3) of the others

    def paths(self, name):
        return [LAYOUT.format(case=name)]

    def split(self):
        """Training cases with labels, of which --labeled many are used, all other training cases, and the lists.

        The labelled cases of a --fold are its test cases; no case of their patients is trained on, not even without
        its label.
        """
        recipe = self.recipe
        lists = {role: self.listed(role) for role in self.lists}
        files = {role: recipe.data_dir / file for role, file in self.lists.items()}
        check_patients(lists, self.patient_of, files, f" by {PATIENTS}")
        labelled, held = self.labelled(lists["train"]), []
        where = recipe.data_dir / self.lists["train"]
        if recipe.fold:
            number, count = fold_number(recipe.fold)
            fold_of = divided(recipe.data_dir, labelled, count)
            held = lists["test"] = [name for name in labelled if fold_of[name] == number]
            labelled = [name for name in labelled if fold_of[name] != number]
            where = f"{where}, without fold {recipe.fold},"
        if not 0 < recipe.labeled <= len(labelled):
            raise InputError(f"--labeled {recipe.labeled}: {len(labelled)} cases of {where} have a label; choose no "
                             "more than that")
        chosen = drawn(labelled, recipe.labeled_draw)[:recipe.labeled]
        away = set(map(self.patient_of, held))
        others = [name for name in lists["train"] if name not in chosen and self.patient_of(name) not in away]
        return Split(chosen, others, lists["val"], lists["test"])

    def listed(self, role):
        """Names of a list; InputError if it is the train list, and names nobody."""
        path = self.recipe.data_dir / self.lists[role]
        names = read_list(path) if path.exists() else []
        if role == "train" and not names:
            raise InputError(f"{path}: {'is empty' if path.exists() else 'does not exist'}; prepare_folder.py writes "
                             "it, one case per line")
        return names

    def labelled(self, names):
        """Those of the names whose files hold a label; no label is opened."""
        return [name for name in names if has_label(self.path_of(name))]

    def train_scans(self, names, labelled):
        """Scans; without `labelled` their labels are not opened."""
        scans = super().train_scans(names, labelled)
        for scan in scans if labelled else ():
            label = scan.label.numpy()
            self.places[scan.name] = [_some(label == value) for value in np.unique(label[label % IGNORED > 0])]
            if (label == IGNORED).any():
                self.learnt[scan.name] = _some(label != IGNORED)
        return scans

    def sample(self, scan, rng):
        """One augmented patch: image (in_channels, *P), label (*P) or None, as arrays.

        Of labelled scans, the share `foreground` of patches holds a random voxel of a random class, and where voxels
        are ignored, each other one a random voxel that is not. Turns in the plane and flips as the recipe allows.
        """
        recipe, size = self.recipe, self.recipe.patch_size
        label, place = None if scan.label is None else scan.label.numpy(), None
        arrays = [*scan.image.numpy(), label]
        if label is not None and (places := self.places.get(scan.name)) and rng.random() < recipe.foreground:
            voxels = places[rng.integers(len(places))]
            place = voxels[rng.integers(len(voxels))]
        elif label is not None and (voxels := self.learnt.get(scan.name)) is not None:
            place = voxels[rng.integers(len(voxels))]
        if len(size) == 2:
            index = rng.integers(len(arrays[0])) if place is None else place[0]
            arrays, place = each(arrays, lambda a: a[index]), place if place is None else place[1:]
        distorted = recipe.augment in strong.GEOMETRY
        quarters = rng.integers(4) if recipe.quarter_turns and not distorted else 0
        if quarters % 2:
            size = (size[1], size[0], *size[2:])
        starts = window_start(arrays[0].shape, size, place, rng)
        if distorted:
            arrays = strong.distort(arrays, starts, size, rng, recipe.flips, recipe.quarter_turns)
        else:
            flipped = [axis for axis in recipe.flips if rng.random() < 0.5]
            arrays = each(arrays, lambda a: np.flip(np.rot90(window_at(a, starts, size), quarters), flipped))
        *channels, label = arrays
        return np.stack(channels), label


def window_start(shape, size, place, rng):
    """Where a window of `size` voxels starts in an array of `shape`: at random inside, below 0 along axes that are
    shorter than the window, which are padded on both sides, as at test.

    place: a voxel that the window holds, or None.
    """
    starts = []
    for axis, (extent, length) in enumerate(zip(shape, size, strict=True)):
        low, high = 0, extent - length
        if high <= 0:
            starts.append(-(-high // 2))
            continue
        if place is not None:
            low, high = max(low, place[axis] - length + 1), min(high, place[axis])
        starts.append(int(rng.integers(low, high + 1)))
    return starts


def _some(mask):
    """Up to REMEMBERED voxels (n, 3) of a mask, evenly over it."""
    voxels = np.flatnonzero(mask)
    voxels = voxels[np.linspace(0, len(voxels) - 1, min(len(voxels), REMEMBERED)).astype(int)]
    return np.stack(np.unravel_index(voxels, mask.shape), 1)
