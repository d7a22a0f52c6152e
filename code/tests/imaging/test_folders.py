"""prepare_folder.py: what a folder or its dataset.json says is taken, all of it, or refused in words."""
import json
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest

import prepare_folder
from imaging import own_folder, own_lists
from imaging.case_files import told
from imaging.descriptions import read_description
from imaging.new_scans import scans_to_segment
from imaging.own_lists import OurFiles
from imaging.plan import read_plan
from imaging.record import PLAIN, Preprocessing, read_preprocessing
from imaging.scan_files import read_scan_file, save_on_grid
from runtime.errors import InputError
from runtime.files import write_text

SHAPE = (12, 10, 8)


def image(path, seed=0, channels=0):
    shape = (*SHAPE, channels) if channels else SHAPE
    save(path, np.random.default_rng(seed).integers(1, 200, shape).astype(np.int16))


def label(path, values=(0, 1)):
    save(path, np.resize(np.array(values, np.uint8), SHAPE))


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


def decathlon(folder, names="abc", values=(0, 1), labels=None, **more):
    """A folder with scans and labels, and its dataset.json."""
    for number, name in enumerate(names):
        image(folder / "imagesTr" / f"{name}.nii.gz", number)
        label(folder / "labelsTr" / f"{name}.nii.gz", values)
    content = {"labels": labels or {"0": "background", "1": "organ"}, "modality": {"0": "CT"}} | more
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def prepare(*args):
    """Exit code of prepare_folder.py."""
    try:
        return prepare_folder.main([str(arg) for arg in (*args, "--workers", "1")])
    except SystemExit as stop:
        return stop.code


def prepared(out):
    """{case: values of its label, or None}"""
    cases = {}
    for path in out.glob("*/mri_norm2.h5"):
        with h5py.File(path) as file:
            cases[path.parent.name] = np.unique(file["label"]).tolist() if "label" in file else None
    return cases


@pytest.mark.parametrize("layout", ["two folders", "a folder per case", "described"])
def test_labels_in_dicom_are_said_to_be_left_aside(tmp_path, capsys, layout):
    """As predict.py writes them for a PACS, say, where they may have been corrected."""
    place = "a/" * (layout == "a folder per case")
    folder = decathlon(tmp_path / "d", names="ab")
    (folder / "labelsTr" / "b.nii.gz").unlink()
    if place:
        (folder / "labelsTr" / place).mkdir()
        (folder / "labelsTr" / "a.nii.gz").rename(folder / "labelsTr" / "a" / "a_seg.nii.gz")
    (folder / "labelsTr" / place / "b.dcm").touch()
    (folder / "labelsTr" / place / "b_rtstruct.dcm").write_bytes(bytes(128) + b"DICM")
    options = ["--images", folder if layout == "described" else folder / "imagesTr", "--output", tmp_path / "out"]
    options += [] if layout == "described" else ["--labels", folder / "labelsTr"]
    assert prepare(*options) == 0
    told = capsys.readouterr().out
    assert "2 files left aside, such as b.dcm: DICOM; labels are taken from .nii.gz" in told
    assert "and .seg.nrrd, as which 3D Slicer saves DICOM SEG and RTSTRUCT" in told and "2 cases, 1 of them" in told


def test_a_folder_of_labels_in_dicom_alone_is_not_said_to_be_taken(tmp_path, capsys):
    image(tmp_path / "scans" / "a.nii.gz")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.dcm").touch()
    assert prepare("--images", tmp_path / "scans", "--labels", tmp_path / "masks", "--output", tmp_path / "out") == 2
    labels = capsys.readouterr().err.split("of the labels'")[1]
    assert "it holds 1 .dcm such as a.dcm; taken are .nii.gz" in labels and "DICOM SEG and RTSTRUCT" in labels
    assert "and DICOM\n" not in labels


