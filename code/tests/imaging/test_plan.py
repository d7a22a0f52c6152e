"""plan.json: what follows from what is seen of somebody's scans, and that an edited plan is obeyed."""
import itertools
import json
import re
import tempfile
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import prepare_folder
import train_own
from dataloaders.own import Own
from imaging import own_folder
from imaging.plan import ORIENTATIONS, VOXELS, Choice, Plan, plan_preparation, plan_training, read_plan, shrunk
from imaging.record import read_preprocessing
from imaging.survey import alike_pairs, look_at_label, look_at_scan
from runtime.errors import InputError
from training.recipe_options import command_line


def ball(shape, middle, radii):
    grid = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return sum(((x - m) / r) ** 2 for x, m, r in zip(grid, middle, radii, strict=True)) < 1


def scan_of(label, seed, low=0.0):
    """Noise, the foreground brighter."""
    rng = np.random.default_rng(seed)
    return (low + 300 + 200 * (label > 0) + ndimage.gaussian_filter(rng.normal(0, 60, label.shape), 1)).astype(np.int16)


@pytest.fixture
def folder(tmp_path):
    """folder(labels, affine, ...) -> options of prepare_folder for scans of these label maps, of which the first
    `labelled` have their label.
    """
    def write(labels, affine=None, labelled=None, scan=scan_of):
        for kind in ("images", "labels"):
            (tmp_path / kind).mkdir(exist_ok=True)
        for number, label in enumerate(labels):
            own = np.diag([*(affine or (1, 1, 1)), 1.0]) if affine is None or np.ndim(affine) == 1 else affine
            image = scan(label, number)
            nib.save(nib.Nifti1Image(image, own), tmp_path / "images" / f"c{number}.nii.gz")
            if number < (len(labels) if labelled is None else labelled):
                nib.save(nib.Nifti1Image(label.astype(np.uint8), own), tmp_path / "labels" / f"c{number}.nii.gz")
        return ["--images", str(tmp_path / "images"), "--labels", str(tmp_path / "labels"), "--output",
                str(tmp_path / "out"), "--workers", "1"]
    return write


def kidneys(count, one_class=False, shape=(48, 40, 28), axis=0):
    """Two balls beside each other along an axis, as one class or two."""
    labels = []
    for seed in range(count):
        rng, label = np.random.default_rng(seed), np.zeros(shape, np.uint8)
        for value, place in ((1, 0.27), (2, 0.73)):
            middle = np.array(shape) / 2
            middle[axis] = place * shape[axis]
            label[ball(shape, middle + rng.uniform(-1.5, 1.5, 3), rng.uniform(0.8, 1, 3) * 8)] = (
                1 if one_class else value)
        labels.append(label)
    return labels


def lines_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["plan"]


# ---- preparation -----------------------------------------------------------------------------------------------


def seen(spacing, shape=(100, 100, 50), lowest=0.0, background=0.0, values=(1.0, 2.0, 3.0)):
    return {"shape": shape, "spacing": spacing,
            "channels": [{"lowest": lowest, "background": background, "foreground": list(values)}]}


@pytest.mark.parametrize(("spacings", "planned"), [
    ([(1, 1, 1)] * 3, None),
    ([(1, 1, 1), (1.05, 1, 1)], None),
    ([(1, 1, 1), (2, 1, 1), (3, 1, 1)], [2, 1, 1]),
    ([(1, 1, 5), (1, 1, 10), (1, 1, 10)], [1, 1, 6]),       # nnU-Net: the coarse axis takes the 10th percentile
    ([(4, 0.5, 0.5), (8, 0.5, 0.6), (6, 0.5, 0.5)], [4.4, 0.5, 0.5])])
def test_voxels_that_differ_are_resampled(spacings, planned):
    assert plan_preparation([seen(spacing) for spacing in spacings])["spacing"].value == planned


@pytest.mark.parametrize(("spacing", "shape", "slices"), [
    ((1, 1, 1), (100, 100, 50), "none"), ((1, 1, 2.9), (100, 100, 50), "none"), ((1, 1, 3), (100, 100, 50), "z"),
    ((5, 1, 1), (20, 100, 100), "x"), ((1, 4, 1), (90, 20, 90), "y"), ((1, 1, 1), (90, 80, 1), "z"),
    ((1, 1, 1), (1, 80, 90), "x")])
