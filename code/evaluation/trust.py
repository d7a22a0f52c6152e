"""Which result to look at first: each segmented case beside the labelled cases of training.

There is a row per case and class. Its flags, in words: a volume below half the smallest or above twice the largest
labelled one; more components than any labelled case, or large ones that post-processing took away; touching the scan's
border where no labelled case does; of the whole scan, two classes alike in shape that lie the other way round than in
all labelled cases, intensities further from training than its scans are from each other, and voxels of another size;
views that agree little; high entropy. A case's *score* is the number of its flags, a volume's counted twice and that of
its components not at all, plus its uncertainty, which is below 1: the mean of 1 - agreement and of entropy, over the
classes. The case with the highest score is the one to look at first. Agreement alone would not do: two views whose maps
are empty agree. Components are said and do not count, since with few labelled cases good maps have more of them, too
(chosen on ACDC's validation patients) [O].

Shapes: C classes, *S spatial. Volumes are in ml where voxel sizes are known, else in voxels.
"""
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

from dataloaders.scans import read_geometry
from imaging.cases import IGNORED
from imaging.plan import MIXED, fixed_orders
from imaging.survey import alike_pairs, component_sizes
from runtime.errors import InputError, counted
from runtime.files import RESTORE
from runtime.records import read_record

TRAINING = "training_cases.json"
LEVELS = 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99     # quantiles of a scan's intensities
SAMPLES = 100_000       # voxels of a scan whose intensities count
SMALLEST, LARGEST = 1 / 2, 2        # of the labelled volumes, from which a volume is flagged
SPECK = 0.01            # share of a class below which a component does not count
FAR = 2               # distances between training scans, from which intensities are flagged
DISAGREEING = 0.7       # agreement below which views are flagged
ORDERED = 3             # labelled cases at least, whose classes lie in one order, from which another one is flagged
REMOVED = 0.25          # of what is left of a class, from which what post-processing took away is flagged
UNCERTAIN = 0.5         # entropy above which a class is flagged


# ---- what is measured of a result ------------------------------------------------------------------------------


class Evidence(NamedTuple):
    """What a segmentation says of itself, see evidence.py."""

    entropy: list           # of each foreground class, mean over the voxels where it is the likeliest; NaN of none
    whole: float            # ... over the voxels of all foreground classes
    agreement: list | None  # of each foreground class; None of a method without two views
    quantiles: list         # of each channel's intensities


def quantiles(image):
    """LEVELS of each channel of an image (in_channels, *S) -> (in_channels, levels) as lists."""
    flat = image.reshape(len(image), -1)
    places = np.linspace(0, flat.shape[1] - 1, min(flat.shape[1], SAMPLES)).astype(int)
    return np.quantile(flat[:, places], LEVELS, axis=1).T.tolist()


def measured(labels, num_classes):
    """Label map (*S) -> of each foreground class its voxels, its components without specks, and whether it touches
    the border along an axis that has more than one voxel.
    """
    found = []
    for label, box in enumerate(ndimage.find_objects(labels, num_classes - 1), 1):
        if box is None:
            found.append((0, 0, False))
            continue
        sizes = component_sizes(labels[box] == label)
        border = any(extent > 1 and (span.start == 0 or span.stop == extent)
                     for span, extent in zip(box, labels.shape, strict=True))
        found.append((int(sizes.sum()), int((sizes >= SPECK * sizes.sum()).sum()), border))
    return found


def taken_away(before, after, num_classes):
    """Label map (*S) before and after its post-processing -> voxels that each foreground class lost."""
    removed = np.bincount(before[before != after], minlength=num_classes)
    return removed[1:].tolist()


def middles(labels, num_classes):
    """Label map (*S) along the prepared axes -> the middle of each foreground class in voxels, or None."""
    boxes = ndimage.find_objects(labels, num_classes - 1)
    return [box and ndimage.center_of_mass(labels[box] == label) + np.array([span.start for span in box])
            for label, box in enumerate(boxes, 1)]


