"""Whose scans the cases of own data are: patients.json. A case that it does not name is its patient's only one."""
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imaging.cases import Case
from runtime.errors import InputError, counted
from runtime.records import read_record

PATIENTS = "patients.json"      # in a data folder
# How names of a standard begin: sub-01_ses-2_T1w of BIDS, BraTS-GLI-00005-101 since 2023 and brats_tcia_pat118_0202 of
# BraTS 2015, patient001_frame12 of ACDC
STANDARD = re.compile(r"sub-[0-9A-Za-z]+(?=_)|BraTS-[A-Z]+-\d{5}(?=-\d{3}\b)|brats_(2013|tcia)_pat\d+(?=_\d+\b)"
                      r"|patient\d{3}(?=_frame\d)")
REMEDY = "correct it, or remove it and prepare the folder again with --patients"


@dataclass(frozen=True)
class Patients:
    """patients.json."""

    pattern: str = ""       # regular expression; what it finds in a case's name is the patient
    cases: dict[str, str] = field(default_factory=dict)     # name of a case -> its patient

    def of(self, case: str) -> str:
        return self.cases.get(case, case)


def read_patients(folder: Path) -> Patients:
    return read_record(Patients, folder / PATIENTS, REMEDY) or Patients()


def told_by(pattern: str, cases: Sequence[str]) -> dict[str, str]:
    """{case: patient} of the names in which the pattern finds one: its first group, or all that it matches.

    InputError for what is no regular expression, finds nothing, or the same patient in all of several names.
    """
    try:
        found = {case: match for case in cases if (match := re.search(pattern, case))}
    except re.error as error:
        raise InputError(f"--patients {pattern}: is no regular expression ({error}); for names such as p01_before, "
                         r"'p\d+' is one") from error
    patients = {case: match[1 if match.re.groups else 0] for case, match in found.items()}
    patients = {case: patient for case, patient in patients.items() if patient}
    if len(cases) > 1 and len({patients.get(case, case) for case in cases}) == 1:
        raise InputError(f"--patients {pattern}: makes all {len(cases)} cases, {cases[0]} and others, one patient, "
                         f"{patients.get(cases[0], cases[0])}; it should match what tells the patients apart")
    if not patients:
        raise InputError(f"--patients {pattern}: finds no patient in the {counted(len(cases), 'name')}, such as "
                         f"{cases[0]}; for names such as p01_before, 'p\\d+' does")
    return patients


def named_in(case: str) -> str:
    """The patient in a case's name, where that is of a known standard; the name itself otherwise."""
    match = STANDARD.match(case)
    return match[0] if match else case


def told_by_standards(cases: Sequence[str]) -> dict[str, str]:
    """{case: patient} of names of known standards, where there are several patients, one of them with several cases."""
    patients = {case: named_in(case) for case in cases}
    return patients if 1 < len({*patients.values()}) < len(patients) else {}


def told_by_dicom(cases: Sequence[Case]) -> dict[str, str]:
    """{case: patient} of DICOM series, where there are several patients, one of them with several cases."""
    patients = {case.name: patient for case in cases if (patient := getattr(case.images[0], "patient", ""))}
    return patients if 1 < len({*patients.values()}) < len(patients) else {}