# ---- dataset.json ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("labels", "values", "names"), [
    ({"0": "background", "1": "liver", "2": "tumour"}, {0: 0, 1: 1, 2: 2}, ("liver", "tumour")),
    ({"background": 0, "liver": 1, "tumour": 2}, {0: 0, 1: 1, 2: 2}, ("liver", "tumour")),
    ({"17": 1, "53": 2}, {0: 0, 1: 1, 2: 2}, ("17", "53")),             # names that are numbers, as of FreeSurfer
    ({"0": "background", "1": "53"}, {0: 0, 1: 1}, ("53",)),
    ({"background": "0", "left  kidney": "1"}, {0: 0, 1: 1}, ("left kidney",)),
    ({"background": 0, "a": 2, "b": 5}, {0: 0, 2: 1, 5: 2}, ("a", "b")),
    ({"0": "background", "255": "organ"}, {0: 0, 255: 1}, ("organ",)),
    ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}, {0: 0, 1: 1, 2: 2, 3: 3},
     ("whole 1", "core 2", "enhancing")),
    ({"background": 0, "whole": [1, 2], "core": 2}, {0: 0, 1: 1, 2: 2}, ("whole 1", "core")),
    ({"background": 0, "organ": 1, "ignore": 2}, {0: 0, 1: 1}, ("organ",))])
def test_classes_and_their_names(tmp_path, labels, values, names):
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}), encoding="utf-8")
    found = read_description(tmp_path / "dataset.json")
    assert found.labels == values and found.class_names == names
    assert found.ignore == (2 if "ignore" in labels else None)
    assert set(found.regions) == {name for name, value in labels.items() if isinstance(value, list) and value[1:]}


@pytest.mark.parametrize("content", [
    {}, {"labels": {}}, {"labels": [1]}, {"labels": {"background": 0}}, {"labels": {"a": "b"}}, {"labels": {"a": []}},
    {"labels": {"a": -1}}, {"labels": {"a": {"b": 1}}}, {"labels": {"a": None}}, {"labels": {" ": 1}},
    {"labels": {"background": 1, "a": 0}},
    {"labels": {"a": 1}, "training": [{"label": "a.nii"}]}, {"labels": {"a": 1}, "training": [3]},
    {"labels": {"a": 1}, "dataset": {"case": {"label": "a.nii"}}}, {"labels": {"a": 1}, "dataset": [1]},
    {"labels": {"0": "background", "1": "a", "2": "a"}}, {"labels": {"a": 1}, "modality": [1]},
    {"labels": {"a": 1}, "file_ending": ".png"},
    {"labels": {str(number): number for number in range(300)}}])
def test_what_is_no_description_is_refused(tmp_path, content):
    (tmp_path / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match="dataset.json: .*(correct it, or give --images and --labels)"):
        read_description(tmp_path / "dataset.json")


def test_training_cases_that_dataset_json_counts_and_that_are_not_here_are_said(tmp_path, capsys):
    """As after a download that was cut short; and of a folder without its dataset.json, what to give instead."""
    folder = decathlon(tmp_path / "in", names="ab", numTraining=20)
    assert prepare("--images", folder, "--output", tmp_path / "out") == 0
    assert "says 20 training cases (numTraining), of which 2 are here with a label" in capsys.readouterr().out
    (folder / "dataset.json").unlink()
    assert prepare("--images", folder, "--output", tmp_path / "out") == 2
    assert f"give --images {folder / 'imagesTr'} --labels {folder / 'labelsTr'}" in capsys.readouterr().err


def test_the_training_list_is_what_is_trained_on(tmp_path, capsys):
    folder = decathlon(tmp_path / "in", "abcde", training=[
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in "ab"]
        + ["./imagesTr/e.nii.gz"], test=["./imagesTs/t.nii.gz"])
    image(folder / "imagesTs" / "t.nii.gz", 9)
    image(folder / "imagesTs" / "u.nii.gz", 8)
    assert prepare("--images", folder, "--output", tmp_path / "out") == 0
    assert prepared(tmp_path / "out") == {name: [0, 1] for name in "abe"}
    assert "2 files left aside, such as c.nii.gz: dataset.json does not list them" in capsys.readouterr().out
    assert prepare("--images", folder, "--labels", tmp_path, "--output", tmp_path / "out") == 0
    assert f"--labels {tmp_path} is left aside, since {folder / 'dataset.json'} says" in capsys.readouterr().out
    (folder / "labelsTr" / "e.nii.gz").unlink()
    assert prepare("--images", folder, "--output", tmp_path / "more", "--test-images") == 0
    assert prepared(tmp_path / "more") == {"a": [0, 1], "b": [0, 1], "e": None, "t": None}
    for name in "et":       # a label drawn later is found by its name, of whichever list the case is
        label(folder / "labelsTr" / f"{name}.nii.gz")
    assert prepare("--images", folder, "--output", tmp_path / "more", "--test-images") == 0
    assert prepared(tmp_path / "more") == {name: [0, 1] for name in "abet"}


