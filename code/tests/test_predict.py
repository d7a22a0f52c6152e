"""predict.py: scans of any orientation, size and type in, label maps on their own grid out; anybody's data."""
import h5py
import nibabel as nib
import nrrd
import numpy as np
import pytest
import torch

import predict
import prepare_folder
import test_LA as testing_LA
import train_LA
from evaluation.inference import segment
from evaluation.report import load_run
from imaging.preprocess import PUBLISHED, apply
from imaging.scan_files import read_scan

TINY = ["--patch-size", "32", "32", "32", "--stride", "16", "16", "16", "--labeled-batch", "2",
        "--unlabeled-batch", "2", "--pre-steps", "2", "--self-steps", "2", "--workers", "0", "--device", "cpu"]
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])      # the axes of LA's files


@pytest.fixture
def run(recipe, runs, narrow, no_curves):
    return runs.train(recipe("LA", pre_steps=2, self_steps=2))


@pytest.fixture
def volume(phantoms):
    """A phantom (40, 36, 34) on the prepared grid, axes to the left, the back and the head."""
    path = sorted(phantoms("LA").rglob("mri_norm2.h5"))[0]
    with h5py.File(path) as file:
        return np.round(file["image"][:] * 100)


def turned(array, affine, axes):
    """The same scan, stored along other axes."""
    image = nib.Nifti1Image(array, affine)
    return image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(affine),
                                                               nib.orientations.axcodes2ornt(axes)))


def predicted(run, source, output, *more):
    code = predict.main(["--run", str(run), "--input", str(source), "--output", str(output), "--device", "cpu", *more])
    return code, {path.name: nib.load(path) for path in output.glob("*.nii.gz")}


