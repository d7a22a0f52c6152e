"""Bad input through the scripts' mains: one line that names the file or option and the remedy, exit code 2.

And nothing of it is executed, or leads to a file outside the output folder.
"""
import errno
import fcntl
import gzip
import json
import os
import pathlib
import shutil
from functools import partial

import h5py
import nibabel as nib
import nrrd
import numpy as np
import pytest
import torch

import benchmark
import demo
import gpu_day
import predict
import prepare_ACDC
import prepare_BraTS
import prepare_folder
import prepare_LA
import reproduce
import test_LA as testing_LA
import test_own as testing_own
import train_ACDC
import train_BraTS
import train_LA
from imaging.scan_files import read_scan_file, save_on_grid
from runtime.files import load_tensors

pytestmark = pytest.mark.usefixtures("shallow", "no_curves")
TRAIN = {"LA": train_LA, "ACDC": train_ACDC, "BraTS2019": train_BraTS}
TINY = ["--labeled", "2", "--labeled-batch", "2", "--unlabeled-batch", "2", "--pre-steps", "1", "--self-steps", "1",
        "--workers", "0", "--device", "cpu"]
PATCH = {"LA": ["--patch-size", "16", "32", "16", "--stride", "16", "16", "16"], "ACDC": ["--patch-size", "32", "32"]}
PATCH["BraTS2019"] = PATCH["LA"]


@pytest.fixture(scope="module")
def _trained(tmp_path_factory):
    return tmp_path_factory.mktemp("trained") / "run"


@pytest.fixture
def run(_trained, phantoms, shallow, no_curves, tmp_path):
    """A finished run on LA, to be damaged; it is trained once."""
    if not _trained.exists():
        train_LA.main([*TINY, *PATCH["LA"], "--data-dir", str(phantoms("LA")), "--out", str(_trained)])
    return shutil.copytree(_trained, tmp_path / "run")


@pytest.fixture
def outside(tmp_path):
    """A folder that no script was told of."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious.txt").write_text("mine", encoding="utf-8")
    return folder


# ---- what is damaged, and the command that meets it: functions of the test's request -> (main, arguments) ----------


def as_list(more):
    """Further arguments; what else a damage returns does not matter."""
    return more if isinstance(more, list) else []


def training(damage, *args, dataset="LA"):
    """A train script on a copy of its phantoms; damage(data folder) may return further arguments. Without any, on them.
    """
    def command(request, folder):
        root = request.getfixturevalue("phantoms")(dataset)
        more = as_list(damage(shutil.copytree(root, folder / "data"))) if damage else []
        root = folder / "data" if damage else root
        return TRAIN[dataset].main, [*TINY, *PATCH[dataset], "--data-dir", root, "--out", folder / "new", *args, *more]
    return command


def option(*args, dataset="LA"):
    return training(None, *args, dataset=dataset)


def scan(*args, place=0, listed="train", **arrays):
    """One scan of a list, by its place, holds these arrays."""
    def damage(root):
        name = (root / f"{listed}.list").read_text(encoding="utf-8").split()[place]
        with h5py.File(root / "2018LA_Seg_Training Set" / name / "mri_norm2.h5", "w") as file:
            for key, array in arrays.items():
                if array is GROUP:
                    file.create_group(key)
                else:
                    file[key] = array
    return training(damage, *args)


def listed(root, place):
    """The file of a scan of LA's train list."""
    name = (root / "train.list").read_text(encoding="utf-8").split()[place]
    return root / "2018LA_Seg_Training Set" / name / "mri_norm2.h5"


def scan_bytes(change):
    def damage(root):
        path = listed(root, 0)
        path.write_bytes(change(path.read_bytes()))
    return training(damage)


def lists(dataset="LA", **contents):
    """Split lists, or what stands in their place, by name: bytes, text, or a function of the text."""
    def damage(root):
        for name, content in contents.items():
            path = root / f"{name}.{'txt' if dataset == 'BraTS2019' else 'list'}"
            text = content(path.read_text(encoding="utf-8")) if callable(content) else content
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return training(damage, dataset=dataset)


def of_run(main, damage, *args):
    """A script on a damaged run; damage(run folder) may return further arguments."""
    def command(request, folder):
        home = request.getfixturevalue("run")
        more = as_list(damage(home))
        return main, ["--run", home, "--device", "cpu", *args, *more]
    return command


on_run = partial(of_run, testing_LA.main)


def resumed(damage, *args):
    """The run has no last.pt and goes on, by its own configuration."""
    def command(request, folder):
        home = request.getfixturevalue("run")
        (home / "last.pt").unlink()
        damage(home)
        return train_LA.main, ["--from-config", home / "config.json", "--out", home, *args]
    return command


def predicted(damage=lambda home: None, source=lambda folder: None, *args):
    """predict.py on damage(run folder) and source(folder of one good scan)."""
    def command(request, folder):
        home, scans = request.getfixturevalue("run"), folder / "scans"
        scans.mkdir()
        nib.save(nib.Nifti1Image(volume()[0], np.eye(4)), scans / "good.nii.gz")
        damage(home)
        more = as_list(source(scans))
        return predict.main, ["--run", home, "--input", scans, "--output", folder / "new", "--device", "cpu", *args,
                              *more]
    return command


def prepared(damage, *args):
    """prepare_folder.py on two labelled scans; damage(images, labels) may return further arguments."""
    def command(request, folder):
        images, labels = folder / "images", folder / "labels"
        for path, k in ((images, 0), (labels, 1)):
            path.mkdir()
            for name in "ab":
                nib.save(nib.Nifti1Image(volume()[k], np.eye(4)), path / f"{name}.nii.gz")
        more = as_list(damage(images, labels))
        return prepare_folder.main, ["--images", images, "--labels", labels, "--output", folder / "new", "--workers",
                                     "1", *args, *more]
    return command


def challenge(main, damage, *args):
    """Another prepare script on damage(folder)."""
    def command(request, folder):
        (folder / "in").mkdir()
        damage(folder)
        return main, ["--input", folder / "in", "--output", folder / "new", "--workers", "1", *args]
    return command


def refusing(command, call, number):
    """The file system refuses a call of `os`."""
    def on_a_bad_disk(request, folder):
        main, args = command(request, folder)

        def refuse(*_, **__):
            raise OSError(number, os.strerror(number))
        request.getfixturevalue("monkeypatch").setattr(os, call, refuse)
        return main, args
    return on_a_bad_disk


def compared(content):
    """A run with itself, its table of tested cases replaced."""
    def damage(home):
        if content is not None:
            (home / "test_test_last.csv").write_bytes(content)
        return ["--compare", home, home]
    return on_run(damage)


# ---- kinds of damage -------------------------------------------------------------------------------------------


GROUP = object()
CUBE = np.zeros((4, 4, 4), np.float32)
TABLE = b"case,class,dice,jaccard,hd95,asd\na,1,0.5,0.5,1,1\n"
UNHARMED = ("previous version is untouched",)


def half(content):
    return content[:len(content) // 2]


def nothing(*_):
    pass


def volume():
    """int16 image and a uint8 label with the classes 0 and 1."""
    image = np.random.default_rng(0).integers(10, 200, (22, 23, 24)).astype(np.int16)
    return image, (image > 100).astype(np.uint8)


def in_config(**changes):
    """Fields of the recipe in config.json; DATASET is that beside it."""
    def damage(home):
        path = home / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["dataset"] = changes.pop("DATASET", config["dataset"])
        config["recipe"] |= changes
        path.write_text(json.dumps(config), encoding="utf-8")
    return damage


def moved_scans(home):
    """A data folder with the lists alone."""
    root = json.loads((home / "config.json").read_text(encoding="utf-8"))["recipe"]["data_dir"]
    return ["--data-dir", shutil.copytree(root, home / "data", ignore=shutil.ignore_patterns("patient*"))]


def written(name, content):
    return lambda home: (home / name).write_bytes(content)


def tensors(name, change):
    """The dict of a checkpoint, changed."""
    def damage(home):
        content = load_tensors(home / name)
        torch.save(change(content) or content, home / name)
    return damage


def halved(name):
    return lambda home: (home / name).write_bytes(half((home / name).read_bytes()))


class Payload:
    """Unpickled by anything but weights_only, it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return pathlib.Path.write_text, (pathlib.Path(self.path), "executed")


def payload(name):
    return lambda home: torch.save({"method": Payload(home.parent / "outside" / "executed")}, home / name)


def keyless(content):
    content["method"].pop(next(iter(content["method"])))


def spoilt(content):
    content["method"][next(iter(content["method"]))].fill_(float("nan"))


def nifti(array, affine=None, suffix=".nii.gz", name="b"):
    """Image b, whatever it was, holds this array."""
    def damage(images, labels=None):
        for path in images.glob(f"{name}.*"):
            path.unlink()
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), images / f"{name}{suffix}")
    return damage


def label(array, affine=None):
    return lambda images, labels: nifti(array, affine)(labels)


def image_bytes(change, suffix=".nii.gz"):
    def damage(images, labels=None):
        nifti(volume()[0], suffix=suffix)(images)
        path = images / f"b{suffix}"
        path.write_bytes(change(path.read_bytes()))
    return damage


def flat(images, labels=None):
    """An affine that puts all planes on one another, which nibabel itself would not write."""
    nifti(volume()[0], suffix=".nii")(images)
    path = images / "b.nii"
    image = nib.load(path, mmap=False)
    image.header["srow_z"], image.header["vox_offset"] = 0, 352
    path.write_bytes(image.header.binaryblock + path.read_bytes()[348:])


def short_nrrd(images, labels=None):
    (images / "b.nii.gz").unlink(missing_ok=True)
    nrrd.write(str(images / "b.nrrd"), volume()[0])
    (images / "b.nrrd").write_bytes(half((images / "b.nrrd").read_bytes()))


def colour():
    return np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])


def record(**changes):
    """A preprocessing.json in the run folder."""
    def damage(home):
        values = {"dataset": "LA", "orientation": "LPS", "normalise": "zscore", "crop": "none"} | changes
        values = {key: value for key, value in values.items() if value != "absent"}
        (home / "preprocessing.json").write_text(json.dumps(values), encoding="utf-8")
    return damage


def linked(*places):
    """Paths below the test's folder that are links out of the output folder."""
    def damage(folder, *_):
        folder = next(parent for parent in (folder, *folder.parents) if (parent / "outside").exists())
        for place in places:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).symlink_to(folder / "outside", target_is_directory=True)
    return damage


