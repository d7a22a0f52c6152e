"""Cases to HDF5 files: many in parallel, finished ones skipped, bad ones reported."""
import json
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from imaging.cases import IGNORED, Case, Options, shown
from imaging.preprocess import apply
from imaging.record import RECORD, Preprocessing, moved_name, read_as, read_preprocessing, write_preprocessing
from imaging.scan_files import checksums, is_prediction, read_label, read_scans, segments_of, tell_notes
from runtime.errors import InputError, held_by_another, is_out_of_memory, one_line, printable
from runtime.files import check_readable, inside, make_folder, write_aside
from runtime.workers import end_with_parent

SMALLER = "crop or resample the scan, or use a machine with more memory"
UNREADABLE = (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError)   # what damaged HDF5 ends in


@dataclass
class Outcome:
    """What became of the cases."""

    # name -> {"shape", "spacing", "voxels" (their check sum), "classes", "outside", "skipped", "relabelled", "notes"}
    good: dict[str, dict]
    bad: dict[str, str]         # name -> one line of what is wrong with it


def prepare_cases(cases: Sequence[Case], bad: dict[str, str], preprocessing: Preprocessing,
                  options: Options, layout: str, instead: str | None = None, **label_checks) -> Outcome:
    """Prepare all cases in parallel with a progress bar, print the summary, return what became of each.

    `layout` names the HDF5 files below options.output: "data/{case}.h5"; `instead` is the way out where these were
    prepared in another way. `bad` are cases already found unfit; `label_checks` go to `read_label`. Finished cases
    are skipped, bad ones listed at the end. Raises InputError if no case is there or none could be prepared, if a
    worker was killed, or if the output folder holds data prepared in another way and there is no --force. The caller
    holds the folder's lock.
    """
    if options.workers < 1:
        raise InputError(f"--workers {options.workers}: must be 1 or more")
    if not cases and not bad:
        raise InputError("no scans found there; --help shows the folders and file names that are expected")
    preprocessing = replace(preprocessing, geometry=options.geometry)
    make_folder(options.output)
    before = None if options.force else read_preprocessing(options.output)
    moved = before and moved_name(before.class_names, preprocessing.class_names)    # other names may be given
    if moved or before not in (None, preprocessing):
        old, new = asdict(before), asdict(preprocessing)
        differing = ", ".join(f"{key} was {old[key]}, now {new[key]}" for key in new
                              if old[key] != new[key] and (moved or key != "class_names"))
        raise InputError(f"{options.output / RECORD}: these data were prepared in another way ({differing}); "
                         + (instead or "choose another --output, or --force to overwrite them"))
    work = partial(_prepare_case, preprocessing=preprocessing, output=options.output, layout=layout,
                   options=options, **label_checks)
    good, bad = {}, dict(bad)
    for case, result in in_parallel(work, cases, options.workers):
        if isinstance(result, str):
            bad[case.name] = result
            continue
        if not good:
            write_preprocessing(options.output, preprocessing)
        good[case.name] = result
    good = {case.name: good[case.name] for case in cases if case.name in good}
    skipped = sum(result["skipped"] for result in good.values())
    print(f"{len(good) - skipped} prepared, {skipped} skipped (finished before), {len(bad)} bad "
          f"-> {shown(options.output)}", flush=True)
    tell_notes(note for result in good.values() for note in result.get("notes", ()))
    if changed := [name for name, result in good.items() if result.get("relabelled")]:
        print(f"{len(changed)} with another label than before, prepared again: {', '.join(changed)}", flush=True)
    report_bad(bad)
    if not good:
        raise InputError("no case could be prepared, for the reasons above")
    return Outcome(good, bad)


def report_bad(bad: dict[str, str]) -> None:
    """One line per bad case on stderr."""
    for name in sorted(bad):
        print(printable(f"bad case {name}: {bad[name]}"), file=sys.stderr)


def in_parallel(work: Callable, cases: Sequence[Case], workers: int) -> Iterable:
    """(case, work(case) or one line of what is wrong with it), as they finish, under a progress bar.

    Raises InputError where a worker process was killed: what the other cases are is then unknown.
    """
    bar = partial(tqdm, total=len(cases), unit="case", disable=None)    # no bar where stderr is a file
    if workers <= 1 or len(cases) <= 1:
        yield from ((case, attempt(partial(work, case), SMALLER)) for case in bar(cases))
        return
    with ProcessPoolExecutor(workers, initializer=end_with_parent) as pool:
        futures = {pool.submit(work, case): case for case in cases}
        try:
            for future in bar(as_completed(futures)):
                yield futures[future], attempt(future.result, f"try --workers 1 (it was {workers}), or {SMALLER}")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def attempt(call: Callable, remedy: str):
    """call(), or one line of what is wrong; `remedy` is the one for a case that is too large for the memory."""
    try:
        return call()
    except InputError as error:
        return one_line(error)
    except BrokenProcessPool as error:
        raise InputError("a worker process was killed, for want of memory perhaps: start the same command again, with "
                         "--workers 1 if that goes on; finished cases are skipped") from error
    except Exception as error:
        if is_out_of_memory(error):
            return f"out of memory: {remedy}"
        if isinstance(error, OSError):
            return f"{one_line(error)}: fix the file's permissions, and start the same command again"
        traceback.print_exception(error)    # ours, not the user's: say all, and go on with the other cases
        return f"{type(error).__name__}: {one_line(error)} (our mistake, not yours: see the traceback above)"


