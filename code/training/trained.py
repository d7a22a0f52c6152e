"""A trained run as it is tested: its recipe, its method with the weights, its data set, what it was trained on."""
import dataclasses
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

from dataloaders.folds import FOLDS
from dataloaders.lists import published_list, read_list
from imaging.record import PUBLISHED, RECORD, Preprocessing, read_preprocessing
from methods import registry
from runtime.errors import InputError, counted, some_of
from runtime.files import load_tensors, load_weights
from runtime.ranks import Ranks
from training import datasets
from training.checkpoints import check_trained_on, of_another_run
from training.material import EARLIER, Content
from training.recipe import check_run_folder, config_path, load_recipe
from training.run_folder import DATA, read_content

# Of a record of preprocessing, what makes no scan another: a scan's own header decides, or the margins' random stream
ANYHOW = "geometry", "seed"
SAID = "crop", "ignore"     # ... and what leaves its voxels to the network what they are


class Trained(NamedTuple):
    """What `load_run` gives."""

    run: Path
    recipe: Any
    method: Any                 # on its device, with the checkpoint's weights
    data: Any                   # the data set of dataloaders/, in the run's folder or the one that was asked for
    content: Content | None     # data.json; None for runs made before this file existed

    def names(self, split):
        """The cases of a list; a folder with scans to test alone, or without the run's folds, needs no other list."""
        folder, lists = self.recipe.data_dir, self.data.lists
        datasets.check_there(folder, self.run)
        foldless = getattr(self.recipe, "fold", None) and not (folder / FOLDS).exists()
        if split in lists and (foldless or not (folder / lists["train"]).exists()):
            if (folder / lists[split]).exists():
                return read_list(folder / lists[split])
            if not published_list(self.data.dataset, lists["train"]):
                raise InputError(f"{folder / lists[split]}: does not exist; name the cases to test in it, one per line")
        data = copy(self.data)
        data.recipe = dataclasses.replace(self.recipe, labeled=1)       # how many have labels there says nothing here
        return getattr(data.split(), split)

    def names_to_test(self, split):
        """The cases of a list, one at least, none of which training had the label of: see `check_cases`."""
        names = self.names(split)
        if not names:
            raise InputError(f"--split {split}: {self.run} has no such cases; choose the other one")
        self.check_cases(names)
        return names

    def check_cases(self, names):
        """InputError where training had the label of one of these cases, or scans that were prepared in another way.

        Says which ones it had without their labels. A case is known by its patient's name, and by its voxels whatever
        it is called.
        """
        self._check_prepared()
        if self.content is None:
            Ranks().say(f"{self.run} has no {DATA}: whether it was trained on these cases is not known")
            return
        if getattr(self.recipe, "init_from", None) and EARLIER not in self.content.cases:
            Ranks().say(f"{self.run}: whether {self.recipe.init_from}, which it was started from, was trained on these "
                        f"cases is not known, since that run has no {DATA}")
        role_of, twin_of = self.content.finder(self.data.patient_of), self.content.twins()
        found = {name: (role_of(scan), twin_of(scan)) for name in names for scan in self.data.cases([name])}
        roles = {name: role for name, (role, _) in found.items()}
        if trained := [name for name, role in roles.items() if role == "labelled"]:
            raise InputError(f"{self.run}: was trained on the labels of {len(trained)} of these "
                             f"{counted(len(names), 'case')}, {some_of(trained, 3)}, and is not tested on them: "
                             "take them out of the list, or train again with the lists as they are now")
        if unlabelled := [name for name, role in roles.items() if role == "unlabelled"]:
            Ranks().say(f"{len(unlabelled)} of the {counted(len(names), 'case')} were unlabelled scans of training, "
                        f"{unlabelled[0]} the first: {self.run.name} saw them without their labels")
        for name, (_, twin) in found.items():
            if twin:
                Ranks().say(f"{name}: has the label of {twin}, voxel by voxel, on which {self.run.name} was trained: "
                            "is it that scan with other intensities?")

    def _check_prepared(self):
        """InputError unless the scans were prepared as those of training, with no class under the name of another one;
        another crop or ignore label is said.
        """
        datasets.check_class_order(self.run, self.recipe.data_dir)
        now, made = read_preprocessing(self.recipe.data_dir), self._made
        now = self._published if now is None else now.to_dict()
        if not made or not now:
            return
        words = {key: f"{key} was {made.get(key, 'not said')}, is {now.get(key, 'not said')}"
                 for key in {**made, **now} if made.get(key) != now.get(key) and key not in ANYHOW}
        if differing := [text for key, text in words.items() if key not in SAID]:
            raise InputError(f"{self.recipe.data_dir}: these scans were prepared in another way than those that "
                             f"{self.run} was trained on ({'; '.join(differing)}): prepare them alike")
        for text in words.values():
            Ranks().say(f"{self.recipe.data_dir}: prepared in another way than the scans of training: {text}")

    @property
    def _published(self):
        """How the published scans were prepared, as `Preprocessing.to_dict` has it; None of own data."""
        record = PUBLISHED.get(self.data.dataset)
        return record and record.to_dict()

    @property
    def _made(self):
        """How the scans of training were prepared: as published where nothing is said."""
        if self.content and self.content.preprocessing:
            return self.content.preprocessing
        record = None if self.content else read_preprocessing(self.run)
        return record.to_dict() if record else self._published

    def has_papers_data(self):
        """Whether the run was trained on scans prepared as published: with the labels of the published cases and, where
        its method reads them, all the other published cases without theirs.
        """
        if self._published is None or prepared_otherwise(self._made, self.data.dataset):
            return False
        if self.content is None:
            return True
        names = published_list(self.data.dataset, self.data.lists["train"])
        patients = list(dict.fromkeys(map(self.data.patient_of, names)))[:self.recipe.labeled]
        labelled = [name for name in names if self.data.patient_of(name) in patients]
        others = self.content.cases.get("unlabelled", ())
        return ([*self.content.cases.get("labelled", ())] == labelled
                and (not others or {*others} == {*names} - {*labelled}))

    def chose(self, names, split):
        """Whether validation on some of these cases, of the list `split`, chose the run's best.pt and pretrained.pt."""
        if self.content is None:
            return self.recipe.select_on == split
        patients = set(map(self.data.patient_of, names))
        return any(self.data.patient_of(name) in patients for name in self.content.cases.get("validation", ()))