def test_a_scan_is_segmented_alike_in_every_orientation_and_type_on_its_own_grid(run, volume, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    for axes, dtype in {"LPS": np.int16, "RAS": np.float64, "SLA": np.int32, "PIR": np.float32, "AIL": np.int16,
                        "IRP": np.float32}.items():
        image = turned(volume, LPS, axes)
        nib.save(nib.Nifti1Image(image.get_fdata().astype(dtype), image.affine, dtype=dtype), scans / f"{axes}.nii.gz")
    code, labels = predicted(run, scans, tmp_path / "out")
    assert code == 0 and len(labels) == 6
    upright = turned(np.asarray(labels["LPS.nii.gz"].dataobj), labels["LPS.nii.gz"].affine, "RAS").get_fdata()
    assert 0 < upright.mean() < 1       # says something, so that equality means something
    for name, label in labels.items():
        source = nib.load(scans / name)
        assert label.shape == source.shape and np.array_equal(label.affine, source.affine)
        assert label.get_data_dtype() == np.uint8
        assert np.array_equal(turned(np.asarray(label.dataobj), label.affine, "RAS").get_fdata(), upright), name


def test_the_label_map_is_what_the_test_script_would_segment(run, volume, tmp_path):
    nrrd.write(str(tmp_path / "scan.nrrd"), volume.astype(np.int16))
    _, labels = predicted(run, tmp_path / "scan.nrrd", tmp_path / "out", "--probabilities")
    recipe, method = load_run(run, train_LA.LARecipe, "last", "cpu")
    image, _, _ = apply(read_scan(tmp_path / "scan.nrrd"), PUBLISHED["LA"])
    probabilities = segment(method, torch.from_numpy(image[None]), recipe)["fused"].numpy()
    assert np.allclose(np.moveaxis(labels["scan_probabilities.nii.gz"].get_fdata(), -1, 0), probabilities, atol=1e-6)
    kept = np.asarray(labels["scan.nii.gz"].dataobj) > 0
    assert not (kept & (probabilities.argmax(0) == 0)).any() and kept.any()


def test_scans_smaller_than_the_patch_and_what_is_asked_for_beside_the_labels(run, volume, tmp_path):
    nib.save(nib.Nifti1Image(volume[:20, :36, :9], np.diag([2, 1, 3, 1])), tmp_path / "small.nii")
    code, files = predicted(run, tmp_path / "small.nii", tmp_path / "out", "--probabilities", "--disagreement",
                            "--overlay")
    assert code == 0 and set(files) == {"small.nii.gz", "small_probabilities.nii.gz", "small_disagreement.nii.gz"}
    assert files["small_probabilities.nii.gz"].shape == (20, 36, 9, 2)
    assert np.allclose(files["small_probabilities.nii.gz"].get_fdata().sum(-1), 1, atol=1e-5)
    apart = files["small_disagreement.nii.gz"].get_fdata()
    assert apart.shape == (20, 36, 9) and 0 <= apart.min() < apart.max() <= 1
    assert (tmp_path / "out" / "small.png").read_bytes().startswith(b"\x89PNG")


def test_bad_scans_are_reported_and_the_others_segmented(run, volume, tmp_path, capsys):
    scans = tmp_path / "scans"
    scans.mkdir()
    nib.save(nib.Nifti1Image(volume, LPS), scans / "good.nii.gz")
    (scans / "cut.nii.gz").write_bytes((scans / "good.nii.gz").read_bytes()[:2000])
    nib.save(nib.Nifti1Image(np.stack([volume] * 2, -1), LPS), scans / "series.nii.gz")
    code, labels = predicted(run, scans, tmp_path / "out")
    error = capsys.readouterr().err
    assert code == 2 and set(labels) == {"good.nii.gz"}
    assert "cut.nii.gz" in error and "series.nii.gz" in error and "4D" in error


def test_predictions_that_are_there_are_kept_unless_forced(run, volume, tmp_path, capsys):
    nib.save(nib.Nifti1Image(volume, LPS), tmp_path / "scan.nii.gz")
    predicted(run, tmp_path / "scan.nii.gz", tmp_path / "out")
    (tmp_path / "out" / "scan.nii.gz").write_bytes(b"mine")
    arguments = ["--run", str(run), "--input", str(tmp_path / "scan.nii.gz"), "--output", str(tmp_path / "out"),
                 "--device", "cpu"]
    predict.main(arguments)
    assert (tmp_path / "out" / "scan.nii.gz").read_bytes() == b"mine" and "1 skipped" in capsys.readouterr().out
    predict.main([*arguments, "--force"])
    assert nib.load(tmp_path / "out" / "scan.nii.gz").shape == volume.shape


def test_anybodys_folder_from_scans_to_predictions(phantoms, tmp_path, narrow, no_curves):
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    rng = np.random.default_rng(0)
    for number, path in enumerate(sorted(phantoms("LA").rglob("mri_norm2.h5"))[:5]):
        with h5py.File(path) as file:
            image, label = file["image"][:], file["label"][:]
        label[: label.shape[0] // 2] *= 2       # two organs
        affine = np.diag([0.8, 0.8, 1.5, 1.0])
        affine[:3, 3] = rng.normal(size=3) * 50
        nib.save(nib.Nifti1Image(image * 100, affine), images / f"scan{number}.nii.gz")
        if number < 3:
            nib.save(nib.Nifti1Image(label, affine), labels / f"scan{number}.nii.gz")
    mine, run = tmp_path / "mine", tmp_path / "run"
    assert prepare_folder.main(["--images", str(images), "--labels", str(labels), "--output", str(mine),
                                "--normalise", "minmax", "--holdout", "1", "--workers", "1"]) == 0
    train_LA.main(["--data-dir", str(mine), "--num-classes", "3", "--labeled", "2", "--out", str(run), *TINY])
    rows = testing_LA.main(["--run", str(run), "--device", "cpu"])
    assert {row["class"] for row in rows} == {1, 2} and {row["case"] for row in rows} == {"scan2"}
    code, predictions = predicted(run, images, tmp_path / "out")
    assert code == 0 and len(predictions) == 5
    assert set(np.unique(predictions["scan0.nii.gz"].dataobj)) <= {0, 1, 2}
    assert np.array_equal(predictions["scan3.nii.gz"].affine, nib.load(images / "scan3.nii.gz").affine)
    assert (run / "preprocessing.json").read_text() == (mine / "preprocessing.json").read_text()
