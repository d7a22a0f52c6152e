"""The labelling loop: which scans to label next, corrections taken as labels, and a second round from the first."""
import csv
import json
import shlex
import shutil
from dataclasses import asdict
from types import SimpleNamespace

import h5py
import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

import label_next
import prepare_folder
import take_labels
import train_own
from evaluation.selection import appearance, farthest_first
from imaging.grids import ScanFile
from imaging.labelling import Handed, Places, Round
from imaging.record import Preprocessing, read_preprocessing
from imaging.scan_files import mark_of
from runtime.errors import InputError

pytestmark = pytest.mark.usefixtures("shallow", "no_curves")
SHAPE = 20, 18, 16
AFFINE = np.array([[0, -1.2, 0, 31.5], [0.9, 0, 0, -12.25], [0, 0, 2.5, 7.125], [0, 0, 0, 1.0]])
TINY = ["mini", "--patch-size", "32", "16", "16", "--labeled-batch", "2", "--unlabeled-batch", "2", "--pre-steps", "1",
        "--self-steps", "1", "--workers", "0", "--device", "cpu"]
VALUES = {"left": 1, "right": 2}        # of the classes in label files


def phantom(number):
    """A scan with two organs, and their label map in the files' own values."""
    rng, label = np.random.default_rng(number), np.zeros(SHAPE, np.uint8)
    label[3:8, 4:12, 3:13], label[12:17, 4:12, 3:13] = VALUES.values()
    image = 300.0 + 100 * (label == 1) + 200 * (label == 2) + ndimage.gaussian_filter(rng.normal(0, 60, SHAPE), 1)
    return image.astype(np.int16), label


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def load(path):
    return np.asarray(nib.load(path).dataobj)


def write_seg(path, label, names):
    """Cropped to what is drawn, one layer for each segment, as 3D Slicer stores overlapping segments."""
    box = ndimage.find_objects((label > 0).astype(int))[0]
    lps = np.diag([-1.0, -1, 1, 1]) @ AFFINE
    header = {"space": "left-posterior-superior", "kinds": ["list", *["domain"] * 3], "encoding": "gzip",
              "space directions": np.vstack([[np.nan] * 3, lps[:3, :3].T]),
              "space origin": lps[:3, :3] @ [side.start for side in box] + lps[:3, 3]}
    for number, name in enumerate(names):
        header |= {f"Segment{number}_ID": f"Segment_{number + 1}", f"Segment{number}_Name": name,
                   f"Segment{number}_LabelValue": "1", f"Segment{number}_Layer": str(number)}
    layers = np.stack([label[box] == value for value in names.values()]).astype(np.uint8)
    nrrd.write(str(path), np.asfortranarray(layers), header)


def listed(path):
    return path.read_text(encoding="utf-8").split()


def prepare(home):
    assert prepare_folder.main(["--images", str(home / "scans"), "--labels", str(home / "masks"), "--output",
                                str(home / "data"), "--workers", "1", "--class-names", *VALUES]) == 0


@pytest.fixture(scope="module")
def _first(tmp_path_factory):
    return {}


@pytest.fixture
def first(_first, tmp_path_factory, tmp_path):
    """A copy of twelve scans, three of them labelled, prepared, and a run on them."""
    if not _first:
        home = tmp_path_factory.mktemp("first")
        for number in range(12):
            image, label = phantom(number)
            save(home / "scans" / f"c{number:02d}.nii.gz", image)
            if number < 3:
                save(home / "masks" / f"c{number:02d}.nii.gz", label)
        _first["home"] = home
        prepare(home)
        train_own.main([*TINY, "--data-dir", str(home / "data"), "--out", str(home / "run")])
    home, there = shutil.copytree(_first["home"], tmp_path / "home"), str(_first["home"])
    for path in (home / "run" / "config.json", home / "data" / "sources.json"):
        path.write_text(path.read_text(encoding="utf-8").replace(there, str(home)), encoding="utf-8")
    return SimpleNamespace(home=home, run=home / "run", scans=home / "scans", masks=home / "masks", data=home / "data",
                           out=home / "to_label")


def choose(first, *more, out=None):
    return label_next.main(["--run", str(first.run), "--output", str(out or first.out), "--device", "cpu", *more])


def take(first, *more):
    return take_labels.main(["--input", str(first.out), "--images", str(first.scans), "--labels", str(first.masks),
                             *more])


def handed(folder):
    return json.loads((folder / "label_next.json").read_text(encoding="utf-8"))["cases"]


def refused(capsys, main, *args):
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(list(map(str, args)))
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_cases_are_proposed_for_whatever_they_are_called(first):
    """Also where predict.py would take such names for channels or label maps."""
    scans = {name: [first.scans / f"c{number:02d}.nii.gz"] for number, name in enumerate(
        ("case_0000", "case_0001", "p1_t1", "p1_t2", "lung_mask"))}
    options = label_next.Options(run=first.run, output=first.out, device="cpu")
    assert label_next.propose(options, scans, ()) == 0
    assert {path.name.partition(".")[0] for path in (first.out / "proposals").glob("*.nii.gz")} == set(scans)