# ---- the record of training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingCases:
    """RUN/training_cases.json: what results are compared with; all by the name of the volume."""

    unit: Literal["ml", "voxels"] = "voxels"        # of volumes
    volumes: dict[str, tuple[float, ...]] = field(default_factory=dict)         # of each class, labelled cases
    components: dict[str, tuple[int, ...]] = field(default_factory=dict)        # of each class, labelled cases
    border: dict[str, tuple[bool, ...]] = field(default_factory=dict)           # ... whether it touches the border
    quantiles: dict[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)   # of each channel, all cases
    voxel_sizes: dict[str, tuple[float, ...]] = field(default_factory=dict)     # mm along the prepared axes, all cases
    pairs: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)     # survey.alike_pairs, labelled cases
    patients: dict[str, str] = field(default_factory=dict)      # of volumes; without one: its patient's only one

    def distance(self, own):
        """Of a scan's quantiles from the nearest training scan, in the largest such distance of a training scan from
        those of other patients.

        A distance is the mean over LEVELS of the difference, of several channels the largest one's. NaN with less than
        two patients, or where their scans are alike.
        """
        known = np.array(list(self.quantiles.values()))
        own = np.array(own)
        if not len(known) or known.shape[1:] != own.shape:
            return math.nan
        patients = np.array([self.patients.get(name, name) for name in self.quantiles])
        between = np.abs(known[:, None] - known[None]).mean(-1).max(-1)
        between[patients[:, None] == patients] = np.inf         # scans of one patient are nearer
        usual = between.min(1).max()
        return float(np.abs(known - own).mean(-1).max(-1).min() / usual) if 0 < usual < np.inf else math.nan

    def turned_round(self, middles):
        """Pairs of classes, from 1, that lie the other way round than in all labelled cases; middles: see `middles`."""
        seen = {name: {"pairs": pairs, "classes": np.flatnonzero(self.volumes[name]) + 1}
                for name, pairs in self.pairs.items()}
        return list(dict.fromkeys(
            (one, other) for one, other, axis, order in fixed_orders(seen, ORDERED)
            if middles[one - 1] is not None and middles[other - 1] is not None
            and order * (middles[other - 1][axis] - middles[one - 1][axis]) < 0))

    def size_factor(self, voxel_size):
        """How many times larger or smaller than in training a voxel's sides are, at most; 1 inside their range."""
        if not self.voxel_sizes:
            return math.nan
        known, own = np.array(list(self.voxel_sizes.values())), np.array(voxel_size)
        return float(np.max([known.min(0) / own, own / known.max(0), np.ones(len(own))]))


def training_cases(data, recipe, labelled, unlabelled):
    """TrainingCases of the scans that a run is trained on; data: its data set of dataloaders/."""
    volumes = {}
    for scan in [*labelled, *unlabelled]:
        volumes.setdefault(data.volume_of(scan.name), []).append(scan)
    record, spacings = TrainingCases("ml"), {}
    for name, scans in volumes.items():
        scans.sort(key=lambda scan: (len(scan.name), scan.name))        # slices in their order
        flat = len(scans[0].image.shape) == 3
        image = np.concatenate([scan.image.numpy().reshape(len(scan.image), -1) for scan in scans], 1)
        record.quantiles[name], record.patients[name] = quantiles(image), data.patient_of(name)
        try:
            geometry = read_geometry(data.path_of(name))
        except InputError:      # slices without their volume
            geometry = None
        if geometry:
            record.voxel_sizes[name] = geometry.voxel_size.tolist()
        if scans[0].label is None or len({scan.label.shape for scan in scans}) > 1:     # slices that are no volume
            continue
        labels = np.stack([scan.label.numpy() for scan in scans]) if flat else scans[0].label.numpy()
        if (labels == IGNORED).any():       # how large its structures are nobody knows
            continue
        voxels, components, border = zip(*measured(labels, recipe.num_classes), strict=True)
        whole = math.prod(scans[0].content[0]) / math.prod(scans[0].image.shape)    # training at half resolution
        record.volumes[name] = [whole * count for count in voxels]
        record.components[name], record.border[name] = components, border
        record.pairs[name] = [[*pair, *axes] for pair, axes in alike_pairs(labels).items()]
        spacings[name] = geometry and math.prod(geometry.spacing) / 1000
    if all(spacings.values()):
        record.volumes.update({name: [spacings[name] * count for count in record.volumes[name]] for name in spacings})
        return record
    return replace(record, unit="voxels")


def read_training_cases(run, recipe=None):
    """Of a run folder; None for runs made before this file existed. With the run's recipe, InputError where the sizes
    are those of another run.
    """
    path = Path(run) / TRAINING
    record = read_record(TrainingCases, path, RESTORE)
    if record is None or recipe is None:
        return record
    classes, quantiles = recipe.num_classes - 1, (recipe.in_channels, len(LEVELS))
    for name, fits in {**dict.fromkeys(("volumes", "components", "border"), lambda _, of: len(of) == classes),
                       "voxel_sizes": lambda _, of: len(of) == 3,
                       "quantiles": lambda _, of: (len(of), *set(map(len, of))) == quantiles,
                       "pairs": lambda case, of: case in record.volumes and all(
                           len(pair) == 5 and 0 < min(pair[:2]) <= max(pair[:2]) <= classes for pair in of)}.items():
        if odd := [case for case, of in getattr(record, name).items() if not fits(case, of)]:
            raise InputError(f"{path}: {name} of {odd[0]} are not those of a run with {classes} foreground class"
                             f"{'es' * (classes > 1)} and {counted(recipe.in_channels, 'channel')}: {RESTORE}")
    return record


