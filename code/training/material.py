"""The scans of a run, read once, and a record of their content, by which other data are told from moved ones."""
import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataloaders.scans import check_labelled, read_check_sum
from imaging.cases import IGNORED
from imaging.record import read_preprocessing
from runtime.errors import InputError, counted, some_of
from runtime.ranks import Ranks

EARLIER = "labelled before"     # role of the cases whose labels the initial weights have seen


@dataclass(frozen=True)
class Content:
    """What a run is trained on: the preprocessing record, and each case's content by its name, in order, by role."""

    preprocessing: dict[str, Any] | None
    cases: dict[str, dict[str, tuple[tuple[int, ...], int, int | None]]]    # see dataloaders.scans.Scan.content

    @property
    def check_sum(self):
        """Of all cases and their content, the same for what was read from data.json."""
        return zlib.crc32(json.dumps(self.cases, sort_keys=True).encode())

    @property
    def names(self):
        """All cases that are trained on or validated on."""
        return [name for cases in self.cases.values() for name in cases]

    @property
    def learned(self):
        """Cases whose labels the weights have seen: this run's, and those of the runs that it was started from."""
        return {**self.cases.get("labelled", {}), **self.cases.get(EARLIER, {})}

    def finder(self, patient_of=str):
        """Function of a Scan -> 'labelled' or 'unlabelled', what training had it as, or None.

        A scan is known by its patient's name, and by its voxels under any name: a volume by its slices, too, but for
        those of one value, an empty end of a scan, say.
        """
        known = [(role, set(map(patient_of, cases)), {(tuple(shape), image) for shape, image, _ in cases.values()})
                 for role, cases in (("labelled", self.learned), ("unlabelled", self.cases.get("unlabelled"))) if cases]
        slices = any(len(shape) == 3 for *_, images in known for shape, _ in images)

        def role_of(scan):
            images = {scan.content[:2]}
            if slices and scan.image.ndim == 4:
                cuts = np.ascontiguousarray(scan.image.numpy().swapaxes(0, 1))
                images |= {(cut.shape, zlib.crc32(cut)) for cut in cuts if cut.min() < cut.max()}
            return next((role for role, names, there in known if patient_of(scan.name) in names or images & there),
                        None)
        return role_of

    def twins(self):
        """Function of a Scan -> the case that training had with the same label, if that is not empty; or None."""
        drawn = {(tuple(shape), label): name for name, (shape, _, label) in self.learned.items()}

        def twin_of(scan):
            shape, _, label = scan.content
            return drawn.get((tuple(shape), label)) if scan.label is not None and scan.label.any() else None
        return twin_of

    def differences(self, other):
        """What is different in `other`, in words."""
        one, two = (content.preprocessing or {} for content in (self, other))
        words = [f"preprocessing: {key} was {one.get(key)}, is {two.get(key)}" for key in {**one, **two}
                 if one.get(key) != two.get(key)]
        for role in {**self.cases, **other.cases}:
            one, two = (content.cases.get(role, {}) for content in (self, other))
            if list(one) != list(two):
                place = next((place for place, pair in enumerate(zip(one, two, strict=False)) if len(set(pair)) > 1),
                             min(len(one), len(two)))
                was, now = ((*names, *["none"] * (place + 1))[place] for names in (one, two))
                words.append(f"{role} case {place + 1} was {was}, is {now}")
            for name in [name for name in one if name in two]:
                parts = zip(("shape", "image", "label"), one[name], two[name], strict=True)
                if changed := [part for part, was, now in parts if was != now]:
                    words.append(f"{' and '.join(changed)} of {name} changed")
        return words