def _prepare_case(case, preprocessing, output, layout, options, **label_checks):
    target = inside(output, output / layout.format(case=case.name))
    record = {"preprocessing": json.dumps(preprocessing.to_dict()),
              "source": json.dumps({"images": _checksums(case.images),
                                    "label": _label_source(case, label_checks.get("segments"))})}
    relabelled = False
    if target.exists() and not options.force:
        if (done := _finished(target, record)) is not None:
            return dict(done, skipped=True)
        earlier = _earlier_label(target, record)
        if earlier is None or (earlier and case.label is None):
            raise InputError(f"{target}: exists already, made from other files or in another way; remove it to prepare "
                             "this case again, --force prepares all again, another --output keeps them")
        relabelled = bool(earlier)
    scans = read_scans(case.images, preprocessing.geometry, len(preprocessing.modalities))
    label = None
    if case.label is not None:
        if not options.accept_predictions and is_prediction(case.label):
            raise InputError(f"{case.label}: is a label map of predict.py, as it wrote it, and no label; correct and "
                             "save it in 3D Slicer or ITK-SNAP, or take it as it is with --accept-predictions")
        labels = preprocessing.labels | dict(case.values)
        label = read_label(case.label, scans[0], read_as(labels, preprocessing.ignore), geometry=preprocessing.geometry,
                           allow_empty=options.allow_empty, **label_checks)
    # a random stream per case: the crop does not depend on which other cases there are
    rng = np.random.default_rng([preprocessing.seed, zlib.crc32(case.name.encode())])
    image, label, geometry = apply(scans, preprocessing, label, rng)
    if case.slices is not None:
        for k in range(len(image)):     # counted from 1 as in the published list
            write_case(inside(output, output / case.slices.format(case=case.name, k=k + 1)), image[k],
                       None if label is None else label[k])
    # written last: a case that has this file is finished
    voxels = zlib.crc32(image)
    write_case(target, image, label, compression="gzip",
               attributes=record | {"geometry": json.dumps(asdict(geometry)), "voxels": voxels})
    return dict(_summary(image.shape, label, asdict(geometry), voxels), skipped=False, relabelled=relabelled,
                notes=[(scan.path, scan.notes) for scan in scans])


def _checksums(paths):
    return {name: value for path in paths for name, value in checksums(path).items()}


def _label_source(case, segments):
    """What a label is made of: check sums of its files and what else its classes depend on: the values that its
    segments get, and values of its own.
    """
    if case.label is None:
        return {}
    return _checksums([case.label]) | ({"segments": segments} if segments and segments_of(case.label) else {}) | (
        {"values": case.values} if case.values else {})


def _summary(shape, label, geometry, voxels):
    return {"shape": tuple(shape), "outside": geometry["label_outside"], "spacing": tuple(geometry["spacing"]),
            "voxels": voxels,
            "classes": None if label is None else np.flatnonzero(np.bincount(label.ravel())[:IGNORED]).tolist()}


def _finished(path, record):
    """Summary of a prepared file that holds `record`, None for any other file."""
    def summary(file):
        if any(file.attrs.get(key) != value for key, value in record.items()):
            return None
        geometry = json.loads(file.attrs["geometry"])
        return _summary(file["image"].shape, file["label"][()] if "label" in file else None, geometry,
                        int(file.attrs["voxels"]) if "voxels" in file.attrs else None)
    return _looked_at(path, summary)


def _earlier_label(path, record):
    """Check sums of the label that a prepared file was made with, {} where it had none; None where it was made from
    other scans or in another way.
    """
    def label(file):
        source, now = json.loads(file.attrs["source"]), json.loads(record["source"])
        same = file.attrs["preprocessing"] == record["preprocessing"] and source["images"] == now["images"]
        return source["label"] if same else None
    return _looked_at(path, label)


def voxels_of(path: Path) -> tuple | None:
    """Shape and check sum of a prepared image, by which it is known; None where there is none."""
    return _looked_at(path, lambda file: (file["image"].shape, int(file.attrs["voxels"])))


def _looked_at(path, look):
    """look(the HDF5 file); None of a damaged file, InputError while another program writes to it, or of no file."""
    check_readable(path)
    try:
        with h5py.File(path) as file:
            return look(file)
    except UNREADABLE as error:
        if busy := held_by_another(path, error):
            raise busy from error
        return None


def write_case(path: Path, image: np.ndarray, label: np.ndarray | None = None, compression: str | None = None,
               attributes: dict | None = None) -> None:
    """One HDF5 file with `image` float32 and, if given, `label` uint8; written aside and renamed."""
    def write(aside):
        with h5py.File(aside, "w") as file:
            file.create_dataset("image", data=image.astype(np.float32, copy=False), compression=compression)
            if label is not None:
                file.create_dataset("label", data=label.astype(np.uint8, copy=False), compression=compression)
            file.attrs.update(attributes or {})

    write_aside(path, write)
