"""Lists and plan of a folder of own data: which cases are for what, and which files somebody has edited since."""
import json
import zlib
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from imaging.cases import Case, listed, shown
from imaging.labelling import add_tests
from imaging.patients import PATIENTS, Patients, read_patients, told_by, told_by_dicom, told_by_standards
from runtime.errors import InputError, counted, some_of
from runtime.files import check_readable, write_text
from runtime.records import read_json, write_record

TRAIN, VAL, TEST = "train.list", "val.list", "test.list"     # val.list is written by hand alone
WRITTEN = "lists.json"      # {file: check sums of what was written}: tells files that were edited since


class OurFiles:
    """Which files of a data folder were written here and not edited since: check sums, in lists.json.

    A file's next sum is noted before it is written, beside its last one: a kill in between leaves a file that is ours.
    """

    def __init__(self, folder: Path):
        self.record = folder / WRITTEN
        self.sums = read_json(self.record, "remove it") if self.record.exists() else {}

    def holds(self, path: Path) -> bool:
        check_readable(path)
        return path.exists() and zlib.crc32(path.read_bytes()) in self._known(path)

    def _known(self, path):
        known = self.sums.get(path.name, [])
        return known if isinstance(known, list) else [known]

    def _note(self, path, *sums):
        self.sums[path.name] = [*sums]
        write_record(self.record, self.sums)

    def write(self, path: Path, text: str) -> None:
        """A file with this text, or none without a text."""
        new = zlib.crc32(text.encode())
        self._note(path, *self._known(path)[-1:], new)
        if text:
            write_text(path, text)
        else:
            path.unlink(missing_ok=True)
        self._note(path, new)


def write_patients(cases: Sequence[Case], options) -> Patients:
    """patients.json by --patients, or by the pattern that it has, else of DICOM by folders and headers, and by names
    of a known standard -> whose scan each case is.

    What was written there by hand stays without --force.
    """
    path, ours, there = options.output / PATIENTS, OurFiles(options.output), read_patients(options.output)
    pattern = options.patients or there.pattern
    names = [case.name for case in cases]
    told = told_by(pattern, names) if pattern else told_by_dicom(cases) or told_by_standards(names)
    if not told:
        return there
    by_hand = path.exists() and not options.force and not ours.holds(path)
    patients = Patients(pattern, told | (there.cases if by_hand else {}))
    if pattern and (alone := [name for name in names if name not in patients.cases]):
        print(f"--patients {pattern}: finds no patient in {counted(len(alone), 'name')}, such as {alone[0]}, of which "
              "each counts as a patient of its own")
    if patients != there:
        text = json.dumps(asdict(patients), indent=1) + "\n"
        write_text(path, text) if by_hand else ours.write(path, text)
    return patients


def last_patients(names: Sequence[str], count: int, patients: Patients) -> list[str]:
    """The last `count` cases, and more where a patient has others: all of a patient's together."""
    chosen: set[str] = set()
    for name in reversed(names):
        if sum(patients.of(one) in chosen for one in names) < count:
            chosen.add(patients.of(name))
    return [name for name in names if patients.of(name) in chosen]


def write_lists(good: dict[str, dict], options, tests: Collection[str], patients: Patients) -> tuple[int, int, int]:
    """train.list, labelled cases first, and test.list if asked for; returns how many cases of train.list have a label,
    how many have none, and how many are in test.list.

    The cases of a test.list that is there stay in it and are not trained on, and `tests`, which were drawn for testing,
    join them with their labels; a larger --holdout adds the last labelled ones, --holdout 0 removes all but the drawn
    ones. Other cases of their patients join them where they have a label, and are in no list where they have none. The
    cases of a val.list, and others of their patients, are in neither list. A list that was written by hand, or edited
    since, is kept as it is without --force. A case that is not good leaves the others; one of test.list that is not, or
    has no label any more, is noted as drawn for testing, which it is again when it is back.
    """
    ours = OurFiles(options.output)
    train, val, test = (options.output / name for name in (TRAIN, VAL, TEST))
    kept = [path for path in (train, test) if path.exists() and not options.force and not ours.holds(path)]
    before = [] if test not in kept and options.holdout == 0 else listed(test)
    has_label = [name for name, case in good.items() if case["classes"] is not None]
    away = {*before, *tests} - good.keys()
    held = [name for name in before if name in has_label or test in kept]
    held += [name for name in has_label if name in tests and name not in held]
    validated, measured = (set(map(patients.of, names)) for names in (listed(val), {*held, *away}))
    if test not in kept:
        held += [name for name in has_label if name not in held and patients.of(name) in measured - validated]
    free = [name for name in has_label if patients.of(name) not in measured | validated]
    if not free:
        raise InputError("no case with a label is left to train on, one is needed at least; no list was written")
    more = max((options.holdout or 0) - len({*held, *away}), 0) if test not in kept else 0
    new = last_patients(free, more, patients)
    if len(new) == len(free):
        raise InputError(f"--holdout {options.holdout}: there are {len(free) + len(held)} labelled cases, and one "
                         f"{'patient ' if patients.cases else ''}must be left to train on")
    apart = measured | validated | set(map(patients.of, new))
    labelled = [name for name in free if name not in new]
    unlabelled = [name for name in good if name not in has_label and patients.of(name) not in apart]
    if nowhere := good.keys() - {*held, *new, *labelled, *unlabelled, *listed(val)}:
        print(f"{counted(len(nowhere), 'case')} in no list, of patients that are tested or validated on: "
              f"{some_of(sorted(nowhere), 5)}")
    for path in (train, val, test):
        if gone := [name for name in listed(path) if name not in good]:
            what = "to be taken out by hand" if path in (*kept, val) else "of before left out"
            print(f"{path.name}: {counted(len(gone), 'case')} {what}, bad now or not among these scans: "
                  f"{some_of(gone, 5)}")
        if bare := [name for name in listed(path) if name in good and name not in has_label and path != train]:
            what = "to be taken out by hand" if path in (*kept, val) else "left out until it has one"
            print(f"{path.name}: {counted(len(bare), 'case')} without a label, {what}: {some_of(bare, 5)}")
    if test not in kept:
        add_tests(options.output, [name for name in before if name not in held])
    for path, names in {train: labelled + unlabelled, test: held + new}.items():
        if path in kept:
            if names and names != listed(path):
                print(f"{path.name}: the one in {shown(options.output)} was written by hand, and is kept; --force "
                      "replaces it")
            continue
        ours.write(path, "".join(f"{name}\n" for name in names))
    names = listed(train)
    with_label = sum(name in labelled for name in names)
    return with_label, len(names) - with_label, len(listed(test))
