"""Somebody's own data from end to end, and how they differ from the published sets."""
import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import predict
import prepare_folder
import test_own as testing_own
import train_ACDC
import train_BraTS
import train_LA
import train_own
from dataloaders import lists, scans
from dataloaders.la import LA
from runtime.errors import InputError
from training import recipe as recipe_module
from training.recipe_options import command_line

pytestmark = pytest.mark.usefixtures("shallow", "no_curves")
TINY = ["--patch-size", "32", "32", "32", "--labeled-batch", "2",
        "--unlabeled-batch", "2", "--pre-steps", "1", "--self-steps", "1", "--workers", "0", "--device", "cpu"]
# Orientations, voxel sizes (mm) and shapes along the file's axes: as BraTS has them (1 mm, axes to the left, the back
# and the head), an eighth as large, and as other scanners would see such a head
GRIDS = {"head1": ("LPS", (1, 1, 1), (30, 30, 20)), "head2": ("LPS", (1, 1, 1), (30, 27, 22)),
         "head3": ("RAS", (1, 1, 1), (30, 30, 20)), "head4": ("SLA", (1, 1, 1), (20, 30, 30)),
         "head5": ("PIR", (1, 1.5, 1), (30, 14, 30)), "head6": ("LAS", (0.9, 0.9, 2), (34, 34, 10))}
LABELLED = "head1", "head2", "head3", "head4"


def affine_of(axes, sides):
    """Voxel index -> mm, RAS+, with an origin that is no whole number."""
    affine = np.zeros((4, 4))
    for place, (axis, side) in enumerate(zip(axes, sides, strict=True)):
        row = next(row for row, pair in enumerate(("LR", "PA", "IS")) if axis in pair)
        affine[row, place] = side * (1 if axis in "RAS" else -1)
    affine[:, 3] = (17.25, -31.5, 4.125, 1)
    return affine


def head(axes, sides, shape, seed):
    """Skull-stripped head with a core in a rim, in two channels that show them differently; 0 outside, as in BraTS."""
    rng = np.random.default_rng(seed)
    space = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    brain = sum(x ** 2 for x in space) < 0.9
    middle = rng.uniform(-0.3, 0.3, 3)
    distance = np.sqrt(sum((x - m) ** 2 for x, m in zip(space, middle, strict=True)))
    label = (((distance < 0.5) & brain).astype(np.uint8) + ((distance < 0.3) & brain)).astype(np.uint8)
    channels = []
    for weights in ((100, 160, 130), (200, 120, 260)):
        image = np.asarray(weights, float)[label] + ndimage.gaussian_filter(rng.normal(0, 60, shape), 1)
        channels.append(np.where(brain, np.maximum(image, 1), 0).astype(np.int16))
    return channels, label, affine_of(axes, sides)


@pytest.fixture
def nnunet(tmp_path):
    """An nnU-Net folder: two channels, mixed orientations and spacing, two cases without a label."""
    folder = tmp_path / "Dataset001_Heads"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for seed, (name, grid) in enumerate(GRIDS.items()):
        channels, label, affine = head(*grid, seed)
        for number, channel in enumerate(channels):
            nib.save(nib.Nifti1Image(channel, affine), folder / "imagesTr" / f"{name}_{number:04d}.nii.gz")
        if name in LABELLED:
            nib.save(nib.Nifti1Image(label, affine), folder / "labelsTr" / f"{name}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "FLAIR", "1": "T1"}, "labels": {"background": 0, "rim": 1, "core": 2},
        "numTraining": 4, "file_ending": ".nii.gz"}), encoding="utf-8")
    return folder


@pytest.fixture
def models(monkeypatch, tmp_path):
    """model/ is in the test's folder."""
    monkeypatch.setattr(recipe_module, "ROOT", tmp_path)
    return tmp_path / "model"