def test_where_all_others_wait_to_be_tested_on_more_are_to_be_asked_for(first, capsys):
    (first.data / "to_test.list").write_text("".join(f"c{number:02d}\n" for number in range(3, 12)), encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        choose(first, "--count", "4")
    assert "--count 4: all 9 cases without a label are kept for testing" in capsys.readouterr().err
    assert choose(first, "--count", "5", "--by", "random") == 0


def test_from_a_run_over_corrections_to_a_second_run(first, capsys):
    before = {path: path.read_bytes() for path in first.scans.iterdir()}
    capsys.readouterr()
    assert choose(first) == 0
    told = capsys.readouterr().out
    cases = handed(first.out)
    [test] = [name for name, case in cases.items() if case["test"]]
    assert len(cases) == 5 and f"{test}: drawn at random, kept for testing" in told
    with (first.out / "proposals" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        ranked = list(dict.fromkeys(row["case"] for row in csv.DictReader(file)))
    assert set(ranked) == {f"c{number:02d}" for number in range(3, 12)}
    assert list(cases) == [*[name for name in ranked if name != test][:4], test]
    assert (f"next: python code/take_labels.py --input {first.out} --images {first.scans} --labels {first.masks}"
            in told)
    for name in cases:
        scan, proposal = first.out / name / f"{name}.nii.gz", first.out / name / f"{name}_seg.nii.gz"
        assert scan.read_bytes() == (first.scans / scan.name).read_bytes()
        assert mark_of(proposal) and set(np.unique(load(proposal))) <= {0, 1, 2}
        assert np.allclose(nib.load(proposal).affine, AFFINE)
    assert choose(first) == 0 and handed(first.out) == cases        # the same again changes nothing

    # nothing is corrected: nothing is taken
    capsys.readouterr()
    assert take(first) == 0
    told = capsys.readouterr().out
    assert "0 labels in" in told and "5 left as they are" in told and "next:" not in told
    assert len(list(first.masks.iterdir())) == 3

    # as 3D Slicer saves, as ITK-SNAP does over the proposal, as another format, and one that is right as it is
    names = sorted(cases.keys() - {test})
    wanted = {name: phantom(int(name[1:]))[1] for name in cases}
    wanted[names[0]][wanted[names[0]] == 2] = 0
    wanted[names[0]][13:16, 5:9, 4:9] = 2
    write_seg(first.out / names[0] / "Segmentation.seg.nrrd", wanted[names[0]], VALUES)
    save(first.out / names[1] / f"{names[1]}_seg.nii.gz", wanted[names[1]])
    image = sitk.GetImageFromArray(wanted[test].transpose(2, 1, 0))
    image.CopyInformation(sitk.ReadImage(str(first.scans / f"{test}.nii.gz")))
    sitk.WriteImage(image, str(first.out / test / "label.mha"))
    proposed = load(first.out / "proposals" / f"{names[2]}.nii.gz")
    wanted[names[2]] = proposed
    accept = ["--accept", names[2]] if proposed.any() else ["--accept", names[2], "--allow-empty"]
    assert take(first, *accept) == 0
    told = capsys.readouterr().out
    for name in (*names[:3], test):
        taken = first.masks / f"{name}.nii.gz"
        assert np.array_equal(load(taken), wanted[name]) and load(taken).dtype == np.uint8 and not mark_of(taken)
        assert np.allclose(nib.load(taken).affine, AFFINE)
    was = load(first.out / "proposals" / f"{names[1]}.nii.gz")
    [line] = [line for line in told.splitlines() if line.startswith(f"{names[1]}: ")]
    assert f"{(was != wanted[names[1]]).sum()} voxels changed" in line
    for name, value in VALUES.items():
        new = wanted[names[1]] == value
        assert f"{name} +{(new & (was != value)).sum()} -{((was == value) & ~new).sum()}" in line
    assert f"1 left as they are (nothing was drawn: {names[3]}" in told
    assert (f"next: python code/prepare_folder.py --output {first.data} --images {first.scans} --labels {first.masks} "
            "--class-names left right") in told
    assert {path: path.read_bytes() for path in first.scans.iterdir()} == before
    assert listed(first.masks / "to_test.list") == [test]

    prepare(first.home)
    assert listed(first.data / "test.list") == [test]
    train = listed(first.data / "train.list")
    assert train[:6] == sorted(["c00", "c01", "c02", *names[:3]]) and test not in train
    again = train_own.main([*TINY, "--data-dir", str(first.data), "--out", str(first.home / "second"), "--init-from",
                            str(first.run)])
    config = json.loads((again / "config.json").read_text(encoding="utf-8"))
    assert config["recipe"]["init_from"] == str(first.run)

    # the next round chooses among what is left, and hands out nothing twice
    following = first.home / "next"
    assert label_next.main(["--run", str(again), "--output", str(following), "--device", "cpu", "--by", "spread"]) == 0
    assert not set(handed(following)) & set(listed(first.data / "train.list")[:6] + [test])


def test_a_test_case_that_waits_for_its_label_is_not_handed_out_for_training(first):
    assert choose(first, "--by", "random") == 0
    [test] = [name for name, case in handed(first.out).items() if case["test"]]
    assert choose(first, "--by", "random", "--seed", "5", "--count", "9", out=first.home / "later") == 0
    assert [name for name, case in handed(first.home / "later").items() if case["test"]] == [test]


def test_labels_that_are_there_stay_without_replace(first, capsys):
    assert choose(first, "--by", "random") == 0
    name = next(iter(handed(first.out)))
    drawn, other = phantom(int(name[1:]))[1], np.zeros(SHAPE, np.uint8)
    other[5:9, 5:9, 5:9] = 1
    save(first.out / name / f"{name}_seg.nii.gz", drawn)
    save(first.masks / f"{name}_seg.nii.gz", other)
    there = (first.masks / f"{name}_seg.nii.gz").read_bytes()
    capsys.readouterr()
    assert take(first) == 2
    assert f"{name}_seg.nii.gz: is there already, another label of this case; --replace" in capsys.readouterr().err
    assert (first.masks / f"{name}_seg.nii.gz").read_bytes() == there
    assert take(first, "--replace") == 0 and not (first.masks / f"{name}_seg.nii.gz").exists()
    assert np.array_equal(load(first.masks / f"{name}.nii.gz"), drawn)
    assert take(first) == 0 and "is there already, the same" in capsys.readouterr().out


@pytest.mark.parametrize("damage", [
    "value", "two", "segment", *(pytest.param(name, marks=pytest.mark.slow) for name in ("grid", "empty", "fraction"))])
def test_what_is_no_label_is_named_and_the_others_are_taken(first, capsys, damage):
    assert choose(first, "--by", "random") == 0
    name, good, *_ = handed(first.out)
    label = phantom(int(name[1:]))[1]
    path = first.out / name / f"{name}_seg.nii.gz"
    words = {"value": "has the label value 5, expected only 0, 1, 2;", "grid": "its affine puts it up to",
             "two": "differ, and a case has one", "empty": "nothing is drawn there",
             "fraction": "expected whole numbers",
             "segment": "has the segment tumour, expected only left, right"}[damage]
    if damage == "value":
        save(path, np.where(label == 1, 5, label).astype(np.uint8))
    elif damage == "grid":
        save(path, label, np.diag([1.0, 1, 1, 1]))
    elif damage == "two":
        save(path, label)
        save(path.with_name("mine.nii.gz"), np.where(label == 1, 2, label).astype(np.uint8))
    elif damage == "empty":
        save(path, np.zeros(SHAPE, np.uint8))
    elif damage == "fraction":
        save(path, label + np.float32(0.3))
    else:
        write_seg(path.with_name("Segmentation.seg.nrrd"), label, {"left": 1, "tumour": 2})
    save(first.out / good / f"{good}_seg.nii.gz", phantom(int(good[1:]))[1])
    proposed = load(first.out / "proposals" / f"{name}.nii.gz")
    if damage == "empty" and not proposed.any():
        pytest.skip("the network proposes nothing, either")
    capsys.readouterr()
    assert take(first) == 2
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert line.startswith(f"bad case {name}: ") and words in line
    assert (first.masks / f"{good}.nii.gz").exists() and not (first.masks / f"{name}.nii.gz").exists()


def test_a_correction_of_the_proposal_in_its_own_folder_is_no_reason_to_take_the_copy(first, capsys):
    assert choose(first, "--by", "random", "--count", "2") == 0
    name, _ = handed(first.out)
    proposal, label = first.out / "proposals" / f"{name}.nii.gz", phantom(int(name[1:]))[1]
    save(proposal, label)
    capsys.readouterr()
    assert take(first) == 2 and not (first.masks / f"{name}.nii.gz").exists()
    assert f"corrections belong beside the scan: move the file to {first.out / name}" in capsys.readouterr().err
    proposal.rename(first.out / name / "mine.nii.gz")
    assert take(first) == 2 and f"{proposal}: is no longer there" in capsys.readouterr().err
    assert choose(first, "--by", "random", "--count", "2") == 0 and proposal.exists()
    assert take(first) == 0 and np.array_equal(load(first.masks / f"{name}.nii.gz"), label)


def test_before_any_label_those_that_differ_are_chosen(tmp_path, capsys):
    """Nine scans alike, one with other voxels, one bright: these two are among three."""
    for number in range(11):
        image, _ = phantom(number)
        save(tmp_path / "scans" / f"c{number:02d}.nii.gz", image + 900 * (number == 4),
             AFFINE if number != 8 else AFFINE * (2, 2, 2, 1))
    (tmp_path / "scans" / "a DICOM series").mkdir()
    out = tmp_path / "to_label"
    args = ["--labeled", "0", "--images", str(tmp_path / "scans"), "--output", str(out), "--workers", "1"]
    assert label_next.main([*args, "--count", "3"]) == 0
    told = capsys.readouterr().out
    cases = handed(out)
    assert "1 file left aside: 1 folders, not looked into since there are scans beside them, such as a DICOM" in told
    assert {"c04", "c08"} <= set(cases) and len(cases) == 3 and "none of them is for testing" in told
    assert sorted(path.name for path in (out / "c04").iterdir()) == ["c04.nii.gz"]
    for name in cases:
        save(out / name / "drawn.nii.gz", phantom(int(name[1:]))[1], nib.load(out / name / f"{name}.nii.gz").affine)
    args = ["--input", str(out), "--images", str(tmp_path / "scans"), "--labels", str(tmp_path / "masks")]
    assert take_labels.main(args) == 0
    told = capsys.readouterr().out
    assert "value 1 +" in told and f"next: python code/prepare_folder.py --images {tmp_path / 'scans'}" in told
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 3


@pytest.mark.slow
def test_a_test_case_drawn_before_any_label_is_in_test_list(tmp_path):
    for number in range(8):
        save(tmp_path / "scans" / f"c{number:02d}.nii.gz", phantom(number)[0])
    out = tmp_path / "to_label"
    assert label_next.main(["--labeled", "0", "--images", str(tmp_path / "scans"), "--output", str(out), "--workers",
                            "1"]) == 0
    cases = handed(out)
    for name in cases:
        save(out / name / "drawn.nii.gz", phantom(int(name[1:]))[1])
    assert take_labels.main(["--input", str(out), "--labels", str(tmp_path / "masks")]) == 0
    prepare(tmp_path)
    [test] = [name for name, case in cases.items() if case["test"]]
    assert listed(tmp_path / "data" / "test.list") == [test]
    assert listed(tmp_path / "data" / "train.list")[:4] == sorted(set(cases) - {test})


def test_bad_options_are_one_line(first, capsys):
    run, out, scans = first.run, first.home / "out", first.scans
    assert "give one of the two" in refused(capsys, label_next.main, "--output", out)
    assert "--count 0: must be 1" in refused(capsys, label_next.main, "--run", run, "--output", out, "--count", "0")
    assert "needs --images" in refused(capsys, label_next.main, "--labeled", "0", "--output", out)
    assert "lies in --images" in refused(capsys, label_next.main, "--labeled", "0", "--images", scans, "--output",
                                         scans / "out")
    assert "did not write it" in refused(capsys, label_next.main, "--run", run, "--output", first.masks)
    assert "has no label_next.json" in refused(capsys, take_labels.main, "--input", scans, "--labels", out)
    assert choose(first) == 0
    for labels in (first.out / "labels", first.out, scans):
        assert "where nothing is written" in refused(capsys, take_labels.main, "--input", first.out, "--images", scans,
                                                     "--labels", labels)
    assert "--accept c99: not among" in refused(capsys, take_labels.main, "--input", first.out, "--labels", first.masks,
                                                "--accept", "c99")
    (first.data / "sources.json").unlink()
    assert "sources.json: does not exist" in refused(capsys, label_next.main, "--run", run, "--output", first.out)
    assert not out.exists()


@pytest.mark.slow
def test_scans_that_have_moved_are_found(first):
    moved = first.scans.rename(first.home / "elsewhere")
    assert choose(first, "--images", str(moved), "--by", "random") == 0 and len(handed(first.out)) == 5


# ---- what is taken from a round --------------------------------------------------------------------------------------


def by_hand(home, cases, tests=(), **record):
    """A round in home/to_label of scans, {case: proposal or None} -> options of take_labels.py."""
    out, given = home / "to_label", {}
    for number, (name, proposal) in enumerate(cases.items()):
        save(home / "scans" / f"{name}.nii.gz", phantom(number)[0])
        save(out / name / f"{name}.nii.gz", phantom(number)[0])
        if proposal is not None:
            save(out / "proposals" / f"{name}.nii.gz", proposal)
        given[name] = asdict(Handed((str(home / "scans" / f"{name}.nii.gz"),), (f"{name}.nii.gz",),
                                    None if proposal is None else f"proposals/{name}.nii.gz", name in tests))
    Round(**record, cases=given).write(out)
    return ["--input", str(out), "--labels", str(home / "masks")]


@pytest.mark.parametrize(("pairs", "values"), [
    (["2:1", "3:2"], {0: 0, 1: 1, 2: 1, 3: 2}), (["2:1", "3:1"], {0: 0, 2: 1, 3: 1})])
def test_a_proposal_has_values_that_are_read_as_its_classes(tmp_path, pairs, values):
    """Where several values became one class, too: kidney 1, tumour 2 and cyst 3 of files are 1, 1 and 2."""
    kept = Preprocessing("mine", "RAS", "zscore", labels=values)
    assert [values[value] for value in kept.values.tolist()] == list(range(kept.num_classes))
    there, classes = np.resize(sorted(values), SHAPE), np.resize(range(kept.num_classes), SHAPE)
    save(tmp_path / "scans" / "a.nii.gz", phantom(9)[0])
    save(tmp_path / "masks" / "a.nii.gz", there.astype(np.uint8))
    assert take_labels.main([*by_hand(tmp_path, {"p": kept.values[classes]}, labels=values), "--accept", "p"]) == 0
    assert prepare_folder.main(["--images", str(tmp_path / "scans"), "--labels", str(tmp_path / "masks"), "--output",
                                str(tmp_path / "data"), "--workers", "1", "--label-map", *pairs]) == 0
    assert read_preprocessing(tmp_path / "data").labels == values
    with h5py.File(tmp_path / "data" / "p" / "mri_norm2.h5") as file:
        label = file["label"][()]
    turned = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt("RAS"))
    assert np.array_equal(label, nib.apply_orientation(classes, turned))


def test_what_was_saved_and_is_no_label_map_is_said(tmp_path, capsys):
    options = by_hand(tmp_path, {"p": np.zeros(SHAPE, np.uint8), "q": np.zeros(SHAPE, np.uint8)}, labels={0: 0, 1: 1})
    (tmp_path / "to_label" / "p" / "Scene.mrb").touch()
    assert take_labels.main(options) == 0
    told = capsys.readouterr().out
    assert "p: no label map was drawn; beside the scan lies 1 .mrb such as Scene.mrb; labels are taken from" in told
    assert "q:" not in told and "2 left as they are" in told


@pytest.mark.parametrize("named", ((), ("left", "right")))
def test_segments_that_are_drawn_in_another_order_later_do_not_swap_the_classes(tmp_path, capsys, named):
    """Whether the data that the run was trained on have names or not."""
    options = by_hand(tmp_path, {"p": np.zeros(SHAPE, np.uint8)}, run="run", labels={0: 0, 1: 1, 2: 2},
                      class_names=named)
    label, drawn = phantom(0)[1], tmp_path / "to_label" / "p" / "Segmentation.seg.nrrd"
    write_seg(drawn, label, {"right": 2, "left": 1})
    if not named:
        before = by_hand(tmp_path / "before", {"p": None})      # any run
        shutil.copy(drawn, tmp_path / "before" / "to_label" / "p")
        assert "which is which is unknown: name the classes" in refused(capsys, take_labels.main, *before)
        line = refused(capsys, take_labels.main, *options)
        assert "which is which is unknown: name the classes" in line and "--class-names right" not in line
        options += ["--class-names", *VALUES]
    assert take_labels.main(options) == 0 and np.array_equal(load(tmp_path / "masks" / "p.nii.gz"), label)
    write_seg(drawn, label, {"R": 2, "L": 1})
    assert take_labels.main([*options, "--replace"]) == 2
    assert "has the segment R, expected only left, right; rename" in capsys.readouterr().err
    write_seg(drawn, label, {"Segment_1": 1, "Segment_2": 2})
    assert take_labels.main(options if named else options[:4]) == 0
    assert np.array_equal(load(tmp_path / "masks" / "p.nii.gz"), label)


def test_a_kill_after_a_label_makes_no_training_case_of_a_test_case(tmp_path, monkeypatch):
    options = by_hand(tmp_path, {"p": None, "q": None}, tests=["q"])
    for number, name in enumerate("pq"):
        save(tmp_path / "to_label" / name / "drawn.nii.gz", phantom(number)[1])

    def killed(path, *_):
        if path.name == "q.nii.gz":
            save(path, phantom(1)[1])
            raise KeyboardInterrupt
        save(path, phantom(0)[1])
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="130"):
        patch.setattr(take_labels, "save_on_grid", killed)
        take_labels.main(options)
    prepare(tmp_path)
    assert listed(tmp_path / "data" / "train.list") == ["p"] and listed(tmp_path / "data" / "test.list") == ["q"]


