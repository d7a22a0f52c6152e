"""Cross-validation: which fold each labelled case of own data belongs to, once for all: folds.json beside the lists.

A fold is written 2/4, the second of four.
"""
from collections import Counter
from dataclasses import dataclass

from imaging.patients import PATIENTS, read_patients
from runtime.errors import InputError, counted
from runtime.records import read_json, read_record, write_record

FOLDS = "folds.json"
FOLDS_REMEDY = ("restore the file from a copy, or remove it: the cases are then divided anew, and all folds trained "
                "again")


@dataclass(frozen=True)
class Folds:
    """folds.json."""

    folds: int                  # how many there are
    cases: dict[str, int]       # name of a case -> number of its fold, from 1


def read_folds(folder):
    """Folds of folds.json, or None where it does not exist."""
    return read_record(Folds, folder / FOLDS, FOLDS_REMEDY)


def fold_number(text):
    """'2/4' -> (2, 4); InputError for anything else."""
    number, _, count = str(text).partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) and int(count) > 1):
        raise InputError(f"--fold {text}: expected the number of a fold and how many there are, such as 1/4")
    return int(number), int(count)


def fold_folder(text):
    """Name of a fold's run below the folder of all of them: '2/4' -> 'fold2'."""
    return f"fold{fold_number(text)[0]}"


def divided(folder, labelled, count):
    """{case: number of its fold} of the labelled cases: as folds.json has them, each new one in the fold of its
    patient's others or, with these, in the fold that is smallest by then, the first of equals.
    """
    path, there, patients = folder / FOLDS, {}, read_patients(folder)
    people = len(set(map(patients.of, labelled)))
    if not labelled or count > people:
        whose = f" of {counted(people, 'patient')}" * (people < len(labelled))
        raise InputError(f"--folds {count}: {folder} has {len(labelled)} labelled cases{whose} to train on, and each "
                         f"fold needs one{' patient' * bool(whose)}; choose fewer folds")
    if record := read_folds(folder):
        if record.folds != count:
            raise InputError(f"{path}: divides the cases into {record.folds} folds, not {count}; choose --folds "
                             f"{record.folds}, or remove the file: the cases are then divided anew")
        if odd := [name for name, number in record.cases.items() if not 1 <= number <= count]:
            raise InputError(f"{path}: has {odd[0]} in fold {record.cases[odd[0]]} of {count}: {FOLDS_REMEDY}")
        there = record.cases
    first = {}      # of each patient, the first case that has its fold
    for name, number in there.items():
        other = first.setdefault(patients.of(name), name)
        if there[other] != number:
            raise InputError(f"{path}: {name} is in fold {number} and {other} in fold {there[other]}, two scans of "
                             f"{patients.of(name)} by {PATIENTS}: {FOLDS_REMEDY}")
    fold_of = {patient: there[name] for patient, name in first.items()}
    sizes = Counter(there[name] for name in labelled if name in there)
    for patient, scans in Counter(patients.of(name) for name in labelled if name not in there).items():
        number = fold_of.setdefault(patient, min(range(1, count + 1), key=lambda fold: sizes[fold]))
        sizes[number] += scans
    return {name: fold_of[patients.of(name)] for name in labelled}


def write_folds(folder, numbers, count):
    """Add new cases to folds.json; one that is there stays, also where it is no longer in the train list."""
    path = folder / FOLDS
    there = read_json(path, FOLDS_REMEDY)["cases"] if path.exists() else {}
    if new := {name: number for name, number in numbers.items() if name not in there}:
        write_record(path, {"folds": count, "cases": there | new}, indent=2)
