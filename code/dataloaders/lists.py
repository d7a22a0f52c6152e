"""Which cases a run has: the split lists, text files with one name per line, and what they may not share."""
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.errors import InputError, one_line
from runtime.files import ROOT, check_readable, expanded, is_case_name
from runtime.records import read_json


@dataclass
class Split:
    """Names of cases. `labelled` comes first in the train list; `val` and `test` are never trained on."""

    labelled: list[str]
    unlabelled: list[str]
    val: list[str]
    test: list[str]

    def __post_init__(self):
        seen = {}
        for role, names in vars(self).items():
            for name in names:
                if name in seen:
                    raise InputError(f"{name} is listed as {seen[name]} and as {role}: a case belongs to one list, "
                                     "once; remove it from the other")
                seen[name] = role


def check_patients(lists, patient_of, where, how=""):
    """InputError where scans of one patient are in two of the lists {role: names}; `Split` looks at a scan in two.

    where: {role: its list in words}; how: what says that they are one patient's, in words.
    """
    for one, other in itertools.combinations(lists, 2):
        scan_of = {patient_of(name): name for name in lists[one]}
        for name in lists[other]:
            if (twin := scan_of.get(patient_of(name), name)) != name:
                raise InputError(f"{where[other]}: {name} is a scan of {patient_of(name)}, as {twin} of {where[one]} "
                                 f"is{how}; a patient belongs to one list: take one of the two out of its list")


def read_lists(data_dir, dataset, files):
    """Case names of the split lists {role: file name}, "train" among them -> {role: names}.

    Each list is looked for in `data_dir`, then in the repository's own data/<dataset>/: one case per line, an `.h5`
    suffix tolerated. A val or test list that is nowhere is empty; the published ones are not taken where the train
    list names other people's scans. InputError if there is no train list, or it is empty, and for names that would
    lead to another folder.
    """
    own, published = Path(data_dir), ROOT / "data" / dataset
    if not own.is_dir():
        raise InputError(f"--data-dir {own}: this folder does not exist; name the one with the {dataset} scans, which "
                         "data/README.md says how to get")
    train = own / files["train"]
    if not train.exists():
        train = published / files["train"]
    if not train.exists():
        raise InputError(f"{files['train']} is neither in {own} nor in {published}: point --data-dir to the {dataset} "
                         "folder, or put the list there")
    lists = {"train": read_list(train)}
    if not lists["train"]:
        raise InputError(f"{train} is empty: it should name one case per line")
    ours = (published / files["train"]).exists() and set(lists["train"]) <= set(read_list(published / files["train"]))
    for role in files.keys() - {"train"}:
        places = [own, published] if ours else [own]
        path = next((place / files[role] for place in places if (place / files[role]).exists()), None)
        lists[role] = read_list(path) if path else []
    return lists


def check_published(data_dir, dataset):
    """InputError for a folder that prepare_folder.py wrote, which is none of the published sets."""
    record = expanded(data_dir, "--data-dir") / "preprocessing.json"
    if record.exists() and read_json(record, "prepare the data again").get("dataset") == "folder":
        raise InputError(f"--data-dir {data_dir}: holds scans of your own, made by prepare_folder.py, and this script "
                         f"is for {dataset}: use code/train_own.py and code/test_own.py")


def published_list(dataset, file):
    """Names in the repository's own list; empty where it has none."""
    path = ROOT / "data" / dataset / file
    return read_list(path) if path.exists() else []


def drawn(names, draw):
    """`names` as they are for draw 0, else in the order of their draw-th random shuffle: the first ones get labels."""
    return [names[place] for place in np.random.default_rng(draw).permutation(len(names))] if draw else list(names)


def read_list(path):
    """Case names in a split list: one per line, an `.h5` suffix tolerated; InputError for what is no case's name."""
    check_readable(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); it should be text in UTF-8, one case per line: "
                         "write it again") from error
    names = {number: line.strip().removesuffix(".h5") for number, line in enumerate(lines, 1) if line.strip()}
    for number, name in names.items():
        if not is_case_name(name):
            raise InputError(f"{path}: line {number} is {name!r}, expected the name of a case and no path: remove what "
                             "stands before it, or the line")
    return list(names.values())