# ---- how scans and labels lie ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lying", ["folders of cases", "one channel", *(
    pytest.param(lying, marks=pytest.mark.slow) for lying in ("one folder", "folders of labels"))])
def test_labels_are_written_as_those_that_are_there_lie(tmp_path, capsys, lying):
    """In one folder with the scans, in a folder per case, under nnU-Net's names: the printed commands go on."""
    folder, scan, label = {
        "one folder": ("scans", "{0}", "{0}_seg"), "folders of cases": ("scans", "{0}/scan", "{0}/seg"),
        "folders of labels": ("masks", "{0}/{0}", "{0}/{0}"), "one channel": ("masks", "{0}_0000", "{0}")}[lying]
    images, labels = tmp_path / "scans", tmp_path / folder
    for number in range(4):
        image, values = phantom(number)
        save(images / f"{scan.format(f'c_{number:04d}')}.nii.gz", image)
        if number < 2:
            save(labels / f"{label.format(f'c_{number:04d}')}.nii.gz", values)
    data, out = tmp_path / "data", tmp_path / "to_label"
    prepare_folder.main(["--images", str(images), "--labels", str(labels), "--output", str(data), "--workers", "1"])
    names = listed(data / "train.list")
    assert sorted(names) == [f"c_{number:04d}" for number in range(4)]
    run = train_own.main([*TINY, "--data-dir", str(data), "--out", str(tmp_path / "run")])
    capsys.readouterr()
    assert label_next.main(["--run", str(run), "--output", str(out), "--count", "1", "--device", "cpu"]) == 0
    [name] = handed(out)
    save(out / name / "drawn.nii.gz", phantom(int(name[-4:]))[1])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.nii.gz")}
    assert take_labels.main(printed(capsys, "take_labels.py")) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert prepare_folder.main(printed(capsys, "prepare_folder.py")) == 0
    told = capsys.readouterr().out
    assert "train.list: 3 labelled cases and 1 unlabelled" in told and "1 prepared, 3 skipped" in told
    assert set(listed(data / "train.list")) == set(names)