def prepared_otherwise(made, dataset):
    """How a record of preprocessing, `Preprocessing.to_dict`, differs from the published scans', in words."""
    return [f"{key} is {made.get(key, 'not said')}, not {value}" for key, value in PUBLISHED[dataset].to_dict().items()
            if made.get(key) != value and key not in ANYHOW]


def preparation_of(run):
    """How the scans of a run were prepared, its preprocessing.json or what its data.json says; None of published files.

    InputError where neither file of a run on own data is there, and new scans could not be prepared as those were.
    """
    record = read_preprocessing(Path(run))
    if record is None and (content := read_content(run)) and content.preprocessing:
        record = Preprocessing.from_dict(content.preprocessing, Path(run) / DATA)
    if record is None and datasets.of_run(run).data.dataset not in PUBLISHED:
        raise InputError(f"{Path(run) / RECORD}: does not exist, and nothing else says how the scans of this run were "
                         "prepared: copy it from the run's own folder, or from that of its prepared scans")
    return record


def load_run(run, checkpoint="last", device="auto", data_dir=None, dataset=None):
    """A run folder and the name of its weights -> `Trained`; InputError says what does not fit.

    data_dir: where the scans are now; dataset: name of the data set that the run must belong to; device: None leaves
    the method on the CPU, with torch's own layers.
    """
    check_run_folder(run)
    kind = datasets.DATASETS[dataset] if dataset else datasets.of_run(run)
    recipe = load_recipe(run, kind.recipe)
    if data_dir is not None:
        recipe = dataclasses.replace(recipe, data_dir=data_dir)
    path = Path(run) / f"{checkpoint}.pt"
    if not path.exists():
        there = sorted(file.stem for file in Path(run).glob("*.pt") if not file.stem.startswith("checkpoint"))
        raise InputError(f"{path} does not exist: the run has {', '.join(there) or 'no weights yet'}; choose with "
                         "--checkpoint, or finish training by starting it again")
    method, content = registry.build(recipe), read_content(run)
    state = load_tensors(path, ["method"])
    load_weights(method, state["method"], path)
    if words := of_another_run(state, recipe.fields()):
        Ranks().say(f"{path}: was written by another run than {config_path(run)} describes ({words}); what follows is "
                    "of that other run")
    check_trained_on(state, content, path)
    if device is not None:
        from runtime.device import Device  # here: options are read without PyTorch
        method = Device(device, len(recipe.patch_size)).place(method)
    return Trained(Path(run), recipe, method, kind.data(recipe), content)