def la_case(folder):
    (folder / "in" / "CASE1").mkdir()
    for name, array in zip(("lgemri", "laendo"), volume(), strict=True):
        nrrd.write(str(folder / "in" / "CASE1" / f"{name}.nrrd"), array * (255 if name == "laendo" else 1))


def two(*damages):
    return lambda *paths: [damage(*paths) for damage in damages] and None


def of_scan(make, place=0, key="image"):
    """One scan of the train list is a file in which make(file, key, another HDF5 file with `image`) puts `key`."""
    def damage(root):
        path = listed(root, place)
        other = root / "other.h5"
        shutil.copy(path, other)
        with h5py.File(path, "r+") as file:
            del file[key]
            make(file, key, other)
    return training(damage)


def external_link(file, key, other):
    file[key] = h5py.ExternalLink(str(other), key)


def soft_link(file, key, other):
    file["real"] = CUBE
    file[key] = h5py.SoftLink("/real")


def external_storage(file, key, other):
    file.create_dataset(key, CUBE.shape, CUBE.dtype, external=[(str(other), 0, CUBE.nbytes)])


def virtual(file, key, other):
    layout = h5py.VirtualLayout(CUBE.shape, CUBE.dtype)
    layout[...] = h5py.VirtualSource(str(other), key, CUBE.shape)
    file.create_virtual_dataset(key, layout)


def boundless(file, key, other):
    """A few bytes that say they are 40,000 voxels along each axis."""
    file.create_dataset(key, (40_000,) * 3, "f4", chunks=(64,) * 3)


def pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def first_scan(change):
    return training(lambda root: change(listed(root, 0)))


def unlabelled_test_case(root):
    name = (root / "test.list").read_text(encoding="utf-8").split()[0]
    with h5py.File(root / "2018LA_Seg_Training Set" / name / "mri_norm2.h5", "r+") as file:
        del file["label"]


def delete_label(root):
    name = (root / "train.list").read_text(encoding="utf-8").split()[-1]
    with h5py.File(root / "2018LA_Seg_Training Set" / name / "mri_norm2.h5", "r+") as file:
        del file["label"]


def with_environment(command, **values):
    def in_it(request, folder):
        main, args = command(request, folder)
        for name, value in values.items():
            request.getfixturevalue("monkeypatch").setenv(name, value)
        return main, args
    return in_it


def plain(main, *args):
    """A script without any files."""
    return lambda request, folder: (main, list(args))