def test_channels_in_one_file_are_labelled_as_one_scan(tmp_path, capsys):
    """The Decathlon's 4D files."""
    home, data, out = tmp_path / "in", tmp_path / "data", tmp_path / "to_label"
    for number in range(3):
        image, label = phantom(number)
        save(home / "imagesTr" / f"p{number}.nii.gz", np.stack([image, 900 - image], -1))
        if number < 2:
            save(home / "labelsTr" / f"p{number}.nii.gz", label)
    (home / "dataset.json").write_text(json.dumps({
        "labels": {"0": "background", "1": "left", "2": "right"}, "modality": {"0": "T1", "1": "T2"},
        "training": [f"imagesTr/p{number}.nii.gz" for number in range(3)]}), encoding="utf-8")
    assert prepare_folder.main(["--images", str(home), "--output", str(data), "--workers", "1"]) == 0
    run = train_own.main([*TINY, "--data-dir", str(data), "--out", str(tmp_path / "run")])
    capsys.readouterr()
    assert label_next.main(["--run", str(run), "--output", str(out), "--count", "1", "--device", "cpu"]) == 0
    save(out / "p2" / "drawn.nii.gz", phantom(2)[1])
    assert take_labels.main(printed(capsys, "take_labels.py")) == 0
    assert np.array_equal(load(home / "labelsTr" / "p2.nii.gz"), phantom(2)[1])
    assert prepare_folder.main(printed(capsys, "prepare_folder.py")) == 0
    assert "3 labelled cases" in capsys.readouterr().out


