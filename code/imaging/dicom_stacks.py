"""DICOM frames to volumes: phases are told apart, slices stand in the order of their places, what is no whole volume is
refused with the place.

Frames come from classic files, one a slice, and from enhanced ones of many frames alike. Places are in mm; affines map
voxel indices to mm, RAS+.
"""
import itertools
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imaging.grids import NEAR
from runtime.errors import InputError, counted

# tells the phases of a series apart, tried in this order
PHASES = ("TemporalPositionIdentifier", "TemporalPositionIndex", "TriggerTime", "NominalCardiacTriggerDelayTime",
          "EchoTime", "EffectiveEchoTime", "DiffusionBValue", "FrameType", "ImageType", "AcquisitionNumber",
          "FrameAcquisitionNumber", "StackID", "AcquisitionTime", "ContentTime")
SAME_PLACE = 1e-3       # mm between slices that lie on one another
ROUNDED = 0.011         # mm that positions of two digits make two gaps differ
EVEN = 0.03             # share of a gap by which gaps may differ
STRAIGHT = 1e-3         # what directions may be off length 1, right angles, and one another


class Frame(NamedTuple):
    """One image with its place."""

    path: Path
    index: int | None               # in a file of several frames
    shape: tuple[int, int]          # rows, columns
    orientation: tuple[float, ...]  # directions of a row and of a column, LPS
    position: tuple[float, ...]     # of the first voxel, LPS
    spacing: tuple[float, float]    # between rows, between columns
    thickness: float                # of a slice that is alone
    said: float | None              # SpacingBetweenSlices
    slope: float
    intercept: float
    phase: tuple                    # values of PHASES
    uid: str

    @property
    def label(self) -> str:
        return self.path.name + ("" if self.index is None else f", frame {self.index + 1}")


def phases_of(frames):
    """The frames of each phase of a series: one where they make one volume, else as one or two of PHASES tell them
    apart into volumes of one region.
    """
    try:
        stacked(frames)
        return [frames]
    except InputError as error:
        whole = error
    if len(frames) > len({(frame.uid, frame.index) for frame in frames}):
        raise whole
    varying = [key for key in range(len(PHASES)) if len({frame.phase[key] for frame in frames}) > 1]
    partly = None
    for keys in itertools.chain(*(itertools.combinations(varying, count) for count in (1, 2))):
        groups = defaultdict(list)
        for frame in frames:
            groups[tuple(frame.phase[key] for key in keys)].append(frame)
        phases = [groups[key] for key in sorted(groups, key=_in_order)]
        if min(map(len, phases)) < 2 or not _overlap(phases):
            continue
        good = sum(map(_is_stack, phases))
        if good == len(phases):
            return phases
        if good and min(map(len, phases)) * 2 >= max(map(len, phases)) and partly is None:
            partly = phases
    if partly:
        return partly
    raise whole


def _in_order(key):
    return [(0, float(value), "") if re.fullmatch(r"-?\d+\.?\d*", value) else (1, 0.0, value) for value in key]


def _is_stack(frames):
    try:
        return bool(stacked(frames))
    except InputError:
        return False


def _overlap(phases):
    """Whether groups of frames cover one region: the part that all have is half of each at least."""
    normal = np.cross(*np.reshape(phases[0][0].orientation, (2, 3)))
    ends = np.array([[min(heights), max(heights)] for phase in phases
                     if (heights := [float(np.dot(frame.position, normal)) for frame in phase])])
    common = ends[:, 1].min() - ends[:, 0].max()
    return bool((common >= (ends[:, 1] - ends[:, 0]) / 2).all())