def test_listed_files_that_are_missing_are_named_and_numbered_channels_found(tmp_path, capsys):
    folder = decathlon(tmp_path / "in", "ab", channel_names={"0": "T1", "1": "T2"}, modality={}, training=[
        {"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in "abx"])
    for name in "ab":       # nnU-Net's first version lists <case>.nii.gz for these
        (folder / "imagesTr" / f"{name}.nii.gz").rename(folder / "imagesTr" / f"{name}_0000.nii.gz")
        image(folder / "imagesTr" / f"{name}_0001.nii.gz", 5)
    assert prepare("--images", folder, "--output", tmp_path / "out") == 2
    assert "bad case x: " in (error := capsys.readouterr().err) and "x.nii.gz: is missing, dataset.json lists" in error
    assert set(prepared(tmp_path / "out")) == {"a", "b"}
    assert read_preprocessing(tmp_path / "out").modalities == ("0000", "0001")


def test_nnunets_dataset_of_paths(tmp_path):
    """Files of any name anywhere, relative to dataset.json."""
    folder = tmp_path / "in" / "Dataset001"
    for number, name in enumerate(("one", "two")):
        image(tmp_path / "in" / "elsewhere" / f"{name}-first.nii.gz", number)
        image(tmp_path / "in" / "elsewhere" / f"{name}-second.nii.gz", number + 5)
        label(tmp_path / "in" / "masks" / f"m{name}.nii.gz")
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps({
        "labels": {"background": 0, "organ": 1}, "channel_names": {"0": "CT", "1": "PET"}, "file_ending": ".nii.gz",
        "dataset": {name: {"images": [f"../elsewhere/{name}-first.nii.gz", f"../elsewhere/{name}-second.nii.gz"],
                           "label": f"../masks/m{name}.nii.gz"} for name in ("one", "two")}}), encoding="utf-8")
    assert prepare("--dataset-json", folder / "dataset.json", "--output", tmp_path / "out") == 0
    assert prepared(tmp_path / "out") == {"one": [0, 1], "two": [0, 1]}
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    del content["dataset"]["two"]["label"]
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    label(folder / "labelsTr" / "two.nii.gz", (0, 1, 1))
    assert prepare("--dataset-json", folder / "dataset.json", "--output", tmp_path / "out") == 0       # prepared again
    assert prepared(tmp_path / "out") == {"one": [0, 1], "two": [0, 1]}
    with h5py.File(tmp_path / "out" / "one" / "mri_norm2.h5") as file:
        assert file["image"].shape == (2, *SHAPE)


def test_channels_in_one_file_of_four_axes(tmp_path):
    """As the Decathlon's brain tumours and prostates are."""
    folder = decathlon(tmp_path / "in", "ab", modality={"0": "T2", "1": "ADC"}, tensorImageSize="4D")
    for number, name in enumerate("ab"):
        image(folder / "imagesTr" / f"{name}.nii.gz", number, channels=2)
    assert prepare("--images", folder, "--output", tmp_path / "out") == 0
    assert prepared(tmp_path / "out") == {"a": [0, 1], "b": [0, 1]}
    stored = nib.load(folder / "imagesTr" / "a.nii.gz").get_fdata()
    with h5py.File(tmp_path / "out" / "a" / "mri_norm2.h5") as file:
        for channel in range(2):
            values = stored[..., channel]
            np.testing.assert_allclose(file["image"][channel], (values - values.mean()) / values.std(), atol=1e-5)
    assert read_preprocessing(tmp_path / "out").modalities == ("0000", "0001")


def test_class_names_are_kept_in_the_record_and_the_plan(tmp_path, capsys):
    folder = decathlon(tmp_path / "in", values=(0, 1, 2), labels={"background": 0, "17": 1, "53": 2})
    assert prepare("--images", folder, "--output", tmp_path / "out") == 0
    record = read_preprocessing(tmp_path / "out")
    assert record.num_classes == 3 and record.class_names == ("17", "53")
    assert read_plan(tmp_path / "out" / "plan.json")[0].class_names == ("17", "53")
    assert record == Preprocessing.from_dict(record.to_dict()) and "class_names" not in record.to_dict()
    assert prepare("--images", folder, "--output", tmp_path / "out", "--class-names", "left", "right") == 0
    assert read_preprocessing(tmp_path / "out").class_names == ("left", "right")
    again = "--images", folder, "--output", tmp_path / "out", "--class-names", "right", "left"
    assert prepare(*again) == 2     # labels that are there have the other one
    assert "(class_names was ('left', 'right'), now ('right', 'left'));" in capsys.readouterr().err
    assert prepare(*again, "--force") == 0
    assert read_preprocessing(tmp_path / "out").class_names == ("right", "left")


def test_regions_are_trained_as_their_classes_and_said(tmp_path, capsys):
    folder = decathlon(tmp_path / "in", values=(0, 1, 2, 3), regions_class_order=[1, 2, 3], labels={
        "background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": [3]})
    assert prepare("--images", folder, "--output", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "regions (whole tumour is 1 2 3; core is 2 3) are trained as the classes that make them up: " in out
    assert "whole tumour 1, core 2, enhancing" in out
    assert prepared(tmp_path / "out")["a"] == [0, 1, 2, 3]


def test_an_ignore_label_is_no_class_unless_it_is_mapped_to_one(tmp_path, capsys):
    folder = decathlon(tmp_path / "in", labels={"background": 0, "organ": 1, "ignore": 2})
    label(folder / "labelsTr" / "b.nii.gz", (0, 1, 2))
    assert prepare("--images", folder, "--output", tmp_path / "out") == 0
    assert prepared(tmp_path / "out") == {"a": [0, 1], "b": [0, 1, 255], "c": [0, 1]}
    assert prepare("--images", folder, "--output", tmp_path / "all", "--label-map", "2:0") == 0
    assert prepared(tmp_path / "all") == {name: [0, 1] for name in "abc"}
    label(folder / "labelsTr" / "b.nii.gz", (0, 2))
    assert prepare("--images", folder, "--output", tmp_path / "empty") == 2
    assert "b.nii.gz: is empty, all voxels are background" in capsys.readouterr().err


@pytest.mark.parametrize("values, options, described, wanted", [
    ((0, 255), ["255:1"], None, (0, 255)), ((0, 255), ["255:1", "--num-classes", "2"], None, (0, 255)),
    ((0, 7), ["7:1"], {"background": 0, "organ": 1}, (0, 7)), ((0, 9, 255), ["255:1", "9:2"], None, (0, 255, 9)),
    ((0, 17, 53, 99), ["99:0"], {"background": 0, "a": 17, "b": 53, "ignore": 99}, (0, 17, 53)),
    ((0, 1, 255), ["255:1"], None, (0, 1)), ((0, 1, 2), ["2:1"], None, (0, 1)), ((0, 1), ["255:1"], None, (0, 1))])
def test_predictions_hold_the_files_own_values_where_each_class_has_one(tmp_path, values, options, described, wanted):
    folder = decathlon(tmp_path / "in", values=values, labels=described)
    if described is None:
        (folder / "dataset.json").unlink()
    places = [folder] if described else [folder / "imagesTr", "--labels", folder / "labelsTr"]
    assert prepare("--images", *places, "--output", tmp_path / "out", "--label-map", *options) == 0
    record = read_preprocessing(tmp_path / "out")
    assert tuple(record.values) == wanted and record.num_classes == len(wanted)
    assert all(max(met) == len(wanted) - 1 for met in prepared(tmp_path / "out").values())


def test_the_file_ending_decides_between_formats(tmp_path):
    folder = decathlon(tmp_path / "in", "ab", file_ending=".nii")
    for name in "ab":
        image(folder / "imagesTr" / f"{name}.nii", 3)
        label(folder / "labelsTr" / f"{name}.nii")
    assert prepare("--images", folder, "--output", tmp_path / "out") == 0
    assert prepared(tmp_path / "out") == {"a": [0, 1], "b": [0, 1]}


def test_the_label_of_a_test_scan_may_have_another_ending_too(tmp_path):
    """As take_labels.py writes it."""
    folder = tmp_path / "in"
    for place, name in (("imagesTr", "a"), ("imagesTs", "t")):
        image(folder / place / f"{name}.nii", 3)
        label(folder / "labelsTr" / (f"{name}.nii" if name == "a" else f"{name}.nii.gz"))
    decathlon(folder, "", file_ending=".nii")
    assert prepare("--images", folder, "--output", tmp_path / "out", "--test-images") == 0
    assert prepared(tmp_path / "out") == {"a": [0, 1], "t": [0, 1]}


# ---- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["_seg", "-seg", "_GT", "_mask", ".label", "_laendo"])
@pytest.mark.parametrize("apart", [False, True])
def test_scans_and_label_maps_are_told_apart_by_name(tmp_path, ending, apart):
    """In one folder, or in two with the ending kept."""
    masks = tmp_path / ("labels" if apart else "in")
    for number, name in enumerate(("a", "b_2", "c")):
        image(tmp_path / "in" / f"{name}.nii.gz", number)
        if number < 2:
            label(masks / f"{name}{ending}.nii.gz")
    assert prepare("--images", tmp_path / "in", "--labels", masks, "--output", tmp_path / "out") == 0
    assert prepared(tmp_path / "out") == {"a": [0, 1], "b_2": [0, 1], "c": None}


def test_label_maps_beside_scans_are_left_aside_where_the_labels_are_elsewhere(tmp_path, capsys):
    for number, name in enumerate("ab"):
        image(tmp_path / "in" / f"{name}.nii.gz", number)
        label(tmp_path / "in" / f"{name}_seg.nii.gz")
        label(tmp_path / "labels" / f"{name}.nii.gz")
    assert prepare("--images", tmp_path / "in", "--labels", tmp_path / "labels", "--output", tmp_path / "out") == 0
    assert prepared(tmp_path / "out") == {"a": [0, 1], "b": [0, 1]}
    assert "2 files left aside, such as a_seg.nii.gz: label maps by their names" in capsys.readouterr().out


@pytest.mark.parametrize("apart", (True, False))
@pytest.mark.parametrize(("scan", "mask"), [("volume-{}", "segmentation-{}"), ("img000{}", "label000{}")])
def test_label_maps_that_begin_with_that_word(tmp_path, apart, scan, mask):
    """As LiTS and BTCV call them."""
    scans, masks = tmp_path / "in" / "scans", tmp_path / "in" / ("masks" if apart else "scans")
    for number in range(3):
        image(scans / f"{scan.format(number)}.nii.gz", number)
        if number:
            label(masks / f"{mask.format(number)}.nii.gz", (0, 1))
    assert prepare("--images", scans, "--labels", masks, "--output", tmp_path / "out") == 0
    assert prepared(tmp_path / "out") == {scan.format(0): None, scan.format(1): [0, 1], scan.format(2): [0, 1]}


@pytest.mark.parametrize("apart", (True, False))
def test_label_maps_of_one_class_each_are_said_to_be_such(tmp_path, capsys, apart):
    """As TotalSegmentator's training set lies."""
    masks = tmp_path / ("masks" if apart else "scans")
    for number in range(2):
        image(tmp_path / "scans" / f"s{number}" / "ct.nii.gz", number)
        for organ in ("liver", "spleen"):
            label(masks / f"s{number}" / "segmentations" / f"{organ}.nii.gz")
    assert prepare("--images", tmp_path / "scans", "--labels", masks, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "liver.nii.gz and spleen.nii.gz: are label maps of one class each" in error and error.count("\n") == 1
    cases, bad, aside = scans_to_segment(tmp_path / "scans", ("image",))
    assert set(cases) == {"s0", "s1"} and not bad and len(aside) == 4 * (not apart)


def test_one_folder_in_which_nothing_says_what_is_a_label_is_refused(tmp_path, capsys):
    for name in ("a", "b"):
        image(tmp_path / "in" / f"{name}.nii.gz")
    assert prepare("--images", tmp_path / "in", "--labels", tmp_path / "in", "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "scans and label maps cannot be told apart" in error and "2 .nii.gz such as a.nii.gz" in error


@pytest.mark.parametrize("apart", [False, True])
def test_one_folder_per_case(tmp_path, apart):
    for number, name in enumerate(("p1", "p2", "p3")):
        image(tmp_path / "in" / name / "scan.nii.gz", number)
        if number < 2:
            label(tmp_path / ("labels" if apart else "in") / name / "seg.nii.gz")
    masks = tmp_path / ("labels" if apart else "in")
    assert prepare("--images", tmp_path / "in", "--labels", masks, "--output", tmp_path / "out") == 0
    assert prepared(tmp_path / "out") == {"p1": [0, 1], "p2": [0, 1], "p3": None}


@pytest.mark.parametrize(("shape", "words"), [((12, 10), "is 2D"), ((12, 10, 8, 3), "is 4D")])
def test_labels_that_cannot_be_read_are_the_reason(tmp_path, capsys, shape, words):
    for name in "ab":
        image(tmp_path / "in" / f"{name}.nii.gz")
        save(tmp_path / "labels" / f"{name}.nii.gz", np.ones(shape, np.uint8))
    assert prepare("--images", tmp_path / "in", "--labels", tmp_path / "labels", "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "no label can be read: " in error and f"a.nii.gz: {words}" in error


def test_what_is_there_is_told_where_no_scan_has_a_label(tmp_path, capsys):
    for name in ("a", "b"):
        image(tmp_path / "in" / f"{name}.nii.gz")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.png").touch()
    assert prepare("--images", tmp_path / "in", "--labels", tmp_path / "labels", "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "no scan has a label" in error and "1 .png such as a.png" in error and "2 .nii.gz such as a.nii.gz" in error
    assert "its scan's file name (a, b), with or without _seg" in error


@pytest.mark.parametrize("absolute", [{"--images"}, {"--labels"}, {"--images", "--labels"}, set()])
def test_labels_in_a_folder_among_the_cases_folders_are_no_scans(tmp_path, monkeypatch, absolute):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("abc"):
        image(Path("in") / name / f"{name}.nii.gz", number)
        if name != "c":
            label(Path("in/masks") / f"{name}.nii.gz")
    paths = {"--images": Path("in"), "--labels": Path("in/masks")}
    options = [word for name, path in paths.items() for word in (name, path.resolve() if name in absolute else path)]
    assert prepare(*options, "--output", tmp_path / "out") == 0
    assert prepared(tmp_path / "out") == {"a": [0, 1], "b": [0, 1], "c": None}


def test_labels_of_other_names_are_told_which_scans_there_are(tmp_path, capsys):
    for name in "abcdef":
        image(tmp_path / "in" / f"{name}.nii.gz")
        label(tmp_path / "labels" / f"{name if name == 'a' else 'drawn ' + name}.nii.gz")
    assert prepare("--images", tmp_path / "in", "--labels", tmp_path / "labels", "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "drawn b.nii.gz: has no scan of that name; " in error and "scans without a label are b, c, d, ..." in error
    for mask, scan in {"drawn b": "Drawn B", "j\u00fcrg": "ju\u0308rg"}.items():     # as macOS stores it
        image(tmp_path / "in" / f"{scan}.nii.gz")
        label(tmp_path / "labels" / f"{mask}.nii.gz")
        assert prepare("--images", tmp_path / "in", "--labels", tmp_path / "labels", "--output", tmp_path / "out") == 2
        words = f"labels/{mask}.nii.gz: has no scan of that name; {scan}.nii.gz has other capitals, or accents that are"
        assert words in capsys.readouterr().err


def test_one_scan_under_two_names_and_cases_that_are_gone_are_told(tmp_path, capsys):
    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        image(tmp_path / "in" / f"{name}.nii.gz", seed)
        label(tmp_path / "labels" / f"{name}.nii.gz")
    options = ["--images", tmp_path / "in", "--labels", tmp_path / "labels", "--output", tmp_path / "out"]
    for _ in range(2):
        assert prepare(*options) == 0
        assert "a, c: one scan under 2 names, voxel by voxel" in capsys.readouterr().out
    for folder in ("in", "labels"):
        (tmp_path / folder / "c.nii.gz").unlink()
    assert prepare(*options) == 0
    told = capsys.readouterr().out
    assert "one scan under" not in told and "train.list: 1 case of before left out" in told
    assert (tmp_path / "out" / "train.list").read_text(encoding="utf-8").split() == ["a", "b"]


def test_names_that_go_on_after_the_labels_are_called_channels(tmp_path, capsys):
    for name in ("p1", "p2"):
        for number, end in enumerate(("t1", "flair")):
            image(tmp_path / "in" / name / f"{name}_{end}.nii.gz", number)
        label(tmp_path / "in" / name / f"{name}_seg.nii.gz")
    options = ["--images", tmp_path / "in", "--labels", tmp_path / "in", "--output", tmp_path / "out"]
    assert prepare(*options) == 2
    assert "--channels flair t1" in capsys.readouterr().err
    assert prepare(*options, "--channels", "flair", "t1") == 0
    assert prepared(tmp_path / "out") == {"p1": [0, 1], "p2": [0, 1]}


def test_one_is_not_many(tmp_path, capsys):
    image(tmp_path / "in" / "a.nii.gz")
    label(tmp_path / "labels" / "a.nii.gz")
    assert prepare("--images", tmp_path / "in", "--labels", tmp_path / "labels", "--output", tmp_path / "out") == 0
    assert capsys.readouterr().out.startswith("1 case, 1 of them with a label\n")


@pytest.mark.parametrize("channels", (1, 2))
def test_the_files_of_a_test_scan_are_its_channels_as_those_of_listed_ones(tmp_path, capsys, channels):
    names = {str(number): f"MR{number}" for number in range(channels)}
    folder = decathlon(tmp_path / "in", "ab", channel_names=names, modality={}, training=[
        {"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in "ab"])
    for name in "ab":
        (folder / "imagesTr" / f"{name}.nii.gz").unlink()
        for number in range(channels):
            image(folder / "imagesTr" / f"{name}_{number:04d}.nii.gz", number)
    for name, number in (("t", 0), ("t", 1), ("u", 0), ("u", 1))[:None if channels > 1 else 1]:
        image(folder / "imagesTs" / f"{name}_{number:04d}.nii.gz", 5 + number)
    assert prepare("--images", folder, "--output", tmp_path / "out", "--test-images") == 0
    assert prepared(tmp_path / "out") == {"a": [0, 1], "b": [0, 1]} | dict.fromkeys("tu"[:channels])
    with h5py.File(tmp_path / "out" / "t" / "mri_norm2.h5") as file:
        assert file["image"].shape == (channels, *SHAPE)[channels == 1:]
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8")) | {"test": ["imagesTs/t.nii.gz"]}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    assert prepare("--images", folder, "--output", tmp_path / "listed", "--test-images") == 0
    assert prepared(tmp_path / "listed").keys() == {"a", "b", "t"}
    (folder / "imagesTs" / f"t_{channels - 1:04d}.nii.gz").unlink()
    assert prepare("--images", folder, "--output", tmp_path / "lacking", "--test-images") == 2
    assert "bad case t: " in capsys.readouterr().err and prepared(tmp_path / "lacking").keys() == {"a", "b"}


def test_plain_names_that_end_in_numbers_are_no_channels(tmp_path):
    folder = decathlon(tmp_path / "in", ["s_0001", "s_0002"], training=[
        {"image": f"imagesTr/s_000{number}.nii.gz", "label": f"labelsTr/s_000{number}.nii.gz"} for number in (1, 2)])
    image(folder / "imagesTs" / "s_0003.nii.gz", 5)
    assert prepare("--images", folder, "--output", tmp_path / "out", "--test-images") == 0
    assert prepared(tmp_path / "out") == {"s_0001": [0, 1], "s_0002": [0, 1], "s_0003": None}
    assert read_preprocessing(tmp_path / "out").modalities == ("image",)


def test_a_file_per_channel_may_be_listed(tmp_path):
    folder = decathlon(tmp_path / "in", "ab", modality={}, training=[
        {"image": [f"imagesTr/{name}.nii.gz", f"imagesTr/{name}.nii.gz"], "label": f"labelsTr/{name}.nii.gz"}
        for name in "ab"])
    assert prepare("--images", folder, "--output", tmp_path / "out") == 0
    with h5py.File(tmp_path / "out" / "a" / "mri_norm2.h5") as file:
        assert file["image"].shape == (2, *SHAPE)


def test_scans_of_another_file_ending_are_named(tmp_path, capsys):
    folder = decathlon(tmp_path / "in", "ab", file_ending=".nii.gz")
    image(folder / "imagesTr" / "c.nii", 3)
    assert prepare("--images", folder, "--output", tmp_path / "out") == 0
    assert prepared(tmp_path / "out").keys() == {"a", "b"}
    assert "1 file left aside, such as c.nii: dataset.json says .nii.gz (file_ending)" in capsys.readouterr().out


def test_what_predict_made_is_no_scan(tmp_path, capsys):
    for name in "ab":
        image(tmp_path / "scans" / name / "scan.nii.gz", ord(name))
    label(tmp_path / "masks" / "a.nii.gz")
    scan = read_scan_file(tmp_path / "scans" / "a" / "scan.nii.gz")
    (tmp_path / "scans" / "maps").mkdir()
    for end in ("nii.gz", "nrrd"):
        save_on_grid(tmp_path / "scans" / "maps" / f"b_{end[:2]}.{end}", scan.array, scan, "0123456789abcdef")
    assert prepare("--images", tmp_path / "scans", "--labels", tmp_path / "masks", "--output", tmp_path / "out") == 0
    assert prepared(tmp_path / "out") == {"a": [0, 1], "b": None}
    assert "2 files left aside, such as b_ni.nii.gz: made by predict.py" in capsys.readouterr().out
    cases, bad, aside = scans_to_segment(tmp_path / "scans", PLAIN)
    assert cases.keys() == {"a", "b"} and not bad and told(aside) == "2 made by predict.py such as b_ni.nii.gz"
    with pytest.raises(InputError, match="b_nr.nrrd: was made by predict.py and is no scan"):
        scans_to_segment(tmp_path / "scans" / "maps" / "b_nr.nrrd", PLAIN)


@pytest.mark.parametrize("at", range(1, 9))
def test_a_kill_between_two_files_leaves_lists_and_plan_as_ours(tmp_path, monkeypatch, at):
    folder, count = decathlon(tmp_path / "in", "abc"), 0

    def killed(*args):
        nonlocal count
        if (count := count + 1) == at:
            raise KeyboardInterrupt
        write_text(*args)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        for module in (own_folder, own_lists):
            patch.setattr(module, "write_text", killed)
        prepare_folder.main(["--images", str(folder), "--output", str(tmp_path / "out"), "--workers", "1"])
    image(folder / "imagesTr" / "d.nii.gz", 4)
    label(folder / "labelsTr" / "d.nii.gz")
    assert prepare("--images", folder, "--output", tmp_path / "out", "--holdout", "1") == 0
    assert (tmp_path / "out" / "train.list").read_text(encoding="utf-8").split() == ["a", "b", "c"]
    assert (tmp_path / "out" / "test.list").read_text(encoding="utf-8").split() == ["d"]
    assert OurFiles(tmp_path / "out").holds(tmp_path / "out" / "plan.json")