@pytest.mark.parametrize("end", (".mha", ".nii"))
@pytest.mark.parametrize("listed_too", (True, False))
def test_labels_of_another_file_ending_than_the_scans_are_prepared(tmp_path, end, listed_too):
    """Those that take_labels.py writes: new ones, and one in place of an older one."""
    home, out, cases = tmp_path / "in", tmp_path / "to_label", {}

    def put(folder, name, array):
        (home / folder).mkdir(parents=True, exist_ok=True)
        path = home / folder / f"{name}{end}"
        if end == ".nii":
            save(path, array, np.eye(4))
        else:
            sitk.WriteImage(sitk.GetImageFromArray(array.transpose(2, 1, 0)), str(path))
        return path
    for number in range(3):
        image, label = phantom(number)
        scan = put("imagesTr", name := f"p{number}", image)
        if number < 2:
            put("labelsTr", name, np.where(label == 2, 0, label))
        if number:
            save(out / name / "drawn.nii.gz", label, np.eye(4) if end == ".nii" else np.diag([-1.0, -1, 1, 1]))
            cases[name] = asdict(Handed((str(scan),), (scan.name,)))
    training = [{"image": f"imagesTr/p{number}{end}"} | ({"label": f"labelsTr/p{number}{end}"} if number < 2 else {})
                for number in range(3)]
    (home / "dataset.json").write_text(json.dumps({
        "labels": {"background": 0, "left": 1, "right": 2}, "file_ending": end} | ({"training": training} if listed_too
                                                                                   else {})), encoding="utf-8")
    Round(labels={0: 0, 1: 1, 2: 2}, cases=cases).write(out)
    assert take_labels.main(["--input", str(out), "--labels", str(home / "labelsTr"), "--replace"]) == 0
    assert prepare_folder.main(["--images", str(home), "--output", str(tmp_path / "data"), "--workers", "1"]) == 0
    for number in range(3):
        with h5py.File(tmp_path / "data" / f"p{number}" / "mri_norm2.h5") as file:
            assert set(np.unique(file["label"])) == ({0, 1, 2} if number else {0, 1})


