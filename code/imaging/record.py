"""What was done to a dataset's scans: the record of its preprocessing, preprocessing.json beside the data."""
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from imaging.cases import IGNORED, SEED
from runtime.errors import InputError
from runtime.files import is_case_name
from runtime.records import from_record, read_json, write_record

RECORD = "preprocessing.json"

FINEST, COARSEST = 0.001, 100   # mm: sides of a voxel that can be asked for                   [O]
PLAIN = ("image",)          # modalities of a training set whose files have plain names and one channel


@dataclass(frozen=True)
class Preprocessing:
    """What turns a scan of this dataset into network input, in the order of `apply`."""

    dataset: str
    orientation: str            # of the array's axes, such as "LPS"; "slices": as stored, coarsest axis first
    normalise: Literal["zscore", "zscore_brain", "minmax", "ct"]
    crop: Literal["none", "label", "foreground", "brain"] = "none"
    clip: float | None = None   # percentile of the crop above which intensities are cut (zscore_brain only)
    spacing: tuple[float, ...] | None = None    # mm along the oriented axes; None keeps the scan's own
    modalities: tuple[str, ...] = PLAIN
    labels: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 1})    # value in the label file -> class
    seed: int = SEED            # of the label crop's margins
    geometry: Literal["itk", "sform"] = "itk"   # which fields of a NIfTI header count where they disagree
    # around the brain (zscore_brain): 0, which is the brain's mean, or what its own value becomes
    background: Literal["mean", "own"] = "mean"
    class_names: tuple[str, ...] = field(default=(), compare=False)     # of the foreground, where they have names
    windows: tuple[tuple[float, ...], ...] = ()     # of a modality (ct): lowest, highest, mean, deviation
    ignore: int | None = None   # value in the label file that becomes IGNORED

    def __post_init__(self):
        """InputError for values that no scan could be prepared with."""
        wrong = {
            "orientation": self.orientation != "slices" and sorted(
                next((axis for axis in ("LR", "PA", "IS") if side in axis), side)
                for side in self.orientation) != ["IS", "LR", "PA"],
            "clip": self.clip is not None and not 0 < self.clip <= 100,
            "spacing": self.spacing is not None and (
                len(self.spacing) != 3 or not all(FINEST <= side <= COARSEST for side in self.spacing)),
            "modalities": not self.modalities or len(set(self.modalities)) < len(self.modalities)
            or not all(map(is_case_name, self.modalities)),
            "windows": len(self.windows) != (len(self.modalities) if self.normalise == "ct" else 0)
            or not all(len(window) == 4 and window[0] < window[1] and window[3] > 0 for window in self.windows),
            "ignore": self.ignore in self.labels,
            "labels": not self.labels or not all(0 <= label < IGNORED for label in self.labels.values())}
        for name, is_wrong in wrong.items():
            if is_wrong:
                raise InputError(f"{name} {getattr(self, name)}: expected {EXPECTED[name]}; correct it")

    @property
    def num_classes(self) -> int:
        return max(self.labels.values()) + 1

    @property
    def made(self) -> tuple:
        """How scans were prepared, as far as a plan says it."""
        return self.orientation, self.spacing, self.normalise, self.windows

    @property
    def values(self) -> np.ndarray:
        """Of each class, the smallest value in label files that is read as it; of the background 0, where it can be.

        A class that the files have no value for has one that is none of theirs.
        """
        free = max(*self.labels, self.ignore or 0) + 1
        files = {label: free + label for label in range(self.num_classes)}
        files |= {label: value for value, label in sorted(self.labels.items(), reverse=True)}
        if self.labels.get(0) == 0:
            files[0] = 0
        values = [files[label] for label in range(self.num_classes)]
        return np.array(values, np.promote_types(np.min_scalar_type(min(values)), np.min_scalar_type(max(values))))

    def to_dict(self) -> dict:
        """What was done, JSON-ready, to compare; `from_dict` is its inverse but for the names of the classes.

        Fields in LATER are left out at their defaults.
        """
        values = json.loads(json.dumps(asdict(self)))
        return {name: value for name, value in values.items() if name != "class_names"
                and (name not in LATER or getattr(self, name) != getattr(type(self), name))}

    @classmethod
    def from_dict(cls, values: dict, where: Path | str = RECORD) -> "Preprocessing":
        """InputError names `where` and what is wrong with the values."""
        return from_record(cls, values, where, "prepare the data again")


def read_as(labels: dict[int, int], ignore: int | None) -> dict[int, int]:
    """What becomes of each value in the label files: its class, or IGNORED."""
    return labels if ignore is None else labels | {ignore: IGNORED}


def moved_name(names: Sequence[str], now: Sequence[str]) -> str | None:
    """The first of the foreground classes' names that was another class's among `names`; None where none was."""
    places = dict(zip(names, range(len(names)), strict=True))
    return next((name for place, name in enumerate(now) if places.get(name, place) != place), None)


LATER = "geometry", "background", "windows", "ignore"   # fields that records of earlier versions do not have
EXPECTED = {"orientation": "'slices' or three letters such as RAS", "clip": "a percentile, above 0 to 100",
            "spacing": f"three sides in mm, above 0 ({FINEST:g} to {COARSEST:g})",
            "modalities": "different endings of file names", "labels": "classes from 0 to 254",
            "windows": "of ct, for each channel: lowest, highest, mean, deviation",
            "ignore": "a value that is no class"}

# How the published HDF5 files were made: what predict.py assumes for training data without a record.
PUBLISHED = {
    # UA-MT's la_heart_processing.py, axes as the challenge stores them: to the left, the back, the head   [C]
    "LA": Preprocessing("LA", "LPS", "zscore", crop="label", modalities=("lgemri",), labels={0: 0, 255: 1}),
    # SSL4MIS' acdc_data_processing.py: (slices, H, W); ACDC's headers say nothing of the body's axes      [C]
    "ACDC": Preprocessing("ACDC", "slices", "minmax", modalities=("cine",), labels={0: 0, 1: 1, 2: 2, 3: 3}),
    # SSL4MIS' brats_proprecessing.py, but (x, y, z); labels 0, 1, 2, 4 in 2019, 3 too in other years      [C]
    "BraTS2019": Preprocessing("BraTS2019", "LPS", "zscore_brain", crop="brain", clip=99.9, background="own",
                               modalities=("flair",), labels={0: 0, 1: 1, 2: 1, 3: 1, 4: 1}),
}


def read_preprocessing(folder: Path) -> Preprocessing | None:
    """The record beside prepared data or in a run folder; None where there is none (published HDF5 files)."""
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        return Preprocessing.from_dict(read_json(path, "prepare the data again"), path)
    except InputError as error:
        raise InputError(f"{path}: is no preprocessing record ({error})") from error


def written_values(record: Preprocessing | None, num_classes: int) -> np.ndarray:
    """Each class's value in the label maps that are written: that of the label files, where the record knows it."""
    if record is not None and record.num_classes == num_classes:
        return record.values
    return np.arange(num_classes, dtype=np.uint8)


def write_preprocessing(folder: Path, preprocessing: Preprocessing) -> None:
    write_record(folder / RECORD, preprocessing, indent=2)