def test_anisotropic_stacks_and_images_are_slices(spacing, shape, slices):
    assert plan_preparation([seen(spacing, shape)] * 3)["slices"].value == slices


@pytest.mark.parametrize(("lowest", "background", "says", "kind"), [
    (0, 0.0, None, "zscore"), (0, 0.4, None, "zscore_brain"), (-1024, 0.4, None, "ct"),
    (-1024, 0.4, False, "zscore_brain"), (-100, 0.1, True, "ct"), (-499, 0, None, "zscore")])
def test_intensities_follow_from_what_they_look_like(lowest, background, says, kind):
    lines = plan_preparation([seen((1, 1, 1), lowest=lowest, background=background), seen((1, 1, 1), lowest=-1024,
                              background=0.9)], says)
    assert lines["normalise"].value == kind and bool(lines["windows"].value) == (kind == "ct")


def test_the_window_of_ct_is_that_of_the_labelled_foreground():
    values = np.random.default_rng(0).normal(40, 20, 5000)
    [[low, high, mean, deviation]] = plan_preparation([seen((1, 1, 1), lowest=-1000, values=values)])["windows"].value
    assert (low, high) == pytest.approx(np.percentile(values, (0.5, 99.5)), abs=1e-3)
    assert (mean, deviation) == pytest.approx((values.clip(low, high).mean(), values.clip(low, high).std()), abs=1e-3)