def printed(capsys, script):
    """The options of the command that is printed last, which is of this script."""
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    python, path, *options = shlex.split(line.removeprefix("next: "))
    assert (python, path) == ("python", f"code/{script}")
    return options


@pytest.mark.parametrize("linked", [False, True])
def test_a_round_before_any_label_knows_its_scans(tmp_path, capsys, linked):
    """Nested folders whose files share names, and two channels: what is printed prepares them. Also links into a store
    of git-annex or DVC, where the files have other names.
    """
    for number in range(3):
        for channel in ("flair", "t1"):
            path = tmp_path / f"scans/p{number}/p{number}_{channel}.nii.gz"
            save(path, phantom(number)[0])
            if linked:
                path.symlink_to(path.rename(tmp_path / f"MD5E-s{number}--{channel}.nii.gz"))
    out = tmp_path / "to_label"
    assert label_next.main(["--labeled", "0", "--images", str(tmp_path / "scans"), "--output", str(out), "--count", "1",
                            "--channels", "flair", "t1", "--workers", "1"]) == 0
    [name] = handed(out)
    save(out / name / "drawn.nii.gz", phantom(0)[1])
    options = printed(capsys, "take_labels.py")
    options[options.index("--labels") + 1] = str(tmp_path / "masks")
    assert take_labels.main(options) == 0
    options = printed(capsys, "prepare_folder.py")
    assert options == ["--images", str(tmp_path / "scans"), "--channels", "flair", "t1", "--labels",
                       str(tmp_path / "masks")]
    assert prepare_folder.main([*options, "--output", str(tmp_path / "data"), "--workers", "1"]) == 0