def together(records):
    """The TrainingCases of several runs in one; None where a run has none, or in another unit."""
    if None in records or len({record.unit for record in records}) > 1:
        return None
    first, *others = map(vars, records)
    return TrainingCases(first["unit"], **{name: {case: value for one in (first, *others)
                                                  for case, value in one[name].items()}
                                           for name in first if name != "unit"})


# ---- rows ------------------------------------------------------------------------------------------------------


def case_rows(case, names, found, evidence, training=None, voxel_ml=None, voxel_size=None, places=None,
              taken=None):
    """One row per foreground class of a case, the case's score in each; unknown values are NaN.

    names: of the classes; found: as `measured` gives it; training: TrainingCases; voxel_ml: ml of a voxel of what was
    measured; voxel_size: mm of the scan's own voxels; places: as `middles` gives them;
    taken: as `taken_away`.
    """
    training = training or TrainingCases()
    apart = training.distance(evidence.quantiles)
    factor = math.nan if voxel_size is None else training.size_factor(voxel_size)
    of_scan = [f"intensities {apart:.1f} times as far from training as its scans are from each other"] * (apart > FAR)
    if factor > MIXED:
        of_scan.append(f"voxels of {_sides(voxel_size)} mm, in training {_sides(*training.voxel_sizes.values())}")
    of_scan += [f"{names[one - 1]} and {names[other - 1]} have changed sides compared with all labelled cases"
                for one, other in (training.turned_round(places) if places else ())]
    agreement = evidence.agreement or [math.nan] * len(names)
    rows, score, doubts = [], len(of_scan), []
    for index, (name, (voxels, components, border)) in enumerate(zip(names, found, strict=True)):
        volume = voxels * (voxel_ml or math.nan) if training.unit == "ml" else voxels
        outside, flags, told = _volume_flags(name, volume, index, training), [], []
        most = max((known[index] for known in training.components.values()), default=math.inf)
        if components > most:
            told.append(f"{name} in {components} parts, labelled cases have {most} at most")
        if taken and taken[index] > REMOVED * voxels:
            flags.append(f"other parts of {name}, {100 * taken[index] / voxels:.0f} % of the largest one, were removed")
        if border and training.border and not any(known[index] for known in training.border.values()):
            flags.append(f"{name} touches the border of the scan, as in no labelled case")
        if agreement[index] < DISAGREEING:
            flags.append(f"views agree on {name} by {100 * agreement[index]:.0f} %")
        if evidence.entropy[index] > UNCERTAIN:
            flags.append(f"entropy of {name} {evidence.entropy[index]:.2f}")
        score += 2 * len(outside) + len(flags)
        doubts += [1 - agreement[index], evidence.entropy[index]]
        rows.append({"case": case, "class": index + 1, "name": name, "voxels": voxels,
                     "ml": voxels * (voxel_ml or math.nan), "components": components, "border": int(border),
                     "agreement": agreement[index], "entropy": evidence.entropy[index], "intensities": apart,
                     "voxel_size": factor, "flags": "; ".join([*outside, *told, *flags, *of_scan])})
    doubts = [doubt for doubt in doubts if not math.isnan(doubt)]
    score += min(float(np.mean(doubts)), 0.999) if doubts else 0
    return [row | {"score": score} for row in rows]


def _volume_flags(name, volume, index, training):
    values = [volumes[index] for volumes in training.volumes.values()]
    if not values or not (volume < SMALLEST * min(values) or volume > LARGEST * max(values)):
        return []
    return [f"{name} {_amount(volume)} {training.unit}, labelled cases have {_amount(min(values))} to "
            f"{_amount(max(values))}"]


def _amount(volume):
    return f"{volume:.0f}" if volume >= 100 else f"{volume:.2g}"


def _sides(*sizes):
    """Voxel sizes in mm, "0.8 x 0.8 x 5", or the range of several."""
    low, high = np.min(sizes, 0), np.max(sizes, 0)
    return " x ".join(f"{one:.3g}" if f"{one:.3g}" == f"{other:.3g}" else f"{one:.3g} to {other:.3g}"
                      for one, other in zip(low, high, strict=True))


def flags_of(rows):
    """The flags of a case's rows, each once."""
    return list(dict.fromkeys(flag for row in rows for flag in row["flags"].split("; ") if flag))


def scores(rows):
    """{case: score}, the case to look at first in front."""
    found = {row["case"]: float(row["score"]) for row in rows}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