class Material:
    """The scans of a recipe's run, from a data set of dataloaders/; earlier: Content of what its initial weights saw.

    labelled, unlabelled: lists of Scan; validation: (split, this process's scans, whether they choose) a group;
    untested: the test cases whose files are not here, and how many there are in all; preprocessing: the data's record
    or None; content: Content. Without `semi_supervised` unlabelled scans are not read.
    """

    def __init__(self, recipe, data, semi_supervised, earlier=None):
        split, ranks = data.split(), Ranks()
        if semi_supervised and not split.unlabelled:
            raise InputError(f"--labeled {recipe.labeled} leaves no unlabelled scans: use --method supervised")
        if recipe.select_on == "test" and not split.test:
            raise InputError("--select-on test: there are no test cases; see --holdout-test")
        check_labelled(split.val, data.path_of, "val")
        self.untested = check_labelled(split.test, data.path_of, "test"), len(split.test)
        ranks.check_alike({f"the list of {role} cases": names for role, names in vars(split).items()})
        self.recipe = recipe
        self.labelled = data.train_scans(split.labelled, labelled=True)
        self.unlabelled = data.train_scans(split.unlabelled, labelled=False) if semi_supervised else []
        choosing = split.test if recipe.select_on == "test" else split.val
        watched = split.test if recipe.monitor == "test" and recipe.select_on != "test" else []
        groups = (recipe.select_on, choosing, True), (recipe.monitor, watched, False)
        self.validation = [(name, data.cases(ranks.shard(names)), chooses) for name, names, chooses in groups if names]
        own = [scan.content for _, scans, chooses in self.validation if chooses for scan in scans]
        self.preprocessing = read_preprocessing(recipe.data_dir)
        self.content = Content(self.preprocessing and self.preprocessing.to_dict(), {
            "labelled": {scan.name: scan.content for scan in self.labelled},
            "unlabelled": {scan.name: scan.content for scan in self.unlabelled},
            "validation": dict(zip(choosing, ranks.gather(own), strict=True)),
            **({EARLIER: earlier.learned} if earlier else {})})
        ranks.check_alike({"preprocessing": self.content.preprocessing, **{
            f"{role} scan {name}": content for role, scans in self.content.cases.items()
            for name, content in scans.items()}})
        self._check_validation(data, ranks)
        self._check_twins(data, split.test)
        if earlier:
            self._check_test(earlier, data, split.test)

    def _check_validation(self, data, ranks):
        """InputError where the voxels of a case that chooses or is watched are a labelled one's under another name."""
        role_of = self.content.finder(data.patient_of)
        for name, scans, _ in self.validation:
            roles = ranks.gather([(scan.name, role_of(scan)) for scan in scans])
            if trained := [case for case, role in roles if role == "labelled"]:
                raise InputError(f"{name} case {trained[0]}: has the voxels of a labelled case, and would be validated "
                                 "on what was trained on; take one of the two out of the lists")

    def _check_twins(self, data, names):
        """InputError where the file of a test case says that it has a labelled one's voxels."""
        labelled = {image: case for case, (_, image, _) in self.content.cases["labelled"].items()}
        for name in names:
            try:
                twin = labelled.get(read_check_sum(data.path_of(name)))
            except InputError:      # the test may take place elsewhere
                continue
            if twin:
                raise InputError(f"test case {name}: has the voxels of the labelled case {twin}, and would be tested "
                                 "on what was trained on; take one of the two out of the lists")

    @staticmethod
    def _check_test(earlier, data, names):
        """InputError where the initial weights have seen the label of a test case, by its name or its voxels."""
        patients, role_of = set(map(data.patient_of, earlier.learned)), earlier.finder(data.patient_of)
        seen = []
        for name in names:
            try:
                scans = data.cases([name])
            except InputError:      # the test may take place elsewhere
                scans = []
            if data.patient_of(name) in patients or any(role_of(scan) == "labelled" for scan in scans):
                seen.append(name)
        if seen:
            raise InputError(f"--init-from: that run was trained on the labels of {len(seen)} of the "
                             f"{counted(len(names), 'test case')}, {some_of(seen, 3)}; take them out of the test list, "
                             "or start from another run")

    def remarks(self):
        """What may be a mistake in the lists or the labels, a sentence each; of several processes, validation cases
        are this one's alone.
        """
        away, count = self.untested
        if away:
            have, them = ("has", "it") if len(away) == 1 else ("have", "them")
            yield (f"{len(away)} of the {counted(count, 'test case')}, {away[0]} the first, {have} no file in "
                   f"{self.recipe.data_dir}: the test will need {them}; are the names in the list right?")
        groups = {"labelled": self.labelled, **{name: scans for name, scans, _ in self.validation if scans}}
        classes = range(1, self.recipe.num_classes)
        for name, scans in groups.items():
            counts = sum(np.bincount(scan.label.numpy().ravel(), minlength=IGNORED + 1) for scan in scans)
            if missing := ", ".join(str(label) for label in classes if not counts[label]):
                yield (f"no {name} case has class {missing} of 1 to {classes[-1]}: "
                       + ("the network does not learn it; is --num-classes right?" if name == "labelled" else
                          "the mean Dice leaves it out as long as nothing predicts it either"))

    def __str__(self):
        choosing = len(self.content.cases["validation"])
        return (f"{len(self.labelled)} labelled, {len(self.unlabelled)} unlabelled, "
                f"{counted(choosing, 'validation scan')}")