@pytest.mark.filterwarnings("error")
def test_channels_that_no_scan_has_are_said_beside_the_scans_there_are(tmp_path, capsys):
    for number in range(2):
        save(tmp_path / "scans" / f"c{number}_s3.nii.gz", phantom(number)[0])
    with pytest.raises(SystemExit, match="2"):
        label_next.main(["--labeled", "0", "--images", str(tmp_path / "scans"), "--output", str(tmp_path / "to_label"),
                         "--channels", "3", "5", "--workers", "1"])
    assert "no scan there can be read by --channels 3 5, of c0_s3, c1_s3" in capsys.readouterr().err


@pytest.mark.parametrize("ends", (("0000", "0001"), ("flair", "t1")))
def test_scans_named_as_channels_ask_for_the_option_once(tmp_path, capsys, ends):
    for name in ("p0", "p1"):
        for end in ends:
            save(tmp_path / "scans" / f"{name}_{end}.nii.gz", phantom(0)[0])
    options = ["--labeled", "0", "--images", tmp_path / "scans", "--output", tmp_path / "to_label", "--workers", "1"]
    assert (f"p0_{ends[0]}.nii.gz: is one of 4 files that are channels by their names: say so with --channels "
            f"{' '.join(ends)}, or rename") in refused(capsys, label_next.main, *options)
    assert label_next.main([*map(str, options), "--channels", *ends]) == 0


def test_segments_that_were_drawn_in_any_order_before_any_label_are_known_by_their_names(tmp_path, capsys):
    for number in range(3):
        save(tmp_path / "my scans" / f"c{number}.nii.gz", phantom(number)[0])
    out = tmp_path / "to_label"
    assert label_next.main(["--labeled", "0", "--images", str(tmp_path / "my scans"), "--output", str(out), "--count",
                            "3", "--workers", "1"]) == 0
    for name, values in zip(handed(out), ({"left": 1, "right": 2}, {"right": 2, "left": 1}, {}), strict=True):
        label = phantom(int(name[1:]))[1]
        if values:
            write_seg(out / name / "Segmentation.seg.nrrd", label, values)
        else:
            save(out / name / "drawn.nii.gz", label)
    options = printed(capsys, "take_labels.py")
    options[options.index("--labels") + 1] = str(tmp_path / "masks")
    assert "name the classes (--class-names)" in refused(capsys, take_labels.main, *options)
    assert not any((tmp_path / "masks").glob("*.*"))
    assert "names left twice" in refused(capsys, take_labels.main, *options, "--class-names", "left", "left")
    assert take_labels.main([*options, "--class-names", "left", "right"]) == 0
    for name in handed(out):
        assert np.array_equal(load(tmp_path / "masks" / f"{name}.nii.gz"), phantom(int(name[1:]))[1])
    options = printed(capsys, "prepare_folder.py")
    assert options[-3:] == ["--class-names", "left", "right"] and str(tmp_path / "my scans") in options


def test_a_structure_of_a_later_round_does_not_become_the_class_of_an_earlier_ones(tmp_path, capsys):
    """Each round draws one segment, which has the value 1 in its file: the second one is another structure."""
    for number in range(4):
        save(tmp_path / "scans" / f"c{number}.nii.gz", phantom(number)[0])
    masks, cases = tmp_path / "masks", {}
    for name, value, where in (("left", 1, "one"), ("Left", 1, "two"), ("right", 2, "three")):
        out = tmp_path / where
        assert label_next.main(["--labeled", "0", "--images", str(tmp_path / "scans"), "--output", str(out), "--count",
                                "1", "--by", "random", "--seed", str(len(cases)), "--workers", "1"]) == 0
        [case] = cases[where] = handed(out)
        write_seg(out / case / "Segmentation.seg.nrrd", (phantom(int(case[1:]))[1] == value) * np.uint8(1), {name: 1})
    options = ["--images", str(tmp_path / "scans"), "--labels", str(masks), "--replace"]
    for where in ("one", "two"):
        assert take_labels.main(["--input", str(tmp_path / where), *options]) == 0
    assert json.loads((masks / "segments.json").read_text(encoding="utf-8")) == {"left": 1, "Left": 1}
    error = refused(capsys, take_labels.main, "--input", tmp_path / "three", *options)
    assert "the segment right has the value 1, as Left has in labels taken before; where these are two str" in error
    third = ["--input", tmp_path / "three", *options]
    error = refused(capsys, take_labels.main, *third, "--class-names", "right", "left")
    assert "would make left class 2, and labels that are in" in error and "have it as 1" in error
    assert take_labels.main([*map(str, third), "--class-names", "left", "right"]) == 0
    [case] = cases["three"]
    assert set(np.unique(load(masks / f"{case}.nii.gz"))) == {0, 2}
    assert prepare_folder.main(["--images", str(tmp_path / "scans"), "--labels", str(masks), "--output",
                                str(tmp_path / "data"), "--class-names", "left", "right", "--workers", "1"]) == 0
    assert "segments.json" not in capsys.readouterr().out