def test_own_data_from_scans_to_maps_on_the_scans_grids(nnunet, models, tmp_path, capsys):
    mine = tmp_path / "heads"
    command = ["--images", str(nnunet), "--output", str(mine), "--holdout", "1", "--workers", "1"]
    assert prepare_folder.main(command) == 0
    told = capsys.readouterr().out
    assert "6 cases, 4 of them with a label; channels: 0000 0001" in told
    assert "plan: volumes, voxels resampled to" in told and "zscore_brain" in told
    assert (mine / "train.list").read_text(encoding="utf-8").split() == ["head1", "head2", "head3", "head5", "head6"]
    assert (mine / "test.list").read_text(encoding="utf-8").split() == ["head4"]
    [advised] = [line for line in told.splitlines() if line.startswith("next: ")]
    assert advised.startswith("next: python code/train_own.py ") and advised.endswith("heads")

    run = train_own.main(["mini", "--data-dir", str(mine), *TINY])
    assert run == models / "heads" / run.name and run.name.startswith("cml_plus_3_seed1337_mini_labeled_batch2")
    assert "num_classes" not in run.name and "in_channels" not in run.name and "stride" not in run.name
    rows = testing_own.main(["--run", str(run), "--device", "cpu"])
    shown = capsys.readouterr().out
    assert {(row["case"], row["class"]) for row in rows} == {("head4", 1), ("head4", 2)} and "paper, " not in shown
    with (run / "test_test_last.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 2

    out = tmp_path / "segmentations"
    code = predict.main(["--run", str(run), "--input", str(nnunet / "imagesTr"), "--output", str(out), "--device",
                         "cpu", "--probabilities", "--disagreement", "--overlay"])
    assert code == 0 and "6 segmented" in capsys.readouterr().out
    assert len(list(out.iterdir())) == 4 * 6 + 1     # with predictions.csv
    for name, (axes, _, shape) in GRIDS.items():
        source = nib.load(nnunet / "imagesTr" / f"{name}_0000.nii.gz")
        for end, kind, more in (("", np.uint8, ()), ("_probabilities", np.float32, (3,)),
                                ("_disagreement", np.float32, ())):
            output = nib.load(out / f"{name}{end}.nii.gz")
            assert output.shape == (*shape, *more) and output.get_data_dtype() == kind
            assert np.array_equal(output.affine, source.affine) and nib.aff2axcodes(output.affine) == tuple(axes)
        labels = np.asarray(nib.load(out / f"{name}.nii.gz").dataobj)
        probabilities = nib.load(out / f"{name}_probabilities.nii.gz").get_fdata()
        assert np.allclose(probabilities.sum(-1), 1, atol=1e-4) and set(np.unique(labels)) <= {0, 1, 2}
        kept = labels > 0       # the largest components of the likeliest classes
        assert not (kept & (probabilities.argmax(-1) != labels)).any()
        apart = nib.load(out / f"{name}_disagreement.nii.gz").get_fdata()
        assert 0 <= apart.min() and apart.max() <= 1
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_maps_lie_where_the_head_is_in_every_orientation(nnunet, tmp_path):
    """One head, stored six ways, prepared: the arrays agree voxel by voxel, so predictions lie in the right place."""
    folder = tmp_path / "turned"
    shutil.copytree(nnunet, folder, ignore=shutil.ignore_patterns("*.nii.gz"))
    channels, label, affine = head(*GRIDS["head1"], 0)
    for axes in ("LPS", "RAS", "SLA", "PIR", "LAS", "IRP"):
        turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
        for number, channel in enumerate(channels):
            nib.save(nib.Nifti1Image(channel, affine).as_reoriented(turn),
                     folder / "imagesTr" / f"{axes}_{number:04d}.nii.gz")
        nib.save(nib.Nifti1Image(label, affine).as_reoriented(turn), folder / "labelsTr" / f"{axes}.nii.gz")
    assert prepare_folder.main(["--images", str(folder), "--output", str(tmp_path / "out"), "--workers", "1"]) == 0
    first, *others = [scans.read_scan(axes, tmp_path / "out" / axes / "mri_norm2.h5", ndim=3, in_channels=2,
                                      num_classes=3, labelled=True)
                      for axes in (tmp_path / "out" / "train.list").read_text(encoding="utf-8").split()]
    assert len(others) == 5 and all(other.content == first.content for other in others)


# ---- the published sets' scripts -----------------------------------------------------------------------------------


@pytest.fixture
def own(phantoms, tmp_path):
    """LA's phantoms: the published layout with other lists."""
    return shutil.copytree(phantoms("LA"), tmp_path / "own")


@pytest.mark.parametrize("script", [train_LA, train_ACDC, train_BraTS])
def test_a_published_sets_script_refuses_what_prepare_folder_wrote(script, nnunet, tmp_path):
    mine = tmp_path / "heads"
    assert prepare_folder.main(["--images", str(nnunet), "--output", str(mine), "--workers", "1"]) == 0
    with pytest.raises(InputError, match=r"heads: holds scans of your own.*train_own.py"):
        command_line(script.PRESETS, "", ["mini", "--data-dir", str(mine)])


def test_the_published_train_list_is_held_out_from_wherever_it_lies(tmp_path, models):
    folder = tmp_path / "anywhere"
    folder.mkdir()
    for copied in (False, True):
        if copied:
            (folder / "train.list").write_bytes("\n".join(lists.published_list("LA", "train.list")).encode())
        recipe = command_line(train_LA.PRESETS, "", ["mini", "--labeled", "8", "--data-dir", str(folder)])
        split = LA(recipe).split()
        assert split.test == lists.published_list("LA", "train.list")[-8:] and len(split.unlabelled) == 64
        assert recipe.out == models / "LA" / "cml_8_seed1337_mini"


@pytest.mark.parametrize("held", [False, True])
def test_a_test_case_without_a_label_is_refused_before_training(own, recipe, runs, held):
    name = (own / ("train.list" if held else "test.list")).read_text(encoding="utf-8").split()[-1]
    path = own / "2018LA_Seg_Training Set" / name / "mri_norm2.h5"
    with scans.h5py.File(path, "r+") as file:
        del file["label"]
    with pytest.raises(InputError, match=rf"{name}/mri_norm2.h5: is a test case without `label`.*--holdout-test"):
        runs.train(recipe("LA", data_dir=own, holdout_test=int(held)))
    assert not (recipe("LA").out / "config.json").exists()


def test_test_cases_that_have_no_file_are_named_before_training(own, recipe, runs, capsys):
    runs.train(recipe("LA", data_dir=own))
    assert "no file in" not in capsys.readouterr().out
    names = (own / "test.list").read_text(encoding="utf-8").split()
    (own / "test.list").write_text("\n".join([*names, "mistyped"]), encoding="utf-8")
    runs.train(recipe("LA", data_dir=own, out=recipe("LA").out.with_name("again")))
    assert (f"1 of the {len(names) + 1} test cases, mistyped the first, has no file in {own}: the test will need it"
            in capsys.readouterr().out)


def test_test_cases_that_are_elsewhere_do_not_keep_training_from_its_work(own, recipe, runs):
    shutil.rmtree(own / "2018LA_Seg_Training Set" / (own / "test.list").read_text(encoding="utf-8").split()[0])
    assert runs.train(recipe("LA", data_dir=own, pre_steps=1, self_steps=1))
