"""Lists, splits and HDF5 files: the published counts, no leak between lists, and words for everything that is wrong."""
import dataclasses
import itertools
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import psutil
import pytest
import torch

import train_ACDC
import train_BraTS
import train_LA
from dataloaders import scans
from dataloaders.acdc import ACDC, patient_of
from dataloaders.brats import BraTS
from dataloaders.la import LA
from dataloaders.lists import Split, read_lists
from dataloaders.scans import first_existing, read_scan, read_spacing
from runtime.errors import InputError
from runtime.files import ROOT

READ = {"ndim": 3, "in_channels": 1, "num_classes": 2, "labelled": True}


def split(dataset, presets, preset="paper", **changes):
    return dataset(dataclasses.replace(presets[preset], **changes)).split()


def write(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def listed(*parts):
    return ROOT.joinpath("data", *parts).read_text(encoding="utf-8").split()


# ---- splits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("patients", "slices"), [(1, 32), (3, 68), (7, 136), (14, 256), (70, 1312)])
def test_labelled_patients_of_acdc_have_the_published_numbers_of_slices(tmp_path, patients, slices):
    parts = split(ACDC, train_ACDC.PRESETS, labeled=patients, data_dir=tmp_path)
    assert (len(parts.labelled), len(parts.unlabelled)) == (slices, 1312 - slices)
    assert (len(parts.val), len(parts.test)) == (20, 40)
    assert parts.labelled + parts.unlabelled == listed("ACDC", "train_slices.list")
    assert not set(map(patient_of, parts.labelled)) & set(map(patient_of, parts.unlabelled))


def test_the_first_seven_patients_of_acdc(tmp_path):
    names = split(ACDC, train_ACDC.PRESETS, data_dir=tmp_path).labelled
    assert list(dict.fromkeys(map(patient_of, names))) == [f"patient{n}" for n in (
        "099", "038", "050", "100", "058", "021", "049")]


@pytest.mark.parametrize(("labeled", "rest"), [(4, 76), (8, 72), (80, 0)])
def test_labelled_scans_of_la_are_the_first_of_the_list(tmp_path, labeled, rest):
    parts = split(LA, train_LA.PRESETS, labeled=labeled, data_dir=tmp_path)
    train = listed("LA", "train.list")
    assert parts == Split(train[:labeled], train[labeled:], [], listed("LA", "test.list"))
    assert len(parts.unlabelled) == rest and len(parts.test) == 20


def test_brats_has_250_training_25_validation_and_60_test_scans(tmp_path):
    parts = split(BraTS, train_BraTS.PRESETS, labeled=25, data_dir=tmp_path)
    assert [len(names) for names in vars(parts).values()] == [25, 225, 25, 60]
    assert parts.labelled == [name.removesuffix(".h5") for name in listed("BraTS2019", "train.txt")[:25]]


@pytest.mark.parametrize(("val", "test"), [(0, 8), (5, 0), (5, 8)])
def test_holdouts_of_la_come_from_the_end_of_the_train_list(tmp_path, val, test):
    parts = split(LA, train_LA.PRESETS, holdout_val=val, holdout_test=test, data_dir=tmp_path)
    train = listed("LA", "train.list")
    assert parts.labelled + parts.unlabelled + parts.val + (parts.test if test else []) == train
    assert len(parts.val) == val and (parts.test == train[-test:] if test else parts.test == listed("LA", "test.list"))
    assert parts.labelled == train[:8]


def test_la_mini_tests_on_the_last_eight_training_cases(tmp_path):
    assert split(LA, train_LA.PRESETS, "mini", data_dir=tmp_path).test == listed("LA", "train.list")[-8:]


ROLES = ("labelled", "unlabelled", "val", "test")


@pytest.mark.parametrize("pair", list(itertools.combinations_with_replacement(ROLES, 2)), ids="-".join)
def test_a_case_in_two_lists_or_twice_in_one_is_refused(pair):
    names = {role: [f"{role}0"] for role in ROLES}
    Split(**names)
    for role in pair:
        names[role] = [*names[role], "shared"]
    with pytest.raises(InputError, match=f"shared is listed as {pair[0]} and as {pair[1]}"):
        Split(**names)


@pytest.mark.parametrize(("name", "patient"), [
    ("patient099_frame01_slice_3", "patient099"), ("patient099_frame12", "patient099"), ("heart7_slice_3", "heart7"),
    ("heart7_ED_slice_12", "heart7"), ("heart7_es", "heart7"), ("case-07-slice-2", "case-07"), ("p1_t03_slice_1", "p1"),
    ("site2_case001_slice_4", "site2_case001"), ("a_frame2_slice_1_x", "a"), ("p001-frame01_slice_3", "p001"),
    ("p001_Frame12", "p001"), ("p001.frame_2_slice_3", "p001"), ("p001frame01", "p001"), ("p1_frame-7", "p1")])
def test_patients_are_read_from_names_with_and_without_a_frame(name, patient):
    assert patient_of(name) == patient


def acdc_lists(folder, slices, val=(), test=()):
    for file, names in (("train_slices", slices), ("val", val), ("test", test)):
        (folder / f"{file}.list").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return folder


def test_slices_without_a_frame_are_grouped_by_patient_and_no_validation_patient_is_trained_on(tmp_path):
    slices = [f"heart{n}_{phase}_slice_{k}" for n in range(4) for phase in ("ED", "ES") for k in range(3)]
    own = acdc_lists(tmp_path, slices, ["heart8_ED"], ["heart9_ES"])
    parts = split(ACDC, train_ACDC.PRESETS, data_dir=own, labeled=2)
    assert parts.labelled == slices[:12] and parts.unlabelled == slices[12:]
    with pytest.raises(InputError, match="--labeled 5: train_slices.list has 4 patients"):
        split(ACDC, train_ACDC.PRESETS, data_dir=own, labeled=5)
    for leaked in ("heart3_ES", "heart3", "heart3_frame02", "heart3-Frame02"):
        acdc_lists(tmp_path, slices, [leaked])
        with pytest.raises(InputError, match=f"val.list: {leaked} is a scan of heart3, as heart3_ES_slice_2 of train"):
            split(ACDC, train_ACDC.PRESETS, data_dir=own, labeled=2)


@pytest.mark.parametrize(("lists", "holdout", "words"), [
    ({"test": [101]}, {}, "test.txt: BraTS-GLI-00001-101 is a scan of BraTS-GLI-00001, as BraTS-GLI-00001-100 of tr"),
    ({"val": [102]}, {}, "val.txt: BraTS-GLI-00001-102 is a scan of .* of train.txt is; a patient belongs to one list"),
    ({"val": [101], "test": [102], "train": []}, {}, "test.txt: BraTS-GLI-00001-102 .*-101 of val.txt is"),
    ({"train": [100, 101]}, {"holdout_test": 1}, "--holdout-test 1: BraTS-GLI-00001-101 .* of train.txt is"),
    ({"train": [100, 101, 102]}, {"holdout_test": 1, "holdout_val": 2}, "--holdout-test 1: .* of --holdout-val 2 is")])
def test_no_list_of_brats_parts_the_scans_of_a_patient(tmp_path, lists, holdout, words):
    scans = {"train": [100], "val": [], "test": []} | lists
    for role, numbers in scans.items():
        names = ["BraTS-GLI-00002-000"] * (role == "train") + [f"BraTS-GLI-00001-{number}" for number in numbers]
        (tmp_path / f"{role}.txt").write_text("\n".join(names), encoding="utf-8")
    with pytest.raises(InputError, match=words):
        split(BraTS, train_BraTS.PRESETS, data_dir=tmp_path, labeled=1, **holdout)
    (tmp_path / "val.txt").write_text("BraTS19_TCIA01_201_1\nBraTS19_TCIA01_201_2\n", encoding="utf-8")
    (tmp_path / "test.txt").write_text("BraTS-GLI-00003-101\nBraTS-GLI-00003-102\n", encoding="utf-8")
    assert len(split(BraTS, train_BraTS.PRESETS, data_dir=tmp_path, labeled=1).test) == 2


@pytest.mark.parametrize(("lists", "words"), [
    ({"slices": ["heart1_1", "heart1_2"]}, "train_slices.list: heart1_1 does not end in its slice"),
    ({"slices": ["heart1_z3"]}, "train_slices.list: heart1_z3 does not end in its slice"),
    ({"slices": ["p1_02_slice_3"]}, "train_slices.list: p1_02_slice_3 does not say which patient it is of"),
    ({"slices": ["p1_diastole_slice_3"]}, "train_slices.list: p1_diastole_slice_3 does not say which patient it is of"),
    ({"slices": ["p1_slice_3"], "val": ["p1_systole"]}, "val.list: p1_systole does not say which patient it is of"),
    ({"slices": ["p1_slice_3"], "test": ["p1-2"]}, "test.list: p1-2 does not say which patient it is of")])
def test_names_that_do_not_say_their_patient_are_refused(tmp_path, lists, words):
    with pytest.raises(InputError, match=words):
        split(ACDC, train_ACDC.PRESETS, data_dir=acdc_lists(tmp_path, **lists), labeled=1)


@pytest.mark.parametrize(("dataset", "presets", "name", "place"), [
    (LA, train_LA, "a", "2018LA_Seg_Training Set/a/mri_norm2.h5"), (LA, train_LA, "a", "a/mri_norm2.h5"),
    (LA, train_LA, "a", "a.h5"), (LA, train_LA, "a", "LA/a.h5"), (LA, train_LA, "image0001",
                                                                  "Pancreas_h5/image0001_norm.h5"),
    (ACDC, train_ACDC, "p1_frame01", "data/p1_frame01.h5"),
    (ACDC, train_ACDC, "p1_frame01", "ACDC_training_volumes/p1_frame01.h5"),
    (ACDC, train_ACDC, "p1_frame01", "ACDC_testing_volumes/p1_frame01.h5"),
    (ACDC, train_ACDC, "p1_frame01_slice_2", "data/slices/p1_frame01_slice_2.h5"),
    (ACDC, train_ACDC, "p1_frame01_slice_2", "ACDC_training_slices/p1_frame01_slice_2.h5"),
    (BraTS, train_BraTS, "b", "data/b.h5")])
def test_the_layouts_of_the_field_are_found(tmp_path, dataset, presets, name, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert dataset(dataclasses.replace(presets.PRESETS["paper"], data_dir=tmp_path)).path_of(name) == path


# ---- lists -----------------------------------------------------------------------------------------------------


FILES = {"train": "train.list", "val": "val.list", "test": "test.list"}


def test_lists_tolerate_suffixes_and_blank_lines(tmp_path):
    (tmp_path / "train.list").write_bytes(b"\xef\xbb\xbfone.h5\r\n\n  two \nthree.h5")     # a BOM, too
    assert read_lists(tmp_path, "LA", FILES)["train"] == ["one", "two", "three"]


def test_the_repositorys_lists_serve_a_folder_without(tmp_path):
    lists = read_lists(tmp_path, "LA", FILES)
    assert lists == {"train": listed("LA", "train.list"), "val": [], "test": listed("LA", "test.list")}


def test_lists_in_the_data_folder_win(tmp_path):
    (tmp_path / "test.list").write_text("mine\n", encoding="utf-8")
    assert read_lists(tmp_path, "LA", FILES)["test"] == ["mine"]


def test_other_peoples_scans_are_not_tested_on_the_published_lists(tmp_path):
    (tmp_path / "train.list").write_text("mine\nalso_mine\n", encoding="utf-8")
    assert read_lists(tmp_path, "LA", FILES) == {"train": ["mine", "also_mine"], "val": [], "test": []}
    few = listed("LA", "train.list")[:3]
    (tmp_path / "train.list").write_text("\n".join(few), encoding="utf-8")
    assert read_lists(tmp_path, "LA", FILES)["test"] == listed("LA", "test.list")


def test_a_missing_train_list_names_both_places_and_the_option(tmp_path):
    with pytest.raises(InputError) as error:
        read_lists(tmp_path, "LA", {"train": "fold7.list"})
    for part in ("fold7.list", str(tmp_path), str(ROOT / "data" / "LA"), "--data-dir"):
        assert part in str(error.value)


def test_a_test_list_may_be_empty(tmp_path):
    (tmp_path / "test.list").write_text("\n \n", encoding="utf-8")
    assert read_lists(tmp_path, "LA", FILES)["test"] == []


# ---- files -----------------------------------------------------------------------------------------------------


def test_a_missing_file_names_every_place_and_the_remedy(tmp_path):
    with pytest.raises(InputError) as error:
        first_existing([tmp_path / "a.h5", tmp_path / "b.h5"])
    for part in ("a.h5 does not exist", "b.h5", "--data-dir", "prepare_"):
        assert part in str(error.value)
    (tmp_path / "b.h5").touch()
    assert first_existing([tmp_path / "a.h5", tmp_path / "b.h5"]) == tmp_path / "b.h5"


@pytest.mark.parametrize(("dataset", "presets", "name", "places"), [
    (LA, train_LA.PRESETS, "X", ["2018LA_Seg_Training Set/X/mri_norm2.h5", "X/mri_norm2.h5"]),
    (ACDC, train_ACDC.PRESETS, "p_frame01_slice_3",
     ["data/slices/p_frame01_slice_3.h5", "data/p_frame01_slice_3.h5"]),
    (ACDC, train_ACDC.PRESETS, "p_frame01", ["data/p_frame01.h5"]),
    (BraTS, train_BraTS.PRESETS, "X", ["data/X.h5"]),
])
def test_files_are_found_where_the_field_keeps_them(tmp_path, dataset, presets, name, places):
    data = dataset(dataclasses.replace(presets["paper"], data_dir=tmp_path))
    for place in reversed(places):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert data.path_of(name) == path


def test_a_scan_comes_as_float32_and_uint8_and_the_file_is_closed(tmp_path):
    image, label = np.random.default_rng(0).normal(size=(4, 5, 6)), np.zeros((4, 5, 6))
    label[1:3] = 1
    path = write(tmp_path / "a.h5", image=image, label=label)
    scan = read_scan("a", path, **READ)
    assert scan.image.dtype == torch.float32 and scan.label.dtype == torch.uint8 and scan.name == "a"
    np.testing.assert_array_equal(scan.image, image[None].astype(np.float32))
    np.testing.assert_array_equal(scan.label, label)
    write(path, image=image)


def test_channels_may_stand_in_front(tmp_path):
    path = write(tmp_path / "a.h5", image=np.zeros((3, 4, 5)), label=np.zeros((4, 5), np.uint8))
    assert read_scan("a", path, **READ | {"ndim": 2, "in_channels": 3}).image.shape == (3, 4, 5)


@pytest.mark.parametrize("label", [None, np.full(3, 77), np.array(b"no label")], ids=["absent", "garbage", "text"])
def test_the_label_of_an_unlabelled_scan_is_not_looked_at(tmp_path, label):
    path = write(tmp_path / "a.h5", image=np.ones((4, 5, 6)), **({} if label is None else {"label": label}))
    assert read_scan("a", path, **READ | {"labelled": False}).label is None


CUBE = np.zeros((4, 4, 4), np.float32)
def test_scans_that_do_not_fit_in_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5", image=np.zeros((64, 64, 64), np.float32))
    needed = 10 * 5 * 64 ** 3
    read = []

    def load(free):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
        scans.read_all(list("0123456789"), lambda name: path, lambda name, _: read.append(name), "unlabelled")

    with pytest.raises(InputError, match="the 10 unlabelled scans, .*a.h5 .*, need about .* GiB.*mini preset"):
        load(needed - 1)
    assert not read
    load(needed + 1)
    assert len(read) == 10


def test_spacing_is_read_where_a_prepare_script_noted_it(tmp_path):
    path = write(tmp_path / "a.h5", image=CUBE)
    with pytest.raises(InputError, match=r"a\.h5: holds no spacing.*--spacing at voxel"):
        read_spacing(path)
    with h5py.File(path, "a") as file:
        file.attrs["geometry"] = '{"spacing": [10.0, 1.5, 1.5]}'
    assert read_spacing(path) == (10.0, 1.5, 1.5)


# ---- what the data sets hand to training -------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["LA", "ACDC", "BraTS2019"])
def test_training_scans_have_labels_only_where_they_are_asked_for(recipe, runs, dataset):
    data = runs.data(recipe(dataset))
    parts = data.split()
    assert parts.labelled and parts.unlabelled and parts.test
    assert all(scan.label is not None for scan in data.train_scans(parts.labelled, labelled=True))
    assert all(scan.label is None for scan in data.train_scans(parts.unlabelled, labelled=False))
    assert [scan.name for scan in data.cases(parts.test)] == parts.test


@pytest.mark.parametrize("dataset", ["LA", "ACDC", "BraTS2019"])
def test_a_sample_has_the_patch_size_and_its_label_in_step(recipe, runs, dataset):
    data = runs.data(recipe(dataset))
    scan, = data.train_scans(data.split().labelled[:1], labelled=True)
    scan.image = 2.0 * scan.label[None].float()
    voxels = 0
    for seed in range(6):
        image, label = data.sample(scan, np.random.default_rng(seed))
        assert image.shape == (1, *data.recipe.patch_size) and label.shape == data.recipe.patch_size
        assert image.dtype == np.float32 and label.dtype == np.uint8
        assert np.array_equal(image[0], 2.0 * label)
        scan_without = dataclasses.replace(scan, label=None)
        again, none = data.sample(scan_without, np.random.default_rng(seed))
        assert none is None and np.array_equal(image, again)
        voxels += label.any()
    assert voxels


def test_half_the_acdc_samples_are_reflected_a_quarter_turned_and_a_quarter_left(recipe, runs):
    data = runs.data(recipe("ACDC"))
    image = torch.from_numpy(np.random.default_rng(0).random((1, 32, 32), dtype=np.float32))
    plane = image[0].numpy()
    reflected = {np.ascontiguousarray(a).tobytes() for a in (plane[::-1], plane[:, ::-1], plane.T, plane[::-1, ::-1].T)}
    counts, rng, draws = {"reflected": 0, "same": 0, "turned": 0}, np.random.default_rng(1), 1000
    for _ in range(draws):
        drawn = data.sample(scans.Scan("x", image, None), rng)[0][0].tobytes()
        counts["reflected" if drawn in reflected else "same" if drawn == plane.tobytes() else "turned"] += 1
    shares = {"reflected": 1 / 2, "same": 1 / 4 + 1 / 160, "turned": 1 / 4 - 1 / 160}     # an angle of 40 is 0
    assert all(abs(counts[kind] / draws - share) < 0.06 for kind, share in shares.items()), counts


def test_half_resolution_averages_blocks_and_takes_the_label_of_half_of_them_or_more(recipe, runs):
    data = runs.data(recipe("BraTS2019", half_resolution=True))
    name = data.split().labelled[0]
    whole, = data.cases([name])
    half, = data.train_scans([name], labelled=True)
    d0, d1, d2 = (extent // 2 for extent in whole.label.shape)
    blocks = whole.image[0].reshape(d0, 2, d1, 2, d2, 2).mean((1, 3, 5))
    torch.testing.assert_close(half.image[0], blocks, atol=1e-5, rtol=1e-5)
    shares = whole.label.reshape(d0, 2, d1, 2, d2, 2).float().mean((1, 3, 5))
    assert torch.equal(half.label, (shares >= 0.5).byte()) and (shares == 0.5).any()


def test_half_of_an_odd_shape_is_rounded_down(recipe, runs, tmp_path):
    data = runs.data(recipe("BraTS2019", half_resolution=True, data_dir=tmp_path))
    (tmp_path / "data").mkdir()
    write(tmp_path / "data/x.h5", image=np.zeros((9, 8, 7)), label=np.zeros((9, 8, 7), np.uint8))
    scan, = data.train_scans(["x"], labelled=True)
    assert scan.image.shape == (1, 4, 4, 3) and scan.label.shape == (4, 4, 3)


def test_an_unlabelled_file_needs_no_label(recipe, runs, phantoms, tmp_path):
    root = shutil.copytree(phantoms("LA"), tmp_path / "LA")
    data = runs.data(recipe("LA", data_dir=root))
    name = data.split().unlabelled[0]
    with h5py.File(data.path_of(name), "a") as file:
        del file["label"]
    assert data.train_scans([name], labelled=False)[0].image.any()
    with pytest.raises(InputError, match="mri_norm2.h5"):
        data.train_scans([name], labelled=True)
