"""Voxels that nobody has labelled: no loss learns them, no metric counts them, and patches hold others."""
import csv
import json
import shutil
from dataclasses import replace

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

import predict
import prepare_folder
import test_own as testing_own
import train_own
from dataloaders.own import Own
from evaluation.metrics import class_metrics, overlap_of_classes, volume_metrics
from evaluation.trust import read_training_cases
from imaging.cases import IGNORED
from imaging.record import read_preprocessing
from method import Batch
from methods import bcp, losses, mcf, registry, sdm

CLASSES, SHAPE = 3, (2, 8, 6, 4)


def halves():
    """Logits and a target (B, *S) whose second half along the first axis is ignored."""
    logits = torch.randn(SHAPE[0], CLASSES, *SHAPE[1:], dtype=torch.float64, requires_grad=True)
    target = torch.randint(CLASSES, SHAPE)
    target[:, SHAPE[1] // 2:] = IGNORED
    return logits, target


def first_half(array):
    return array[..., :SHAPE[1] // 2, :, :]


@pytest.mark.parametrize("name", [name for name in losses.SUPERVISED if not name.endswith("_fg")])
def test_a_loss_is_that_of_the_labelled_voxels_alone(name):
    logits, target = halves()
    loss = losses.supervised_loss(name)(logits, target)
    assert loss.item() == pytest.approx(losses.supervised_loss(name)(first_half(logits), first_half(target)).item())
    loss.backward()
    assert first_half(logits.grad).any() and not logits.grad[:, :, SHAPE[1] // 2:].any()


@pytest.mark.parametrize("name", [name for name in losses.SUPERVISED if name.endswith("_fg")])
def test_so_is_one_of_the_foreground(name):
    logits, target = halves()
    logits, target = logits[:, :2], torch.where(target == 2, 1, target)
    loss = losses.supervised_loss(name)
    assert loss(logits, target).item() == pytest.approx(loss(first_half(logits), first_half(target)).item())


def test_the_regions_of_bcp_learn_their_labelled_voxels_alone():
    logits, target = halves()
    mask = torch.ones(SHAPE[1:])
    mask[1:3, 1:4, 1:3] = 0
    other = torch.randint(CLASSES, SHAPE)       # the ignored half holds a pseudo-label inside the box alone
    loss = bcp.region_loss(logits, target, other, mask, (1, 0.5))
    half = bcp.region_loss(first_half(logits), first_half(target), first_half(other), first_half(mask), (1, 0.5))
    assert loss.item() == pytest.approx(half.item())


def test_the_networks_of_mcf_compete_and_are_rectified_on_labelled_voxels_alone():
    (a, target), (b, _) = halves(), halves()
    for logits in (a, b):       # nothing unlabelled: what is learnt of a teacher is over no voxels
        logits.retain_grad()
    loss_a, loss_b, teacher = mcf.competition(torch.cat([a, a]), torch.cat([b, b]), target, 0)
    short_a, short_b, same = mcf.competition(*(first_half(torch.cat([x, x])) for x in (a, b)), first_half(target), 0)
    assert (loss_a.item(), loss_b.item()) == pytest.approx((short_a.item(), short_b.item())) and teacher == same


def test_signed_distances_are_learnt_of_patches_that_are_drawn_in_full():
    """Between drawn slices, where the surface may be, no distance to it is known."""
    maps, distances = torch.randn(2, SHAPE[0], CLASSES - 1, *SHAPE[1:])
    target = torch.zeros(SHAPE[0], *SHAPE[1:], dtype=torch.long)
    target[1:, 0] = IGNORED
    assert sdm.distance_loss(maps, distances, target).item() == pytest.approx(
        losses.squared_difference(maps[:1], distances[:1]).item(), rel=1e-6)
    assert sdm.distance_loss(maps, distances, torch.zeros_like(target)).item() == pytest.approx(
        losses.squared_difference(maps, distances).item(), rel=1e-6)


@pytest.mark.parametrize("name", registry.METHODS)
def test_no_method_learns_a_patch_without_a_label(name, shallow, recipe):
    """Its supervised terms are 0, and what else it learns is finite."""
    own = recipe(method=name, labeled_batch=2, unlabeled_batch=2)
    method = registry.build(own).train()
    x_l, x_u = torch.randn(2, 2, 1, *own.patch_size)
    y_l = torch.full((2, *own.patch_size), IGNORED)
    z_l = method.of_label and torch.stack([torch.from_numpy(method.of_label(y)) for y in y_l.byte().numpy()])
    batch, terms = Batch(x_l, y_l, x_u, 1, 2, torch.Generator().manual_seed(0), z_l), {}
    for stage in method.stages(2, 2):
        method.begin(stage)
        for loss, new in stage.losses(batch):
            loss.backward()
            assert loss.isfinite()
            terms.setdefault(stage.name, {}).update(new)
    for term in ("sup_l", "sup", "distance"):
        for stage, found in terms.items():
            if term in found and (name, stage) != ("bcp", "self"):      # whose mixes hold pseudo-labels
                assert found[term].item() == pytest.approx(0, abs=1e-6)
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_metrics_compare_where_the_reference_is_labelled():
    rng = np.random.default_rng(0)
    pred, ref = rng.integers(CLASSES, size=(2, 12, 10, 8)).astype(np.uint8)
    ref[:, :, 5:] = IGNORED
    shorter = pred[:, :, :5], ref[:, :, :5]
    assert overlap_of_classes(pred, ref, CLASSES) == overlap_of_classes(*shorter, CLASSES)
    assert class_metrics(pred, ref, CLASSES, (1, 2, 3)) == class_metrics(*shorter, CLASSES, (1, 2, 3))
    assert volume_metrics(pred, ref, CLASSES, 0.5) == volume_metrics(*shorter, CLASSES, 0.5)


# ---- own data ----------------------------------------------------------------------------------------------------


def scan(seed, shape=(36, 32, 20)):
    rng, label = np.random.default_rng(seed), np.zeros(shape, np.uint8)
    label[8:20, 8:24, 3:16] = 1
    image = (200 * label + ndimage.gaussian_filter(rng.normal(0, 60, shape), 1) + 300).astype(np.int16)
    return image, label


@pytest.fixture(scope="module")
def nnunet(tmp_path_factory):
    """Five cases of nnU-Net, three with a label: in `a` and `b` it is drawn on every fourth slice alone."""
    folder = tmp_path_factory.mktemp("nnunet") / "Dataset001_Sparse"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for seed, name in enumerate("abcde"):
        image, label = scan(seed)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "imagesTr" / f"{name}_0000.nii.gz")
        if name in "abc":
            label[..., np.arange(label.shape[-1]) % 4 != 0] = 2 if name != "c" else 0
            nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "labelsTr" / f"{name}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "MR"}, "labels": {"background": 0, "organ": 1, "ignore": 2}, "file_ending": ".nii.gz"}),
        encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def data(nnunet, tmp_path_factory):
    mine = tmp_path_factory.mktemp("data") / "mine"
    assert prepare_folder.main(["--images", str(nnunet), "--output", str(mine), "--workers", "1"]) == 0
    (mine / "test.list").write_text("b\n", encoding="utf-8")
    (mine / "train.list").write_text("a\nc\nd\ne\n", encoding="utf-8")
    return mine


def label_of(folder, case):
    with h5py.File(folder / case / "mri_norm2.h5") as file:
        return file["label"][()]


def test_undrawn_slices_are_ignored_and_no_class(nnunet, data):
    label = label_of(data, "a")
    assert (label[..., np.arange(20) % 4 != 0] == IGNORED).all() and set(np.unique(label[..., ::4])) == {0, 1}
    record = read_preprocessing(data)
    assert (record.num_classes, record.labels, record.ignore) == (2, {0: 0, 1: 1}, 2) and set(record.values) == {0, 1}


@pytest.mark.parametrize(("options", "values"), [
    (["--ignore-label", "2"], {0, 1, IGNORED}), (["--ignore-label", "2", "--num-classes", "2"], {0, 1, IGNORED}),
    (["--ignore-label", "2", "--class-names", "organ"], {0, 1, IGNORED}), (["--label-map", "2:0"], {0, 1}),
    ([], {0, 1, 2})])
def test_without_a_dataset_json_the_value_is_named(nnunet, tmp_path, options, values):
    for case in "abcde":        # names without a channel
        (tmp_path / "scans").mkdir(exist_ok=True)
        (tmp_path / "scans" / f"{case}.nii.gz").symlink_to(nnunet / "imagesTr" / f"{case}_0000.nii.gz")
    assert prepare_folder.main(["--images", str(tmp_path / "scans"), "--labels", str(nnunet / "labelsTr"), "--output",
                                str(tmp_path / "out"), "--workers", "1", *options]) == 0
    assert set(np.unique(label_of(tmp_path / "out", "a"))) == values


def test_patches_of_a_labelled_scan_hold_voxels_to_learn(data, tmp_path):
    with h5py.File(shutil.copytree(data, tmp_path / "data") / "a" / "mri_norm2.h5", "r+") as file:
        file["label"][..., 1:] = IGNORED        # which patches of 16 among 20 slices would seldom hold
    own = Own(replace(train_own.PRESETS["mini"], data_dir=tmp_path / "data", num_classes=2, patch_size=(16, 16, 16),
                      augment="intensity"))
    [one], rng = own.train_scans(["a"], labelled=True), np.random.default_rng(0)
    assert all((own.sample(one, rng)[1] != IGNORED).any() for _ in range(60))


@pytest.mark.usefixtures("shallow", "no_curves")
def test_it_is_trained_tested_and_predicted(nnunet, data, tmp_path, capsys):
    run = train_own.main(["mini", "--data-dir", str(data), "--patch-size", "32", "32", "16", "--labeled-batch", "2",
                          "--unlabeled-batch", "2", "--pre-steps", "2", "--self-steps", "2", "--workers", "0",
                          "--device", "cpu", "--out", str(tmp_path / "run")])
    known = read_training_cases(run)
    assert set(known.volumes) == {"c"} and set(known.quantiles) == set("acde")      # of `a` nobody knows the volume
    [row] = testing_own.main(["--run", str(run), "--device", "cpu", "--save-predictions"])
    assert (run / "predictions" / "b.png").exists()
    maps = tmp_path / "maps"
    assert predict.main(["--run", str(run), "--input", str(nnunet / "imagesTr"), "--output", str(maps), "--device",
                         "cpu"]) == 0
    predicted, drawn = nib.load(maps / "b.nii.gz").get_fdata(), nib.load(nnunet / "labelsTr" / "b.nii.gz").get_fdata()
    assert set(np.unique(predicted)) <= {0, 1}
    there = drawn != 2
    assert row["dice"] == pytest.approx(*overlap_of_classes(predicted[there], drawn[there], 2))
    assert row["reference_ml"] == pytest.approx((drawn == 1).sum() / 1000)

    own = testing_own.main(["--predictions", str(maps), "--labels", str(nnunet / "labelsTr"), "--ignore-label", "2",
                            "--output", str(tmp_path / "scores.csv")])
    [same] = [line for line in own if line["case"] == "b"]
    assert same["dice"] == pytest.approx(row["dice"]) and {line["class"] for line in own} == {1}
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        assert [line["case"] for line in csv.DictReader(file)] == ["b"]      # the others' labels were trained on