def stacked(frames):
    """(frames in order along their normal, affine); InputError where they are not one volume, naming the place."""
    first = frames[0]
    if doubles := len(frames) - len({(frame.uid, frame.index) for frame in frames}):
        met = {}
        one, two = next((met[key], frame) for frame in frames if (key := (frame.uid, frame.index)) in met
                        or met.update({key: frame}))
        raise InputError(f"{counted(doubles, 'image')} are there twice, such as {one.label} and {two.label}; remove "
                         "the copies")
    for what, attribute, close in (("rows and columns", "shape", 0), ("directions", "orientation", STRAIGHT),
                                   ("pixel spacings", "spacing", STRAIGHT)):
        values = np.array([getattr(frame, attribute) for frame in frames], float)
        differing = np.abs(values - values[0]).max(1) > close * (values[0].max() if attribute == "spacing" else 1)
        if differing.any():
            other = frames[int(np.argmax(differing))]
            raise InputError(f"its images have several {what}, {_told(values[0])} in {first.label} and "
                             f"{_told(getattr(other, attribute))} in {other.label}, expected one volume; keep one kind "
                             "in the folder")
    rows, columns = np.reshape(first.orientation, (2, 3))
    if abs(rows @ columns) > STRAIGHT or abs(np.array([rows @ rows, columns @ columns]) - 1).max() > 2 * STRAIGHT:
        raise InputError(f"{first.label} has the directions {_told(first.orientation)}, expected two of length 1 at "
                         "right angles; export it again")
    if min(first.spacing) <= 0:
        raise InputError(f"{first.label} has the pixel spacing {_told(first.spacing)}, expected positive numbers; "
                         "export it again")
    normal = np.cross(rows, columns)
    positions = np.array([frame.position for frame in frames])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    frames, heights, positions = [frames[place] for place in order], heights[order], positions[order]
    step = first.thickness
    if len(frames) > 1:
        step = _even(frames, heights)
        drift = positions - positions[0] - np.outer(heights - heights[0], normal)
        _check_upright(frames, drift, step)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([rows * first.spacing[1], columns * first.spacing[0], normal * step], 1)
    affine[:3, 3] = positions[0]
    return frames, np.diag([-1, -1, 1, 1]) @ affine


def _told(numbers):
    return " ".join(f"{number:.6g}" for number in numbers)


def _even(frames, heights):
    """The mm between slices; InputError where slices lie on one another or gaps differ."""
    gaps = np.diff(heights)
    if (gaps < SAME_PLACE).any():
        place = int(np.argmax(gaps < SAME_PLACE))
        raise InputError(f"{counted(int((gaps < SAME_PLACE).sum()) + 1, 'slice')} lie on others, such as "
                         f"{frames[place].label} and {frames[place + 1].label} at {heights[place]:.6g} mm along the "
                         "normal, and no field tells phases apart; remove duplicates, or export one phase")
    usual = float(np.median(gaps))
    off = np.abs(gaps - usual) > max(EVEN * usual, ROUNDED)
    if len(gaps) == 2 and off.any() or off.mean() >= 0.5:
        usual = float(gaps.min())
        off = gaps - usual > max(EVEN * usual, ROUNDED)
    if off.any():
        place = int(np.argmax(off))
        count = gaps[place] / usual - 1
        missing = f"about {counted(round(count), 'slice')} missing" if round(count) and abs(
            count - round(count)) < 0.1 else "unequal gaps"
        raise InputError(f"{missing} between {frames[place].label} at {heights[place]:.6g} mm and "
                         f"{frames[place + 1].label} at {heights[place + 1]:.6g} mm along the normal, expected slices "
                         f"{usual:.4g} mm apart; copy or export the series again")
    return float(heights[-1] - heights[0]) / len(gaps)


def _check_upright(frames, drift, step):
    """InputError where slices are moved against one another sideways."""
    apart = np.linalg.norm(drift, axis=1)
    if apart.max() <= NEAR * min(*frames[0].spacing, step):
        return
    even = np.outer(np.linspace(0, 1, len(frames)), drift[-1])
    if np.linalg.norm(drift - even, axis=1).max() <= NEAR * min(frames[0].spacing):
        tilt = np.degrees(np.arctan2(apart[-1] / (len(frames) - 1), step))
        raise InputError(f"its slices are sheared by {tilt:.3g} degrees (gantry tilt), and its voxels are no boxes; "
                         "resample it to an upright grid first, with dcm2niix or 3D Slicer")
    far = int(np.argmax(apart))
    raise InputError(f"{frames[far].label} lies {apart[far]:.3g} mm beside the line of the other slices; export the "
                     "series again, or take that image out")