def flipped(name):
    """A bit in the middle of a file."""
    def damage(home):
        content = bytearray((home / name).read_bytes())
        content[len(content) // 2] ^= 1
        (home / name).write_bytes(content)
    return damage


def first_lines(name, count):
    return lambda home: (home / name).write_bytes(b"".join((home / name).read_bytes().splitlines(True)[:count]))


def legacy_payload(home):
    """A pickle that is no archive, as PyTorch wrote it long ago."""
    torch.save({"method": Payload(home.parent / "outside" / "executed")}, home / "last.pt",
               _use_new_zipfile_serialization=False)


def over_other_data(change):
    """The run goes on, finished or not, over a changed copy of its data."""
    def command(request, folder):
        home = request.getfixturevalue("run")
        root = shutil.copytree(request.getfixturevalue("phantoms")("LA"), folder / "data")
        change(root)
        return train_LA.main, [*TINY, *PATCH["LA"], "--data-dir", root, "--out", home]
    return command


def another_voxel(root):
    for path in sorted(root.rglob("mri_norm2.h5"))[:1]:
        with h5py.File(path, "r+") as file:
            file["image"][0, 0, 0] += 1


def nrrd_header(*lines, more=b""):
    """Image b is an NRRD file with these lines in its header."""
    def damage(images, labels=None):
        (images / "b.nii.gz").unlink(missing_ok=True)
        head = ["NRRD0004", "type: short", "dimension: 3", "encoding: raw", "endian: little", *lines]
        (images / "b.nrrd").write_bytes("\n".join([*head, "", ""]).encode() + more)
    return damage


def dimensions(suffix):
    """Image b is a NIfTI file that says it has 30,000 voxels along each axis."""
    def damage(images, labels=None):
        nifti(volume()[0], suffix=".nii")(images)
        content = bytearray((images / "b.nii").read_bytes())
        content[42:48] = np.array([30_000] * 3, np.int16).tobytes()
        (images / "b.nii").unlink()
        (images / f"b{suffix}").write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    return damage


def named(name):
    """Scan and label b have another name."""
    def damage(images, labels):
        for folder in (images, labels):
            (folder / "b.nii.gz").rename(folder / f"{name}.nii.gz")
    return damage


def description(**content):
    """An nnU-Net folder: dataset.json beside imagesTr and labelsTr."""
    def damage(images, labels):
        home = images.parent / "nnunet"
        home.mkdir()
        images.rename(home / "imagesTr")
        labels.rename(home / "labelsTr")
        (home / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
        return ["--dataset-json", home / "dataset.json"]
    return damage


def channels_of_run(*names):
    return record(dataset="folder", orientation="RAS", modalities=names)


def unreadable(command, name):
    """A file of this name may not be read by the user; the superuser, who may be testing, may read all."""
    def without_permission(request, folder):
        main, args = command(request, folder)
        access = os.access

        def denied(path, mode, **how):
            return pathlib.Path(path).name != name and access(path, mode, **how)
        request.getfixturevalue("monkeypatch").setattr(os, "access", denied)
        return main, args
    return without_permission


def opened_elsewhere(command):
    """Another program has the first scan open for writing: HDF5 locks it."""
    def while_open(request, folder):
        main, args = command(request, folder)
        file = listed(pathlib.Path(args[args.index("--data-dir") + 1]), 0).open("rb")
        request.addfinalizer(file.close)
        fcntl.flock(file, fcntl.LOCK_EX)
        return main, args
    return while_open


def second_name(path):
    """`path` is another name of somebody's file."""
    path.parent.mkdir(exist_ok=True)
    home = next(parent for parent in path.parents if (parent / "outside").exists())
    os.link(home / "outside" / "precious.txt", path)


def without_label(listed_in, count=1):
    """The last cases of a list have no label."""
    def damage(root):
        for name in (root / f"{listed_in}.list").read_text(encoding="utf-8").split()[-count:]:
            with h5py.File(root / "2018LA_Seg_Training Set" / name / "mri_norm2.h5", "r+") as file:
                del file["label"]
    return damage


def strip_label(path):
    with h5py.File(path, "r+") as file:
        del file["label"]


def rewritten(name, change):
    """change(record of a run) -> its fields that are other ones."""
    def damage(home):
        record = json.loads((home / name).read_text(encoding="utf-8"))
        (home / name).write_text(json.dumps(record | change(record)), encoding="utf-8")
    return damage


def held(path, files=[]):       # noqa: B006  open until the tests end
    """A lock that somebody else holds."""
    path.parent.mkdir()
    files.append(path.open("w", encoding="utf-8"))
    fcntl.flock(files[-1], fcntl.LOCK_EX)


def in_new(change, name):
    """`change` is done to a file of the output folder, before the script starts."""
    def damage(folder, *_):
        home = next(parent for parent in (folder, *folder.parents) if (parent / "outside").exists())
        (home / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        change(home / "new" / name)
    return damage


# ---- the table -------------------------------------------------------------------------------------------------


MADE_AGAIN = "prepare this case again"
AGAIN = "copy or export it again"
RESTORED = "restore the file from a copy, or train again"
BAD = {
    # scans that are trained on: shape, dtype, finiteness, range
    "scan of no bytes": (scan_bytes(lambda content: b""), "mri_norm2.h5: cannot be read", MADE_AGAIN),
    "scan that is text": (scan_bytes(lambda content: b"not HDF5 at all"), "mri_norm2.h5: cannot be read", MADE_AGAIN),
    "scan cut in half": (scan_bytes(half), "mri_norm2.h5: cannot be read", MADE_AGAIN),
    "scan without image": (scan(label=CUBE), "mri_norm2.h5", "with `image` and `label`", MADE_AGAIN),
    "image is a group": (scan(image=GROUP, label=CUBE), "mri_norm2.h5: `image` is a group", MADE_AGAIN),
    "image is one number": (scan(image=np.float32(1), label=CUBE), "`image` is shape ()", MADE_AGAIN),
    "image is empty": (scan(image=h5py.Empty("f4"), label=CUBE), "`image` is shape None", MADE_AGAIN),
    "image without voxels": (scan(image=CUBE[:0], label=CUBE), "`image` is shape (0, 4, 4)", MADE_AGAIN),
    "image of text": (scan(image=np.full((4, 4, 4), b"x"), label=CUBE), "shape (4, 4, 4) of |S1", MADE_AGAIN),
    "image of objects": (scan(image=np.full((4, 4, 4), "x", h5py.string_dtype()), label=CUBE), "of object", MADE_AGAIN),
    "image of complex numbers": (scan(image=CUBE + 1j, label=CUBE), "of complex64", MADE_AGAIN),
    "image of booleans": (scan(image=CUBE > 0, label=CUBE), "of bool", MADE_AGAIN),
    "image of two axes": (scan(image=CUBE[0], label=CUBE[0]), "(4, 4), expected 3 axes and 1", "--in-channels"),
    "image of two channels": (scan(image=np.zeros((2, 4, 4, 4)), label=CUBE), "(2, 4, 4, 4), expected 3 axes and 1",
                              "--in-channels"),
    "image with NaN": (scan(image=CUBE + np.nan, label=CUBE), "NaN or infinite", MADE_AGAIN),
    "image with an infinity": (scan(image=CUBE + np.inf, label=CUBE), "NaN or infinite", MADE_AGAIN),
    "image beyond float32": (scan(image=CUBE + np.float64(1e300), label=CUBE), "NaN or infinite", MADE_AGAIN),
    "unlabelled image with NaN": (scan(place=-1, image=CUBE + np.nan), "mri_norm2.h5: `image` has NaN", MADE_AGAIN),
    "labelled scan without label": (scan(image=CUBE), "with `image` and `label`", MADE_AGAIN),
    "label is a group": (scan(image=CUBE, label=GROUP), "`label` is a group", MADE_AGAIN),
    "label of text": (scan(image=CUBE, label=np.full((4, 4, 4), b"1")), "`label` is shape (4, 4, 4)", MADE_AGAIN),
    "label of another shape": (scan(image=CUBE, label=CUBE[:3]), "`label` has shape (3, 4, 4), `image` (4, 4, 4)",
                               MADE_AGAIN),
    "label with fractions": (scan(image=CUBE, label=CUBE + 0.5), "`label` has fractions", "class numbers 0 to 1"),
    "label with NaN": (scan(image=CUBE, label=CUBE + np.nan), "`label` has fractions or NaN", MADE_AGAIN),
    "label with an infinity": (scan(image=CUBE, label=CUBE + np.inf), "values from inf", "--num-classes"),
    "label below 0": (scan(image=CUBE, label=CUBE.astype(int) - 1), "values from -1 to -1", "expected 0 to 1"),
    "label above the classes": (scan(image=CUBE, label=CUBE + 4), "values from 4.0 to 4.0", "--num-classes"),
    "test scan with a bad label": (scan("--select-on", "test", listed="test", image=CUBE, label=CUBE + 9),
                                   "values from 9.0 to 9.0", "--num-classes"),
    "slice that is a volume": (lists("ACDC", train_slices="patient001_frame01\npatient002_frame01\n"
                                     "patient003_frame01\n"), "patient001_frame01.h5", "expected 2 axes",
                               "--in-channels"),

    # lists: entries, leaks, counts
    "list that is a folder": (training(lambda root: (root / "test.list").unlink() or (root / "test.list").mkdir()),
                              "test.list: cannot be read", "one case per line"),
    "list that is not UTF-8": (lists(train=b"patient\xff\xfe01\n"), "train.list: cannot be read", "UTF-8"),
    "train list of blank lines": (lists(train="\n \n"), "train.list is empty", "one case per line"),
    "list with a way up": (lists(test="../../outside/precious.txt\n"), "test.list: line 1 is '../../outside/precious",
                           "no path"),
    "list with an absolute path": (lists(train=lambda text: f"{text}/etc/passwd\n"), "train.list: line 6", "no path"),
    "list with a sub-folder": (lists("ACDC", val="slices/patient701_frame01\n"), "val.list: line 1", "no path"),
    "case twice in the train list": (lists(train=lambda text: text + text.split()[0]), "listed as labelled and as",
                                     "remove it"),
    "case twice in the test list": (lists(test=lambda text: text * 2), "listed as test and as test", "remove it"),
    "train case in the test list": (lists(test=lambda text: text + "patient001.h5\n"),
                                    "patient001 is listed as labelled and as test", "remove it from the other"),
    "train patient in the validation list": (lists("ACDC", val="patient002_frame02\n"),
                                             "val.list: patient002_frame02 is a scan of patient002", "take one of"),
    "train patient in the test list": (lists("ACDC", test="patient002_frame02\n"),
                                       "test.list: patient002_frame02 is a scan of patient002", "take one of"),
    "validation patient in the test list": (lists("ACDC", val="patient701_frame01\n", test="patient701_frame02\n"),
                                            "test.list: patient701_frame02 is a scan of patient701", "take one of"),
    "train list names a missing case": (lists(train=lambda text: "nobody\n" + text), "nobody/mri_norm2.h5 does not",
                                        "--data-dir"),
    "validation list names a missing case": (lists("ACDC", val="nobody_frame01\n"), "nobody_frame01.h5 does not exist",
                                             "--data-dir"),
    "no labelled case": (option("--labeled", "0"), "--labeled 0", "1 or more"),
    "more labelled cases than listed": (option("--labeled", "6"), "--labeled 6: train.list has 5 cases", "no more"),
    "more labelled patients than listed": (option("--labeled", "5", dataset="ACDC"),
                                           "--labeled 5: train_slices.list has 4 patients", "no more"),
    "labelled cases that were held out": (option("--labeled", "4", "--holdout-test", "2"),
                                          "--labeled 4: train.list has 3 cases after the hold-outs", "no more"),
    "nothing left unlabelled": (option("--labeled", "5"), "--labeled 5 leaves no unlabelled", "--method supervised"),
    "no test cases to select on": (training(lambda root: (root / "test.list").write_bytes(b""), "--select-on", "test"),
                                   "--select-on test", "--holdout-test"),
    **{f"data folder that is {what}, {dataset}": (training(damage, dataset=dataset), "does not exist", "--data-dir")
       for dataset in TRAIN for what, damage in {
           "missing": lambda root: ["--data-dir", root / "gone"],
           "a file": lambda root: ["--data-dir", root / "PHANTOM.md"]}.items()},

    # options
    "unknown preset": (lambda *_: (train_LA.main, ["tiny"]), "preset 'tiny' is unknown", "paper, mini"),
    **{f"unknown option of {script.__name__}": (lambda *_, script=script, word=word: (script.main, [word, "--nope"]),
                                                "--nope", "--help")
       for script, word in ((reproduce, "plan"), (gpu_day, "check"), (benchmark, "metrics"))},
    "unknown method": (option("--method", "vat"), "--method vat: unknown", "cml"),
    "loss of two classes for three": (option("--method", "ict", "--hyper.supervised", "dsq_fg", "--num-classes", "3"),
                                      "--hyper.supervised dsq_fg", "there are 3 classes; choose eq2 or dsq_all"),
    "unknown network": (option("--network", "resnet"), "invalid choice 'resnet' for argument '--network'", "vnet"),
    "network of other axes": (option("--network", "unet"), "--network unet: choose one for 3 axes", "vnet"),
    "unknown device": (option("--device", "gpu"), "--device gpu: unknown", "auto, cpu, cuda"),
    "patch not divisible by 16": (option("--patch-size", "32", "32", "90"), "--patch-size 32 32 90",
                                  "divisible by 16; nearest is 32 32 96"),
    "patch of nothing": (option("--patch-size", "0", "16", "16"), "--patch-size 0 16 16", "1 or more"),
    "stride with gaps": (option("--stride", "16", "48", "16"), "--stride 16 48 16: leaves gaps", "no more than that"),
    **{f"{' '.join(args)}": (option(*args), args[0], remedy) for *args, remedy in (
        ("--beta", "1", "between 0 and 1"), ("--beta", "0", "between 0 and 1"), ("--beta", "1/17", "a voxel at least"),
        ("--labeled-batch", "3", "both must be even"), ("--unlabeled-batch", "0", "1 or more"),
        ("--self-steps", "0", "1 or more"), ("--pre-steps", "-1", "0 or more"), ("--workers", "-1", "0 or more"),
        ("--eval-every", "0", "1 or more"), ("--checkpoint-steps", "0", "1 or more"),
        ("--checkpoint-minutes", "0", "above 0"), ("--num-classes", "1", "2 to 255"),
        ("--num-classes", "300", "2 to 255"), ("--in-channels", "0", "1 or more"), ("--seed", "-1", "0 or more"),
        ("--seed", str(2 ** 63), "below 2^63"), ("--lr", "0", "above 0"), ("--lr", "inf", "above 0"),
        ("--momentum", "1", "below 1"), ("--weight-decay", "-1", "0 or more"), ("--lambda-dis", "nan", "0 or more"),
        ("--holdout-val", "-1", "0 or more"))},
    "out is a file": (training(lambda root: ["--out", root / "PHANTOM.md"]), "PHANTOM.md exists and is no run folder",
                      "--out"),
    "out below a file": (training(lambda root: ["--out", root / "PHANTOM.md" / "run"]), "cannot be made", "another"),

    # config.json of a run
    "run that is missing": (on_run(lambda home: shutil.rmtree(home)), "config.json does not exist", "train script"),
    "run that is a file": (on_run(lambda home: ["--run", home / "log.csv"]), "log.csv: is a file", "give the folder"),
    "no run named": (lambda *_: (testing_LA.main, []), "--run is missing", "--compare"),
    "config cut in half": (on_run(halved("config.json")), "config.json: cannot be read", RESTORED),
    "config of no bytes": (on_run(written("config.json", b"")), "config.json: cannot be read", RESTORED),
    "config not UTF-8": (on_run(written("config.json", b'{"\xff')), "config.json: cannot be read", RESTORED),
    "config nested without end": (on_run(written("config.json", b"[" * 100_000)), "config.json: cannot be", RESTORED),
    "config that is a list": (on_run(written("config.json", b"[1]")), "config.json: holds a list", RESTORED),
    "config without recipe": (on_run(written("config.json", b'{"dataset": "LA"}')), "config.json is damaged (no",
                              RESTORED),
    "config with a number for resumed": (on_run(written("config.json", b'{"dataset": "", "recipe": {}, "resumed": 5}')),
                                         "config.json is damaged (resumed is no list)", RESTORED),
    "config of another data set": (on_run(in_config(DATASET="ACDC")), "config.json belongs to ACDC, not to LA",
                                   "use that data set's script"),
    "config of an unknown data set": (predicted(in_config(DATASET="CT")), "config.json: the data set is", RESTORED),
    "config with unknown fields": (on_run(in_config(gamma=1, alpha=2)), "config.json: unknown fields alpha, gamma",
                                   "remove them"),
    **{f"config with {name} {value!r}": (on_run(in_config(**{name: value})), f"config.json: {name} is", expected)
       for name, value, expected in (
           ("lr", "fast", "float"), ("beta", [0.5], "float"), ("labeled", 2.5, "int"), ("labeled", True, "int"),
           ("method", None, "Literal"), ("patch_size", [32, 32], "tuple"), ("patch_size", "32", "tuple"),
           ("fusion", "max", "Literal"), ("amp", 1, "bool"), ("data_dir", 7, "Path"))},
    "config with a patch of 90": (on_run(in_config(patch_size=[32, 32, 90])), "config.json: --patch-size 32 32 90",
                                  "nearest is"),
    "config with an unknown method": (on_run(in_config(method="vat")), "config.json: method is", "cml", RESTORED),
    "repetition of no run": (option("--from-config", "nowhere/config.json"), "nowhere/config.json does not exist",
                             "train script"),
    "repetition of nothing": (lambda *_: (train_LA.main, ["--from-config"]), "--from-config", "config.json of a run"),
    "repetition with a preset": (lambda *_: (train_LA.main, ["mini", "--from-config", "x"]), "mini --from-config x",
                                 "leave one of them out"),
    "repetition with another script": (of_run(lambda args: train_ACDC.main(["--from-config", args[1]]), nothing),
                                       "belongs to LA, not to ACDC", "use that data set's script"),
    "repetition of an unknown preset": (resumed(in_config(preset="huge")), "preset is 'huge', expected one of paper",
                                        RESTORED),

    # checkpoints and logs of a run
    "checkpoint that is missing": (on_run(nothing, "--checkpoint", "best"), "best.pt does not exist",
                                   "the run has last, pretrained"),
    "checkpoint of no bytes": (on_run(written("last.pt", b"")), "last.pt is damaged", RESTORED),
    "checkpoint that is a folder": (on_run(lambda home: (home / "last.pt").unlink() or (home / "last.pt").mkdir()),
                                    "last.pt is damaged", RESTORED),
    "checkpoint that is text": (on_run(written("last.pt", b"no checkpoint\n")), "last.pt is damaged", RESTORED),
    "checkpoint cut in half": (on_run(halved("last.pt")), "last.pt is damaged", RESTORED),
    "checkpoint with code": (on_run(payload("last.pt")), "no checkpoint of this program", "not be trusted", RESTORED),
    "checkpoint with code, predict": (predicted(payload("last.pt")), "last.pt is no checkpoint of this", RESTORED),
    "checkpoint with code, self-training": (resumed(lambda home: [
        tensors("checkpoint.pt", lambda content: content.update(stage=1, step=0))(home),
        payload("pretrained.pt")(home)]), "pretrained.pt is no checkpoint of this", RESTORED),
    "checkpoint that is a list": (on_run(tensors("last.pt", lambda content: [1])), "it has no method", RESTORED),
    "checkpoint without method": (on_run(tensors("last.pt", lambda content: {"step": 1})), "has no method", RESTORED),
    "checkpoint with NaN": (on_run(tensors("last.pt", spoilt)), "last.pt is damaged (NaN", RESTORED),
    "checkpoint whose method is a number": (on_run(tensors("last.pt", lambda content: {"method": 3})),
                                            "last.pt does not fit the network", "--network"),
    "checkpoint of another method": (on_run(in_config(method="supervised")), "does not fit the network", "--method"),
    "checkpoint of more classes": (on_run(in_config(num_classes=3)), "does not fit the network",
                                   "is (2, 2, 1, 1, 1), expected (3, 2, 1, 1, 1)", "--num-classes"),
    "checkpoint of more channels": (on_run(in_config(in_channels=2)), "does not fit the network", "--in-channels"),
    "checkpoint without a key": (on_run(tensors("last.pt", keyless)), "missing networks.subnets.0", "--network"),
    "checkpoint with a number for a tensor": (on_run(tensors("last.pt", lambda content: content["method"].update(
        {next(iter(content["method"])): 3}))), "is no tensor, expected", "--network"),
    "checkpoint to resume of another network": (resumed(tensors("checkpoint.pt", keyless)), "missing networks",
                                                "checkpoint.pt does not fit the network", "--network"),
    "checkpoint to resume of another optimiser": (
        resumed(tensors("checkpoint.pt", lambda content: content["optimizer"].update(param_groups=[]))),
        "checkpoint.pt does not fit the optimiser", RESTORED),
    "log that is not UTF-8": (resumed(written("log.csv", b"stage,step\n\xff,1\n")), "log.csv is damaged", "restore it"),
    "log with a short line": (resumed(written("log.csv", b"stage,step\npre\n")), "log.csv is damaged (line 2 has 1",
                              "restore it"),
    "log of other stages": (resumed(written("log.csv", b"stage,step\nwarm,1\n")), "log.csv is damaged ('warm'",
                            "restore it"),
    "log with a step that is none": (resumed(written("val.csv", b"stage,step\npre,one\n")), "val.csv is damaged",
                                     "restore it"),
    "split without cases": (on_run(nothing, "--split", "val"), "--split val: this run has no such cases",
                            "choose --split test"),
    "split that names missing cases": (on_run(moved_scans), "mri_norm2.h5 does not exist", "--data-dir"),
    "distances in mm without a spacing": (on_run(nothing, "--spacing", "mm"), "mri_norm2.h5: holds no spacing",
                                          "--spacing at voxel"),
    "comparison of a run with itself": (compared(TABLE), "--compare takes two or more", "different names"),
    "comparison with an empty table": (compared(b""), "test_test_last.csv is not", "test that run again"),

    # scans to prepare or to segment
    **{what: (prepared(damage), file, found, remedy) for what, damage, file, found, remedy in (
           ("NIfTI cut in half", image_bytes(half, ".nii"), "b.nii", "cannot be read", AGAIN),
           ("gzip cut in half", image_bytes(half), "b.nii.gz", "cannot be read", AGAIN),
           ("gzip of no NIfTI", image_bytes(lambda _: gzip.compress(b"scan" * 200)), "b.nii.gz", "cannot be", AGAIN),
           ("gzip with a wrong sum", image_bytes(lambda content: content[:-8] + bytes(8)), "b.nii.gz", "cannot", AGAIN),
           ("NIfTI of no bytes", image_bytes(lambda _: b""), "b.nii.gz", "cannot be read", AGAIN),
           ("NRRD cut in half", short_nrrd, "b.nrrd", "cannot be read", AGAIN),
           ("4D", nifti(np.zeros((5, 5, 5, 2), np.int16)), "b.nii.gz", "is 4D (5, 5, 5, 2)", "one file per volume"),
           ("2D", nifti(np.zeros((5, 5), np.int16)), "b.nii.gz", "is 2D (5, 5)", "export it as one"),
           ("NaN", nifti(np.full((5, 5, 5), np.nan, np.float32)), "b.nii.gz", "has 125 NaN", "nan_to_num"),
           ("colours", nifti(colour()), "b.nii.gz", "expected one number per voxel", "greyscale"),
           ("complex numbers", nifti(np.ones((5, 5, 5), np.complex64)), "b.nii.gz", "expected one number", "greyscale"),
           ("one value", nifti(np.full((22, 23, 24), 3, np.int16)), "b.nii.gz", "all voxels are 3", "export it again"),
           ("singular affine", flat, "b.nii", "has no usable affine", "export it again"))},
    "gzip cut in half, predict": (predicted(source=image_bytes(half)), "b.nii.gz: cannot be read", AGAIN),
    "4D, predict": (predicted(source=nifti(np.zeros((5, 5, 5, 2), np.int16))), "b.nii.gz: is 4D",
                        "one file per volume"),
    "label without foreground": (prepared(label(np.zeros((22, 23, 24), np.uint8))), "b.nii.gz: is empty",
                                 "--allow-empty"),
    "label with fractions, prepare": (prepared(label(np.full((22, 23, 24), 0.5, np.float32))), "label value 0.5",
                                      "expected whole numbers"),
    "label with 7": (prepared(label(volume()[1] * 7)), "b.nii.gz: has the label value 7, expected only 0, 1",
                     "--label-map"),
    "label of another shape, prepare": (prepared(label(np.ones((22, 23, 8), np.uint8))), "has shape (22, 23, 8)",
                                        "resample it"),
    "label on another grid": (prepared(label(volume()[1], np.diag([2, 1, 1, 1.0]))), "affine puts it up to",
                              "resample it"),
    "label of no scan": (prepared(lambda images, labels: (images / "b.nii.gz").unlink()), "b.nii.gz: has no scan",
                         "rename or remove"),
    "no labels": (prepared(lambda images, labels: [path.unlink() for path in labels.iterdir()] and None),
                  "no scan has a label", "its scan's file name"),
    "no labels option": (lambda request, folder: (prepare_folder.main, ["--images", folder]), "--images and --labels",
                         "--help"),
    "no labels folder": (prepared(lambda images, labels: ["--labels", labels / "gone"]), "gone: there is no such",
                         "folder"),
    **{f"{' '.join(args)}, prepare": (prepared(lambda images, labels: None, *args), found, remedy)
       for args, found, remedy in (
           (["--label-map", "7"], "--label-map 7", "255:1"), (["--label-map", "0:1:2"], "--label-map 0:1:2", "255:1"),
           (["--label-map", "1:9", "--num-classes", "2"], "--label-map 1:9", "0 to 1"),
           (["--label-map", "1:5"], "the labels have the values 0, 1", "--label-map"),
           (["--num-classes", "0"], "--num-classes 0", "2 to 255"),
           (["--num-classes", "300"], "--num-classes 300", "2 to 255"),
           (["--spacing", "0", "1", "1"], "--spacing 0.0 1.0 1.0", "above 0"),
           (["--spacing", "nan", "1", "1"], "--spacing nan 1.0 1.0", "above 0"),
           (["--spacing", "1", "1e-9", "1"], "--spacing 1.0 1e-09 1.0", "0.001 to 100"),
           (["--spacing", "500", "500", "500"], "--spacing 500.0 500.0 500.0", "0.001 to 100"),
           (["--spacing", "1", "1", "inf"], "--spacing 1.0 1.0 inf", "0.001 to 100"),
           (["--spacing", "30", "30", "30"], "22 x 23 x 24, expected 2 an axis", "choose a finer spacing"),
           (["--spacing", "0.002", "0.002", "0.002"], "voxels need about", "choose a coarser spacing"),
           (["--holdout", "2"], "--holdout 2", "one must be left"), (["--holdout", "-1"], "--holdout -1", "0 or more"),
           (["--workers", "0"], "--workers 0", "1 or more"))},
    **{f"dataset.json {what}": (prepared(lambda images, labels, content=content: [
        (images / "dataset.json").write_bytes(content.encode()), "--dataset-json", images / "dataset.json"][1:]),
        "dataset.json: ", "give --images and --labels") for what, content in {
            "cut": "{", "that is a list": "[1]", "without labels": "{}", "with other labels": '{"labels": [1]}',
            "with no number": '{"labels": {"a": "b"}}'}.items()},
    "dataset.json that is missing": (prepared(lambda *_: ["--dataset-json", "none.json"]), "none.json: cannot be read",
                                     "give --images and --labels"),
    **{f"{main.__module__} of {what}": (challenge(main, damage), found, remedy)
       for main in (prepare_LA.main, prepare_ACDC.main, prepare_BraTS.main)
       for what, damage, found, remedy in (
           ("no folder", lambda folder: (folder / "in").rmdir(), "in: there is no such folder", "in"),
           ("an empty folder", nothing, "no scans found there", "--help"),
           ("a file", lambda folder: (folder / "in").rmdir() or (folder / "in").touch(), "in: is no folder",
            "give the one that holds it"))},
    **{f"--modalities {value}": (challenge(prepare_BraTS.main, nothing, "--modalities", value), "modalities", "endings")
       for value in ("flair,", "flair,flair", "../flair")},
    "preparation into a file": (challenge(prepare_LA.main, two(la_case, lambda folder: (folder / "new").touch())),
                                "new: this folder cannot be made", "another"),
    "record of other preparation": (challenge(prepare_LA.main, two(la_case, lambda folder: (folder / "new").mkdir() or
        (folder / "new" / "preprocessing.json").write_bytes(b"{"))), "preprocessing.json: is no preprocessing record",
        "prepare the data again"),

    # predictions
    "input that is missing": (predicted(nothing, lambda scans: ["--input", scans / "gone"]), "gone does not exist",
                              ".nii.gz"),
    "input without scans": (predicted(nothing, lambda scans: (scans / "good.nii.gz").unlink()), "has no scan", ".nrrd"),
    "input that is no scan": (predicted(in_config(), lambda scans: ["--input", written("a.txt", b"")(scans) or
                                                                    scans / "a.txt"]), "has no scan", ".nrrd"),
    "output that is a file": (predicted(nothing, lambda scans: ["--output", scans / "good.nii.gz"]),
                              "good.nii.gz: this folder cannot be made", "another"),
    **{f"record {what}": (predicted(record(**changes)), "preprocessing.json: is no preprocessing record", found,
                          "prepare the data again") for what, changes, found in (
        ("without orientation", {"orientation": "absent"}, "orientation"),
        ("with a number for orientation", {"orientation": 3}, "orientation is 3"),
        ("with unknown crop", {"crop": "banana"}, "crop is"), ("with other labels", {"labels": {"x": 1}}, "labels is"),
        ("with a list of labels", {"labels": [1]}, "labels is"))},
    **{f"record with {what}": (predicted(record(**changes)), "preprocessing.json: is no preprocessing record", found)
       for what, changes, found in (
           ("two axes", {"orientation": "LP"}, "three letters"), ("an axis twice", {"orientation": "LRS"}, "three let"),
           ("spacing 0", {"spacing": [1, 1, 0]}, "above 0"), ("unknown fields", {"smooth": 1}, "unknown fields smooth"),
           ("a way up", {"modalities": ["../t1"]}, "endings"), ("class 256", {"labels": {"1": 256}}, "0 to 254"))},
    **{f"record of spacing {spacing}": (predicted(record(spacing=[spacing] * 3)), found, remedy)
       for spacing, found, remedy in (
           (1e-9, "spacing (1e-09, 1e-09, 1e-09)", "above 0"), (101, "spacing (101.0, ", "above 0"),
           (50, "1 x 1 x 1 voxels would be left", "finer spacing"),
           (0.002, "voxels need about", "coarser spacing"))},
    **{f"weights of {value}": (predicted(tensors("last.pt", lambda content, value=value: [
        tensor.fill_(value) for tensor in content["method"].values() if tensor.is_floating_point()] and content)),
        "probabilities are not numbers", "log.csv") for value in (1e20, 3e38)},
    "record cut": (predicted(written("preprocessing.json", b"{")), "preprocessing.json: is no preprocessing record",
                   "prepare the data again"),

    # what leads elsewhere, and what is said to be larger than it is
    **{f"{key} is {what}": (of_scan(make, place, key), f"mri_norm2.h5: `{key}`", found, MADE_AGAIN)
       for what, make, found in (
           ("an external link", external_link, "is a link to somewhere else"),
           ("a soft link", soft_link, "is a link to somewhere else"),
           ("in external storage", external_storage, "lies in other files"),
           ("a virtual data set", virtual, "lies in other files"))
       for key, place in (("image", 0), ("label", 1))},
    "unlabelled image is an external link": (of_scan(external_link, -1), "is a link to somewhere else", MADE_AGAIN),
    **{f"scan {place + 1} of 40,000 voxels per axis":
        (of_scan(boundless, place), "need about", "shorten the train list")
       for place in range(5)},
    "scan that is a pipe": (first_scan(pipe), "mri_norm2.h5 does not exist", "--data-dir"),
    "scan that is a folder": (first_scan(lambda path: path.unlink() or path.mkdir()), "does not exist", "--data-dir"),
    "test case without a label": (training(unlabelled_test_case), "is a test case without `label`", "--holdout-test"),
    "held-out case without a label": (training(lambda root: [delete_label(root), "--holdout-test", "1"][1:]),
                                      "is a test case without `label`", "--holdout-test"),

    # the command line
    **{f"{main.__module__} --banana": (plain(main, *args, "--banana", "3"), "Unrecognized options: --banana", "--help")
       for main, args in ((train_LA.main, []), (train_ACDC.main, ["mini"]), (train_BraTS.main, []),
                          (testing_LA.main, ["--run", "x"]),
                          (predict.main, ["--run", "x", "--input", "x", "--output", "x"]),
                          *((main, ["--input", "x"]) for main in (prepare_LA.main, prepare_ACDC.main,
                                                                  prepare_BraTS.main)), (prepare_folder.main, []))},
    "an option that is nearly right": (plain(train_LA.main, "--labelled", "4"), "--labelled", "Perhaps you meant",
                                       "--labeled"),
    **{f"{main.__module__} of nothing": (plain(main), "Missing", missing, "--help")
       for main, missing in ((predict.main, "--run"), (prepare_LA.main, "--input"), (prepare_ACDC.main, "--input"),
                             (prepare_BraTS.main, "--input"))},
    **{f"option without a value: {' '.join(args)}": (plain(main, *args), args[-1], found)
       for main, *args, found in (
           (train_LA.main, "--labeled", "Missing value"), (testing_LA.main, "--run", "Missing value"),
           (train_LA.main, "--data-dir", "the folder with the scans"), (train_LA.main, "--method", "name of a method"),
           (predict.main, "--input", "Missing value"))},
    **{f"option of another kind: {' '.join(args)}": (plain(train_LA.main, *args), args[0], found)
       for *args, found in (
           ("--labeled", "x", "invalid literal"), ("--lr", "fast", "could not convert"), ("--beta", "1/0", "2/3"),
           ("--select-on", "all", "Expected one of"), ("--patch-size", "32", "Expected 3 values"))},
    **{f"patch of one voxel at the bottleneck, {dataset}": (
        option("--patch-size", *["16"] * axes, *["--stride", "8", "8", "8"] * (axes == 3), dataset=dataset),
        f"--patch-size {' '.join(['16'] * axes)}", "batch norm needs two values", "larger patch or batch")
       for dataset, axes in (("LA", 3), ("ACDC", 2))},
    **{" ".join(f"{name}={value}" for name, value in values.items()): (with_environment(option(), **values), found,
                                                                      "torchrun")
       for found, values in (
           ("RANK=abc: expected a whole number", {"RANK": "abc"}), ("RANK=-1", {"RANK": "-1"}),
           ("LOCAL_RANK=", {"LOCAL_RANK": ""}), ("WORLD_SIZE=two", {"WORLD_SIZE": "two"}),
           ("WORLD_SIZE=2 without RANK and LOCAL_RANK", {"WORLD_SIZE": "2"}),
           ("MASTER_ADDR expected", {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}))},

    # runs over other data, runs that lost something
    "run over a changed scan": (over_other_data(another_voxel), "holds a run on other data", "--out"),
    "run over a shorter list": (over_other_data(lambda root: (root / "train.list").write_bytes(b"\n".join(
        (root / "train.list").read_bytes().split()[:-1]))), "unlabelled case 3 was patient005, is none", "--data-dir"),
    "run over another preparation": (over_other_data(lambda root: (root / "preprocessing.json").write_bytes(json.dumps(
        {"dataset": "LA", "orientation": "LPS", "normalise": "minmax"}).encode())),
        "preprocessing: dataset was None, is LA"),
    **{f"record of data {what}": (resumed(written("data.json", content)), "data.json", "delete it and go on unchecked")
       for what, content in (("cut", b"{"), ("that is a list", b"[1]"), ("without cases", b'{"preprocessing": null}'),
                             ("of other types", b'{"preprocessing": null, "cases": {"labelled": ["a"]}}'))},
    **{f"log {what}": (resumed(first_lines("log.csv", count)), "log.csv is damaged", "restore it from a copy")
       for what, count in (("of no bytes", 0), ("of a heading", 1), ("without its last row", 2))},
    "checkpoint with a flipped bit": (on_run(flipped("last.pt")), "last.pt is damaged", "check sum", RESTORED),
    "checkpoint with a flipped bit, predict": (predicted(flipped("last.pt")), "last.pt is damaged", RESTORED),
    "checkpoint with a flipped bit, pretrained": (on_run(flipped("pretrained.pt"), "--checkpoint", "pretrained"),
                                                  "pretrained.pt is damaged", "check sum", RESTORED),
    "checkpoint with code, no archive": (on_run(legacy_payload), "last.pt is damaged or no checkpoint", RESTORED),
    "board that is a link": (resumed(lambda home: shutil.rmtree(home / "tb") or linked("run/tb")(home)), "leads out of",
                             "remove that link"),

    # scans that lead elsewhere, or say that they are huge; names, channels and lists
    **{f"NRRD {what}": (prepared(nrrd_header(*lines)), "b.nrrd: ", *found) for what, lines, found in (
        ("of a system file", ("sizes: 4 4 4", "data file: /etc/passwd"), ("in another file, /etc/passwd", "one file")),
        ("of a file beside it", ("sizes: 4 4 4", "datafile: a.nii.gz"), ("a.nii.gz holds more bytes", AGAIN)),
        ("of a list of files", ("sizes: 4 4 4", "data file: LIST", "/etc/passwd"),
            ("in another file, LIST", "export the scan as one file")),
        ("of a numbered list", ("sizes: 4 4 4", "data file: a%d.raw 1 4 1"), ("in another file", "export")),
        ("of 40,000 voxels per axis", ("sizes: 40000 40000 40000",), ("40000 x 40000 x 40000 voxels", "export it")),
        ("in the scanner's space", ("sizes: 4 4 4", "space: scanner-xyz"), ("'scanner-xyz'", "left-posterior")),
        ("in a space of nobody", ("sizes: 4 4 4", "space: right-up"), ("'right-up'", "export it in one of these")))},
    "NRRD of a system file, predict": (predicted(source=nrrd_header("sizes: 4 4 4", "data file: /etc/passwd")),
                                       "b.nrrd: its voxels are in another file", "one file"),
    **{f"NIfTI{suffix} of 30,000 voxels per axis": (prepared(dimensions(suffix)), "30000 x 30000 x 30000 voxels",
                                                  "crop or resample") for suffix in (".nii", ".nii.gz")},
    "NIfTI of 30,000 voxels per axis, predict": (predicted(source=dimensions(".nii")), "b.nii: has 30000 x 30000",
                                                "crop or resample"),
    **{f"{what}, {name}": (command(change), "is no regular file", ".nrrd")
       for what, change in (("pipe", pipe), ("folder", lambda path: path.unlink(missing_ok=True) or path.mkdir()))
       for name, command in {
           "prepare": lambda change: prepared(lambda images, labels: change(images / "b.nii.gz")),
           "predict": lambda change: predicted(source=lambda scans: change(scans / "b.nii.gz"))}.items()},
    **{f"scan named {name!a}": (prepared(named(name)), "cannot be a case name", "rename")
       for name in (" b", "b ", "b.h5", "b\u2028c", "caf\udce9", "b\tc")},
    "dataset.json of 10^12 classes": (prepared(description(labels={"background": 0, "x": 10 ** 12})),
                                      "dataset.json: cannot be used", "2 to 255"),
    "dataset.json of one class": (prepared(description(labels={"background": 0})), "names 1 classes", "2 to 255"),
    "dataset.json of two channels and scans of one": (prepared(description(
        labels={"background": 0, "x": 1}, channel_names={"0": "T1", "1": "T2"})), "is 3D", "expected 2 channels"),
    **{f"dataset.json with {what}": (prepared(description(**{"labels": {"background": 0, "x": 1}} | content)), found,
                                     remedy) for what, content, found, remedy in (
        ("a training list of a missing scan", {"training": ["imagesTr/c.nii.gz"]}, "c.nii.gz: is missing",
         "take it off"),
        ("a training list of a missing label", {"training": [{"image": "imagesTr/a.nii.gz", "label": "a.nii.gz"}]},
         "a.nii.gz: is missing", "take it off"),
        ("a training list of numbers", {"training": [1, 2]}, "cannot be used", "give --images"),
        ("a case twice", {"training": [{"image": "imagesTr/a.nii.gz"}] * 2}, "lists a twice", "take one of them off"),
        ("paths that are missing", {"dataset": {"a": {"images": ["x.nii.gz"], "label": "y.nii.gz"}}},
         "x.nii.gz: is missing", "take it off"),
        ("paths without images", {"dataset": {"a": {"label": "y.nii.gz"}}}, "has no 'images'", "give --images"),
        ("an odd case name", {"dataset": {"../a": {"images": ["imagesTr/a.nii.gz"]}}}, "cannot be a case name",
         "rename"),
        ("cases of one and of two images", {"dataset": {
            "a": {"images": ["imagesTr/a.nii.gz"] * 2, "label": "labelsTr/a.nii.gz"},
            "b": {"images": ["imagesTr/a.nii.gz"] * 3}}}, "a has 2 images, expected 3", "one for each channel"),
        ("an unknown ending", {"file_ending": ".png"}, "is .png", "convert the files"),
        ("an ending that no file has", {"file_ending": ".nrrd"}, "file_ending .nrrd", "4 .nii.gz such as a.nii.gz"),
        ("an ignore label that fills the label", {"labels": {"background": 0, "x": 2, "ignore": 1}},
         "is empty, all voxels are background", "--allow-empty"),
        ("a region without values", {"labels": {"background": 0, "x": []}}, "the values of 'x' are []",
         "give --images"),
        ("a negative value", {"labels": {"background": 0, "x": -1}}, "the values of 'x' are [-1]", "give --images"),
        ("words for values", {"labels": {"background": 0, "x": "one"}}, "cannot be used", "give --images"),
        ("other values", {"labels": {"background": 0, "x": 3}}, "has the label value 1, expected only 0, 3",
         "--label-map"),
        ("channels in a list", {"channel_names": ["T1"]}, "cannot be used", "give --images"))},
    **{f"class names {' '.join(names)}": (prepared(nothing, "--class-names", *names), f"{len(names)} names, expected 1",
                                          "but the background") for names in (["a", "b"], ["a", "b", "c"])},
    **{f"the class name {name!a}": (prepared(nothing, "--class-names", name), "letters that can be seen", "a name")
       for name in (" ", "a\tb")},
    "one folder of scans and labels": (prepared(lambda images, labels: ["--labels", images]), "cannot be told apart",
                                       "_seg", "2 .nii.gz such as a.nii.gz"),
    **{f"labels of {axes} axes": (prepared(lambda images, labels, shape=shape: [
        nifti(np.ones(shape, np.uint8), name=name)(labels) for name in "ab"] and None), "no label can be read", found)
       for axes, shape, found in ((2, (33, 34), "is 2D"), (4, (33, 34, 35, 2), "is 4D"))},
    "label that is a prediction": (prepared(lambda images, labels: save_on_grid(
        labels / "b.nii.gz", volume()[1].astype(np.uint8), read_scan_file(images / "b.nii.gz"), "0123456789abcdef")),
        "b.nii.gz: is a label map of predict.py", "--accept-predictions"),
    **{f"slices named {name}": (lists("ACDC", train_slices=f"{name}\n"), f"train_slices.list: {found}", "rename")
       for name, found in (("p1_1", "p1_1 does not end in its slice"), ("p1_z3", "p1_z3 does not end in its slice"),
                           ("p1_02_slice_3", "p1_02_slice_3 does not say which patient it is of"),
                           ("p1_diastole_slice_3", "p1_diastole_slice_3 does not say which patient it is of"))},
    "empty label, LA": (challenge(prepare_LA.main, two(la_case, lambda folder: nrrd.write(
        str(folder / "in/CASE1/laendo.nrrd"), 0 * volume()[1]))), "laendo.nrrd: is empty", "--allow-empty"),
    "channel that is not there": (prepared(nothing, "--channels", "7"), "--channels 7: no file name ends in _0007"),
    "record of lists that is none": (prepared(lambda images, labels: (images.parent / "new").mkdir() or
        (images.parent / "new" / "lists.json").write_bytes(b"[")), "lists.json: cannot be read", "remove it"),
    "every labelled case in the user's test list": (prepared(lambda images, labels: (images.parent / "new").mkdir() or
        (images.parent / "new" / "test.list").write_bytes(b"a\nb\n")), "no case with a label is left", "no list was"),

    # predictions
    "output that is the input": (predicted(nothing, lambda scans: ["--output", scans]), "is the folder of the scans",
                                 "name another"),
    "output that is the input, forced": (predicted(nothing, lambda scans: ["--output", scans, "--force"]),
                                         "is the folder of the scans", "name another"),
    "output over the scan": (predicted(nothing, lambda scans: ["--input", scans / "good.nii.gz", "--output", scans]),
                             "good.nii.gz is there, and is a scan", "another folder"),
    "outputs of one name": (predicted(nothing, lambda scans: [nifti(volume()[0], name="good_disagreement")(scans),
                                                              "--disagreement"][1:]), "would both be written there",
                            "rename"),
    "output of something else": (predicted(nothing, lambda scans: (scans.parent / "new").mkdir() or (
        scans.parent / "new" / "good.nii.gz").write_bytes(b"mine")), "good.nii.gz: was made by another run", "--force"),
    "run of two channels in its record": (predicted(channels_of_run("0000", "0001")), "names 2 channels", RESTORED),
    "scan of another channel": (predicted(channels_of_run("0000"), lambda scans: (scans / "good.nii.gz").rename(
        scans / "good_0001.nii.gz") and None), "good_0001.nii.gz: is another channel by its name", "leave it out"),

    # a way out of the output folder
    "prepared folder that is a link": (challenge(prepare_LA.main, two(la_case, linked("new/2018LA_Seg_Training Set"))),
                                       "leads out of", "remove that link"),
    "prepared case that is a link": (prepared(linked("new/a", "new/b")), "leads out of", "remove that link"),
    "predictions that are a link": (on_run(linked("run/predictions"), "--save-predictions"), "leads out of",
                                    "remove that link"),

    # what may not be read, or has no end: pipes where files are expected, other users' files, files in use
    **{f"pipe: {name} of a run, {what}": (command(lambda home, name=name: pipe(home / name)), name,
                                         "is no regular file")
       for what, command, names in (
           ("test", on_run, ("config.json", "last.pt")),
           ("predict", predicted, ("config.json", "last.pt", "preprocessing.json")),
           ("resume", resumed, ("checkpoint.pt", "log.csv", "val.csv", "data.json"))) for name in names},
    **{f"pipe: {name}": (training(lambda root, name=name: pipe(root / name)), name, "is no regular file")
       for name in ("train.list", "test.list", "preprocessing.json")},
    "pipe: val.list": (training(lambda root: pipe(root / "val.list"), dataset="ACDC"), "val.list", "no regular file"),
    "pipe: table to compare": (on_run(lambda home: [pipe(home / "test_test_last.csv"), "--compare", home,
                                                    shutil.copytree(home, home.parent / "other", ignore=lambda *_: [
                                                        "test_test_last.csv"])][1:]), "csv", "is no regular file"),
    "pipe: config.json to repeat": (training(lambda root: [pipe(root / "config.json"), "--from-config",
                                                           root / "config.json"][1:]), "is no regular file"),
    "pipe: lists.json": (prepared(in_new(pipe, "lists.json")), "lists.json", "is no regular file"),
    **{f"pipe: {name} of own data": (prepared(in_new(pipe, name), "--num-classes", "2"), name.split("/")[-1],
                                     "is no regular file", "remove it")
       for name in ("val.list", "to_test.list", "train.list", "test.list", "plan.json", "a/mri_norm2.h5")},
    **{f"training cases of another run: {name}": (predicted(rewritten("training_cases.json", change)),
                                                  "training_cases.json", f"{name} of", "are not those of", RESTORED)
       for name, change in {
           "volumes": lambda record: {"volumes": {"a": [1.0, 2.0]}}, "border": lambda record: {"border": {"a": []}},
           "components": lambda record: {"components": record["components"] | {"b": [1, 1, 1]}},
           "quantiles": lambda record: {"quantiles": {"a": [[0.0] * 9] * 2}},
           "pairs": lambda record: {"pairs": {"nobody": []}},
           "voxel_sizes": lambda record: {"voxel_sizes": {"a": [1.0, 1.0]}}}.items()},
    "predictions that another test saves": (
        on_run(lambda home: held(home / "predictions" / ".lock"), "--save-predictions"), "predictions: ",
        "is writing into it", "--run"),
    "imagesTs of no dataset.json": (prepared(nothing, "--test-images"), "--test-images", "into --images"),
    "codes of no DICOM": (predicted(nothing, nothing, "--codes", "codes.json"), "--codes codes.json", "--format"),
    **{f"{name} of a run": (plain(testing_own.main, "--run", "nowhere", name, value), name, "belongs to --predictions")
       for name, value in (("--output", "a.csv"), ("--class-names", "a"), ("--ignore-label", "3"))},
    "two classes of one value": (prepared(nothing, "--label-map", "1:0", "1:1"), "--label-map 1:0 1:1", "leave one"),
    "pipe: record of preparation": (prepared(in_new(pipe, "preprocessing.json")), "preprocessing.json", "no regular"),
    "pipe: dataset.json": (prepared(lambda images, labels: [pipe(images / "dataset.json"), "--dataset-json",
                                                            images / "dataset.json"][1:]), "is no regular file"),
    "pipe in the place of a label map": (predicted(nothing, in_new(pipe, "good.nii.gz")), "good.nii.gz",
                                         "is no regular file"),
    "pipe in the place of an overlay": (predicted(nothing, in_new(pipe, "good.png"), "--overlay"), "good.png",
                                        "is no regular file"),
    **{f"unreadable {name}, {what}": (unreadable(command, name), name, "may not be read by this user", "chmod u+r")
       for what, command, names in (
           ("test", on_run(nothing), ("config.json", "last.pt", "mri_norm2.h5", "test.list")),
           ("predict", predicted(), ("config.json", "last.pt")),
           ("train", option(), ("train.list", "mri_norm2.h5")),
           ("resume", resumed(nothing), ("checkpoint.pt", "log.csv", "data.json"))) for name in names},
    "scan that another program writes": (opened_elsewhere(option()), "another program has it open", "close it there"),
    **{f"lock that is another name of a file, {what}": (command, ".lock", "would be written to", "remove it", option_)
       for what, option_, command in (
           ("train", "--out", training(in_new(second_name, ".lock"))),
           ("predict", "--output", predicted(nothing, in_new(second_name, ".lock"))),
           ("prepare", "--output", prepared(in_new(second_name, ".lock"))))},
    "lock that is a pipe": (predicted(nothing, in_new(pipe, ".lock")), ".lock", "or no file", "--output"),

    # paths and numbers that no run could start with
    **{f"{option_} of nobody's home": (training(nothing, option_, "~nosuchuser/x"), f"{option_} ~nosuchuser/x",
                                       "is no path here", "name another")
       for option_ in ("--data-dir", "--out")},
    **{f"--seed {seed} of {script.__name__}": (plain(script.main, *args, "--seed", seed), f"--seed {seed}", "0 or more")
       for script, args in ((demo, ()), (prepare_LA, ("--input", "."))) for seed in ("-1", str(2 ** 64))},
    **{f"{script.__name__} {' '.join(args)}": (plain(script.main, *args), f"{args[-2]} {args[-1]}: must be", words)
       for script, *args, words in (
           (reproduce, "plan", "table2", "--seeds", "-1", "1 or more, up"), (reproduce, "run", "--seeds", "0", "1"),
           (reproduce, "plan", "--seeds", "11", "up to 10"), (reproduce, "report", "--cases", "-1", "1 or more"),
           (benchmark, "metrics", "--repeat", "0", "1 or more"), (gpu_day, "train", "--minutes", "nan", "0 or more"),
           (gpu_day, "train", "--minutes", "inf", "up to 10080"))},
    **{f"{command} of no run": (plain(reproduce.main, command), "no run folder is named", "one or more")
       for command in ("agreement", "pseudo-labels", "trust", "publish")},
    "circle of links": (training(lambda root: [(root / "circle").symlink_to(root / "circle"), "--out",
                                               root / "circle" / "run"][1:]), "--out", "name another"),
    **{f"config with the data folder {what}": (on_run(in_config(data_dir=path)), found)
       for what, path, found in (("of a NUL", "a\0b", "is no longer there"),
                                 ("of 300 letters", "x" * 300, "File name too long; name"))},
    **{f"{' '.join(args)}, odd": (option(*args), args[0], remedy) for *args, remedy in (
        ("--beta", "nan", "2/3"), ("--beta", "1e400", "2/3"), ("--beta", "-1/3", "between 0 and 1"),
        ("--drop-every", "1e400", "2/3"), ("--drop-every", "inf", "2/3"),
        ("--drop-every", "0", "steps between drops"), ("--lr", "nan", "above 0"), ("--lr", "1,5", "float"),
        ("--momentum", "nan", "below 1"), ("--weight-decay", "inf", "0 or more"), ("--checkpoint-minutes", "nan",
                                                                                   "above 0"),
        ("--labeled", "1e3", "invalid literal"), ("--labeled-draw", "-1", "0 or more"), ("--in-channels", "-1",
                                                                                       "1 or more"),
        ("--lambda-unsup", "-0.1", "0 or more"), ("--eval-every", "-5", "1 or more"))},
    **{f"{role} case without a label": (training(without_label("train", 2), f"--holdout-{role}", "2"),
                                        f"is a {role} case without `label`", f"--holdout-{role}")
       for role in ("val", "test")},
    "validation case without a label": (training(lambda root: strip_label(root / "data" / "patient701_frame01.h5"),
                                                 dataset="ACDC"), "is a val case without `label`", "val list"),

    # the disk
    **{f"{what}, {name}": (refusing(command, call, number), "cannot be written", *UNHARMED, "start the same command")
       for what, call, number in (("full disk", "fsync", errno.ENOSPC), ("read-only folder", "replace", errno.EROFS))
       for name, command in {
           "new run": option(), "resumed run": resumed(nothing),
           "test": on_run(nothing), "predict": predicted(), "prepare": prepared(lambda *_: None)}.items()},
}


def weights(folder):
    return {path: path.read_bytes() for path in folder.rglob("*.pt") if path.is_file()}


@pytest.mark.filterwarnings("ignore:.*checkpoint")
@pytest.mark.parametrize(("command", "words"), [(row[0], row[1:]) for row in BAD.values()], ids=BAD)
def test_bad_input_is_one_line_that_names_it_and_the_remedy(request, capsys, tmp_path, outside, command, words):
    main, args = command(request, tmp_path)
    before = weights(tmp_path)
    capsys.readouterr()
    try:
        code = main([str(arg) for arg in args])
    except SystemExit as stopped:
        code = stopped.code
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith(("error: ", "bad case "))]
    assert code == 2 and "Traceback" not in error, error
    assert any(all(word in line for word in words) for line in lines), error
    assert sum(line.startswith("error: ") for line in lines) <= 1
    assert [path.name for path in outside.iterdir()] == ["precious.txt"]
    assert weights(tmp_path) == before


@pytest.mark.parametrize("debug", [False, True])
def test_debug_adds_the_traceback(tmp_path, capsys, debug):
    with pytest.raises(SystemExit) as stopped:
        prepare_LA.main(["--input", str(tmp_path / "nowhere"), *["--debug"] * debug])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.splitlines()[-1].startswith("error: ")
    assert ("Traceback" in error and "existing_folder" in error) == debug