# ---- training --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(300, 300, 28), (48, 40, 28), (130, 500, 90), (20, 20, 20), (512, 512, 400)])
def test_a_patch_follows_the_median_shape_up_to_a_size(shape):
    lines = plan_training(Plan(), [shape], [(1, 1, 1)], {}, Choice(()))
    patch = lines["patch_size"].value
    assert all(side % 16 == 0 and 16 <= side <= extent + 15 for side, extent in zip(patch, shape, strict=True))
    assert np.prod(patch) <= VOXELS and (np.prod(patch) > 0.7 * VOXELS or patch == [16 * -(-n // 16) for n in shape])
    assert shape[2] != 28 or patch[2] == 32 or np.prod([*shape[:2], 32]) > VOXELS     # a thin stack stays whole


def test_shrinking_keeps_proportions():
    assert shrunk((96, 96, 96), 48 ** 3) == (48, 48, 48) and shrunk((32, 16), 10 ** 6) == (32, 16)
    assert shrunk((16, 16, 16), 1) == (16, 16, 16)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_axis_that_tells_two_classes_apart_is_not_mirrored(axis, tmp_path):
    shape = tuple(48 if one == axis else 32 for one in range(3))
    labels = kidneys(4, shape=shape, axis=axis)
    for label in labels:
        [(pair, orders)] = alike_pairs(label).items()
        assert pair == (1, 2) and orders == tuple(int(one == axis) for one in range(3))
    lines = plan_training(Plan(), [shape], [(1, 1, 1)], {str(n): found(label) for n, label in enumerate(labels)},
                          Choice(("left", "right")))
    assert lines["flips"].value == [one for one in range(3) if one != axis]
    assert f"axis {axis}: it tells left and right apart" in lines["flips"].reason
    assert axis == 2 or lines["quarter_turns"].value is False
    slices = plan_training(Plan(slices="z", patch_size=(32, 32)), [shape], [(3, 1, 1)],
                           {str(n): found(label, True) for n, label in enumerate(labels)}, Choice(()))
    assert slices["flips"].value == [one for one in range(2) if one != axis - 1]


def found(label, slices=False):
    """What is seen of a label map."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "case.h5"
        with h5py.File(path, "w") as file:
            file["label"] = label
        return look_at_label(path, slices)


def test_classes_that_are_told_apart_by_their_shape_or_lie_in_any_order_are_mirrored():
    nested = np.zeros((40, 40, 40), np.uint8)
    nested[ball(nested.shape, (20, 20, 20), (15, 15, 15))] = 1
    nested[ball(nested.shape, (20, 20, 20), (8, 8, 8))] = 2
    bar = np.zeros((40, 40, 40), np.uint8)
    bar[ball(bar.shape, (10, 20, 20), (7, 7, 7))] = 1
    bar[30:33, 2:38, 18:25] = 2
    swapped = kidneys(2)
    swapped[1] = np.where(swapped[1] > 0, 3 - swapped[1], 0).astype(np.uint8)
    for labels in ([nested], [bar], swapped):
        lines = plan_training(Plan(), [(40, 40, 40)], [(1, 1, 1)],
                              {str(n): found(label) for n, label in enumerate(labels)}, Choice(()))
        assert lines["flips"].value == [0, 1, 2] and lines["quarter_turns"].value


def test_the_largest_component_is_kept_only_of_classes_that_are_one_in_every_case():
    two, one = kidneys(1, one_class=True)[0], kidneys(1)[0]
    lesions = one.copy()
    lesions[lesions == 2] = 0
    lesions[[2, 6, 9], 30, 3] = 2
    for labels, kept in (([one], [1, 2]), ([two], []), ([one, two], [2]), ([one, lesions], [1]), ([lesions], [1])):
        lines = plan_training(Plan(), [(48, 40, 28)], [(1, 1, 1)],
                              {str(n): found(label) for n, label in enumerate(labels)}, Choice(()))
        assert lines["keep_largest"].value == lines["components"].value == kept
    forked = np.zeros((6, 20, 20), np.uint8)        # one in the volume, two in a slice
    forked[:, 3:6, 3:6] = forked[:, 12:15, 3:6] = forked[0, 3:15, 3:6] = 1
    lines = plan_training(Plan(slices="z", patch_size=(16, 16)), [(6, 20, 20)], [(3, 1, 1)], {"a": found(forked, True)},
                          Choice(()))
    assert lines["keep_largest"].value == [1] and lines["components"].value == []


@pytest.mark.parametrize(("shape", "spacing", "turns"), [
    ((40, 40, 20), (1, 1, 1), True), ((60, 40, 20), (1, 1, 1), False), ((40, 40, 20), (1.5, 1, 1), False),
    ((40, 40, 90), (1, 1, 2), True)])
def test_quarter_turns_need_a_square_plane(shape, spacing, turns):
    assert plan_training(Plan(), [shape], [spacing], {}, Choice(()))["quarter_turns"].value is turns


# ---- prepare_folder writes it, train_own obeys it ----------------------------------------------------------------


def own_recipe(out, *args):
    return command_line(train_own.PRESETS, "", ["mini", "--data-dir", str(out), *args])


def test_the_plan_is_written_with_reasons_and_the_recipe_follows_it(folder, tmp_path, capsys):
    command = [*folder(kidneys(6), labelled=5), "--holdout", "1", "--class-names", "left", "right"]
    assert prepare_folder.main(command) == 0
    assert "plan: volumes, voxels as they are, zscore, patches of 48 x 48 x 32" in capsys.readouterr().out
    lines = lines_of(tmp_path / "out" / "plan.json")
    assert all(line["reason"] and line["value"] == line["planned"] for line in lines.values())
    assert "c4" not in json.loads((tmp_path / "out" / "plan.json").read_text(encoding="utf-8"))["seen"]["labels"]
    recipe = own_recipe(tmp_path / "out")
    assert (recipe.method, recipe.labeled, recipe.num_classes, recipe.network) == ("cml_plus", 4, 3, "vnet")
    assert recipe.classes == ("left", "right") and recipe.patch_size == (48, 48, 32)        # 28 slices are not halved
    assert recipe.flips == (1, 2) and not recipe.quarter_turns and recipe.keep_largest == recipe.components == (1, 2)
    assert recipe.reasons()["flips"] == lines["flips"]["reason"] and recipe.complete().stride == (24, 24, 16)
    assert not recipe.half_resolution and recipe.out.name == "cml_plus_4_seed1337_mini"


def test_an_edited_plan_is_obeyed(folder, tmp_path, capsys):
    command, out = folder(kidneys(4)), tmp_path / "out"
    assert prepare_folder.main(command) == 0
    values = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    changes = {"patch_size": [32, 16, 16], "flips": [0, 1, 2], "quarter_turns": True, "keep_largest": [],
               "components": [2], "foreground": 0.25, "class_names": ["a", "b"]}
    for name, value in changes.items():
        values["plan"][name]["value"] = value
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(values), encoding="utf-8")
    for args in ((), ("--plan", str(edited))):
        recipe = own_recipe(out, *args)
        for name, value in changes.items():
            assert (getattr(recipe, name) == (tuple(value) if isinstance(value, list) else value)) == bool(args), name
    assert recipe.reasons()["flips"].startswith("edited, [1, 2] was planned")
    (out / "plan.json").write_bytes(edited.read_bytes())
    assert prepare_folder.main(command) == 0        # it stays
    assert (out / "plan.json").read_bytes() == edited.read_bytes() and own_recipe(out).flips == (0, 1, 2)
    assert read_preprocessing(out).class_names == ("a", "b")
    assert prepare_folder.main([*command, "--class-names", "a", "b", "--normalise", "zscore"]) == 0     # as it says
    for option in (["--class-names", "left", "right"], ["--normalise", "minmax"], ["--spacing", "2", "2", "2"]):
        with pytest.raises(SystemExit, match="2"):
            prepare_folder.main([*command, *option])
        assert f"{option[0]} and {out / 'plan.json'}, which is edited" in capsys.readouterr().err
    values["plan"]["spacing"]["value"] = [2, 2, 2]
    edited.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(InputError, match="edited.json: the scans in .*out were prepared in another way"):
        own_recipe(out, "--plan", str(edited))
    swapped = edited.with_name("swapped.json")
    text = (out / "plan.json").read_text(encoding="utf-8")
    swapped.write_text(text.replace('["a", "b"]', '["b", "a"]'), encoding="utf-8")
    with pytest.raises(InputError, match="swapped.json: calls another class b than .*preprocessing.json"):
        own_recipe(out, "--plan", str(swapped))
    capsys.readouterr()
    other = [*command[:4], "--output", str(tmp_path / "other"), "--workers", "1", "--plan", str(edited)]
    assert prepare_folder.main(other) == 0
    with h5py.File(tmp_path / "other" / "c0" / "mri_norm2.h5") as file:
        assert file["image"].shape == (24, 20, 14)
    assert own_recipe(tmp_path / "other").patch_size == (32, 16, 16)


def test_what_is_advised_of_an_edited_plan_keeps_it_and_the_test_cases(folder, tmp_path, capsys):
    command, out = [*folder(kidneys(3)), "--holdout", "1"], tmp_path / "out"
    assert prepare_folder.main(command) == 0
    values = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    for name, value in {"spacing": [2, 2, 2], "keep_largest": [], "class_names": ["a", "b"]}.items():
        values["plan"][name]["value"] = value
    (out / "plan.json").write_text(json.dumps(values), encoding="utf-8")
    edited = (out / "plan.json").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        prepare_folder.main(command)
    [way] = re.findall(r"way \(spacing was None, now \(2.0, 2.0, 2.0\)\); (--plan \S+ --output) OTHER .*--force",
                       capsys.readouterr().err)
    for more, there in (([*way.split(), str(tmp_path / "other")], tmp_path / "other"), (["--force"], out)):
        assert prepare_folder.main([*folder(kidneys(3 + (there == out))), "--holdout", "1", *more]) == 0
        assert (there / "plan.json").read_bytes() == edited and own_recipe(there).class_names == ("a", "b")
        assert (there / "test.list").read_text(encoding="utf-8") == "c2\n"
        with h5py.File(there / "c0" / "mri_norm2.h5") as file:
            assert file["image"].shape == (24, 20, 14)


@pytest.mark.parametrize(("name", "value", "words"), [
    ("patch_size", [40, 40, 40], "multiples of 16"), ("patch_size", [32, 32], "expected 3 multiples"),
    ("flips", [3], "axes from 0 to 2"), ("flips", [1, 1], "one of them twice"),
    ("class_names", ["left", "left"], "one of them twice"), ("class_names", ["left", ""], "letters that can be seen"),
    ("normalise", "log", "normalise"),
    ("foreground", 2, "a share"), ("slices", "q", "slices"), ("spacing", "wide", "spacing"),
    ("spacing", [1, 1], "x, y and z"), ("normalise", "ct", "windows is empty")])
def test_a_plan_that_cannot_be_followed_is_refused(folder, tmp_path, name, value, words):
    assert prepare_folder.main(folder(kidneys(2))) == 0
    path = tmp_path / "out" / "plan.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["plan"][name]["value"] = value
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(InputError, match=f"plan.json: .*{words}"):
        own_recipe(tmp_path / "out")


@pytest.mark.parametrize("axis", "xyz")
def test_stacks_are_prepared_with_their_slices_first(folder, tmp_path, axis):
    place = "xyz".index(axis)
    shape, sides = [40, 40, 40], [1, 1, 1]
    shape[place], sides[place] = 9, 5
    labels = kidneys(3, shape=tuple(shape), axis=(place + 1) % 3)
    assert prepare_folder.main(folder(labels, affine=sides, labelled=2)) == 0
    plan, _ = read_plan(tmp_path / "out" / "plan.json")
    assert plan.slices == axis and read_preprocessing(tmp_path / "out").orientation == ORIENTATIONS[axis]
    with h5py.File(tmp_path / "out" / "c0" / "mri_norm2.h5") as file:
        assert file["image"].shape == (9, 40, 40)
    recipe = own_recipe(tmp_path / "out")
    assert recipe.network == "unet" and recipe.patch_size == (48, 48) and recipe.like == "ACDC"
    assert len(recipe.flips) == 1       # the other axis of the plane tells the classes apart


@pytest.mark.parametrize("axis", "xyz")
def test_a_first_call_that_was_killed_before_the_plan_is_continued(folder, tmp_path, monkeypatch, capsys, axis):
    shape, sides = [40, 40, 40], [1, 2, 3]
    shape["xyz".index(axis)], sides["xyz".index(axis)] = 9, 15
    labels = kidneys(3, shape=tuple(shape), axis=("xyz".index(axis) + 1) % 3)
    command = [*folder(labels, affine=sides), "--spacing", *map(str, sides)]
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="130"):
        patch.setattr(own_folder, "write_lists", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        prepare_folder.main(command)
    assert not (tmp_path / "out" / "plan.json").exists()
    for more in (command[:-4], command):
        capsys.readouterr()
        assert prepare_folder.main(more) == 0 and "0 prepared, 3 skipped" in capsys.readouterr().out
        plan, _ = read_plan(tmp_path / "out" / "plan.json")
        assert plan.slices == axis and plan.spacing == tuple(sides)
        (tmp_path / "out" / "plan.json").unlink()


def test_a_ct_scan_is_windowed_as_the_record_says(folder, tmp_path):
    labels = kidneys(3)
    assert prepare_folder.main(folder(labels, labelled=2, scan=lambda label, seed: scan_of(label, seed, -1300.0))) == 0
    record = read_preprocessing(tmp_path / "out")
    [(low, high, mean, deviation)] = record.windows
    assert record.normalise == "ct" and low < mean < high
    with h5py.File(tmp_path / "out" / "c2" / "mri_norm2.h5") as file:
        image = file["image"][()]
    source = nib.load(tmp_path / "images" / "c2.nii.gz").get_fdata()
    assert image == pytest.approx((source.clip(low, high) - mean) / deviation, abs=1e-4)


def test_a_plan_for_ct_is_edited_to_other_intensities_by_one_line(folder, tmp_path):
    command = folder(kidneys(3), labelled=2, scan=lambda label, seed: scan_of(label, seed, -1300.0))
    assert prepare_folder.main(command) == 0
    edited, values = tmp_path / "edited.json", json.loads((tmp_path / "out" / "plan.json").read_text(encoding="utf-8"))
    values["plan"]["normalise"]["value"] = "zscore"
    edited.write_text(json.dumps(values), encoding="utf-8")
    assert prepare_folder.main([*command, "--plan", str(edited), "--output", str(tmp_path / "other")]) == 0
    assert read_preprocessing(tmp_path / "other").windows == () and own_recipe(tmp_path / "other").method == "cml_plus"


def test_scans_are_looked_through_once_for_the_window_that_is_asked_for(folder, tmp_path, monkeypatch):
    looked = []

    def look(case, **how):
        looked.append(case)
        return look_at_scan(case, **how)
    monkeypatch.setattr(own_folder, "look_at_scan", look)
    assert prepare_folder.main([*folder(kidneys(3), labelled=2), "--normalise", "ct"]) == 0
    assert len(looked) == 3 and len(read_preprocessing(tmp_path / "out").windows) == 1


def test_labelled_cases_count_wherever_they_stand_in_a_list_of_ones_own(folder, tmp_path, capsys):
    command = folder(kidneys(3), labelled=2)
    assert prepare_folder.main(command) == 0
    (tmp_path / "out" / "train.list").write_text("c2\nc1\nc0\n", encoding="utf-8")
    assert prepare_folder.main(command) == 0
    assert "train.list: 2 labelled cases and 1 unlabelled" in capsys.readouterr().out
    assert own_recipe(tmp_path / "out").labeled == 2
    (tmp_path / "out" / "train.list").write_text("c2\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        prepare_folder.main(command)
    assert "train.list: none of its cases has a label" in capsys.readouterr().err


def test_cases_of_a_validation_list_are_not_trained_on(folder, tmp_path):
    command = [*folder(kidneys(5), labelled=4), "--holdout", "1"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "val.list").write_text("c1\n", encoding="utf-8")
    assert prepare_folder.main(command) == 0
    split = Own(own_recipe(tmp_path / "out")).split()
    assert (split.labelled, split.unlabelled, split.val, split.test) == (["c0", "c2"], ["c4"], ["c1"], ["c3"])
    seen = json.loads((tmp_path / "out" / "plan.json").read_text(encoding="utf-8"))["seen"]
    assert set(seen["labels"]) == {"c0", "c2"} and set(seen["scans"]) == {"c0", "c2", "c4"}


def test_labels_all_over_are_trained_on_alone(folder, tmp_path, capsys):
    assert prepare_folder.main(folder(kidneys(3))) == 0
    assert "--method supervised" in capsys.readouterr().out and own_recipe(tmp_path / "out").method == "supervised"
    assert own_recipe(tmp_path / "out", "--labeled", "2").method == "cml_plus"


def test_patches_hold_foreground_as_often_as_the_recipe_says(folder, tmp_path):
    label = np.zeros((96, 96, 32), np.uint8)
    label[80:84, 80:84, 20:24] = 1
    label[2, 2, 2] = 2
    assert prepare_folder.main(folder([label, label])) == 0
    for share, augment in itertools.product((0.0, 1.0), ("paper", "strong")):
        recipe = own_recipe(tmp_path / "out", "--patch-size", "32", "32", "16", "--foreground", str(share), "--augment",
                            augment)
        data = Own(recipe)
        [scan, _] = data.train_scans(data.split().labelled, labelled=True)
        patches = [data.sample(scan, np.random.default_rng(seed))[1] for seed in range(40)]
        met = [set(np.unique(patch)) for patch in patches]
        assert all(patch.shape == (32, 32, 16) for patch in patches)
        held = [len(one & {1, 2}) > 0 for one in met]
        if not share:
            assert sum(held) < 25
        elif augment == "paper":
            assert all(held) and 10 <= sum(2 in one for one in met) <= 30      # one voxel as often as a block
        else:       # a turn may lose the one voxel
            assert sum(held) > 28


def test_a_line_that_a_plan_lacks_is_the_default(folder, tmp_path):
    assert prepare_folder.main(folder(kidneys(2))) == 0
    path = tmp_path / "out" / "plan.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    for name in ("slices", "flips", "foreground"):
        del values["plan"][name]
    path.write_text(json.dumps(values), encoding="utf-8")
    own = own_recipe(tmp_path / "out")
    assert own.flips == () and own.foreground == 0.5 and "flips" not in own.reasons()