def test_where_files_are_is_known_by_the_ends_of_their_paths(tmp_path):
    for folder in ("a/p1", "b/p1", "a/p2"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "scan.nii.gz").touch()
    places = Places(tmp_path)
    assert places.of("/elsewhere/b/p1/scan.nii.gz") == tmp_path / "b/p1/scan.nii.gz"
    assert places.of("/elsewhere/p2/scan.nii.gz") == tmp_path / "a/p2/scan.nii.gz"
    with pytest.raises(InputError, match="holds 2 files called scan.nii.gz"):
        places.of("/elsewhere/c/p1/scan.nii.gz")
    with pytest.raises(InputError, match="is no longer there; --images"):
        Places(None).of("/elsewhere/c/p1/scan.nii.gz")


# ---- choosing -----------------------------------------------------------------------------------------------------


def test_farthest_first_by_hand():
    places = np.array([[0.0], [1], [2], [10], [4]])
    assert farthest_first(places, [0], 3) == [3, 4, 2]
    assert farthest_first(places, [], 3) == [4, 3, 0]       # the one nearest to the mean, 3.4, then the farthest
    assert farthest_first(places, [0, 1], 9) == [3, 4, 2]   # no more than there are
    assert farthest_first(np.zeros((3, 2)), [1], 2) == [0, 2] and farthest_first([], [], 0) == []
    scaled = np.array([[0.0, 0], [1, 0], [0, 1000]])        # units do not matter
    assert farthest_first(scaled, [0], 1) == farthest_first(scaled * (1, 1e-3), [0], 1)


def test_appearance_does_not_depend_on_how_a_scan_is_stored():
    array = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    scan = ScanFile(array, np.eye(4), np.array([1.0, 2, 3]), None)
    turned = ScanFile(array.transpose(2, 0, 1)[::-1], np.eye(4), np.array([3.0, 1, 2]), None)
    assert np.allclose(appearance([scan]), appearance([turned]))


@pytest.mark.parametrize("begun", (True, False))
def test_a_killed_choice_goes_on(first, monkeypatch, begun):
    """Whatever was proposed is kept, and the folder is known as its round's."""
    def killed(*_):
        (first.out / "proposals").mkdir()
        (first.out / "proposals" / "c03.nii.gz.txt").write_text("kept", encoding="utf-8")
        raise KeyboardInterrupt
    if begun:
        with monkeypatch.context() as patch, pytest.raises(SystemExit, match="130"):
            patch.setattr(label_next, "propose", killed)
            choose(first)
    else:
        first.out.mkdir()
        (first.out / ".lock").write_text("killed while it read", encoding="utf-8")
    assert choose(first, "--count", "1") == 0 and len(handed(first.out)) == 1
    assert (first.out / "proposals" / "c03.nii.gz.txt").exists() == begun


def test_a_killed_choice_before_any_label_goes_on(first, monkeypatch):
    args = ["--labeled", "0", "--images", str(first.scans), "--output", str(first.out), "--count", "2"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="130"):
        patch.setattr(label_next.labelling, "copied", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        label_next.main(args)
    assert label_next.main(args) == 0 and len(handed(first.out)) == 2


def test_data_that_have_moved_are_named_and_the_round_goes_on_there(first, capsys):
    first.data.rename(first.home / "moved data")
    assert "data: is no longer there; --data-dir" in refused(
        capsys, label_next.main, "--run", first.run, "--output", first.out)
    assert choose(first, "--count", "5", "--by", "spread", "--data-dir", str(first.home / "moved data")) == 0
    [name, *_] = handed(first.out)
    image = load(first.out / name / f"{name}_seg.nii.gz")
    image[4, 5, 5:9] = 3 - image[4, 5, 5:9].clip(1)
    save(first.out / name / f"{name}_seg.nii.gz", image)
    capsys.readouterr()
    assert take(first) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    words = shlex.split(line)
    assert words[words.index("--output") + 1].endswith("moved data")


@pytest.mark.parametrize("change", ({"labels": {"0": 0, "1": 2, "2": 1}}, {"spacing": [1, 1, 1]}, None))
def test_data_that_were_prepared_anew_are_not_labelled_by_the_old_run(first, capsys, change):
    path = first.data / "preprocessing.json"
    if change:
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    else:
        path.unlink()
    line = refused(capsys, label_next.main, "--run", first.run, "--output", first.out, "--device", "cpu")
    assert f"{first.data}: its preprocessing.json is not that of" in line and not first.out.exists()
