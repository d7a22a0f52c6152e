"""predict.py: scans of any orientation, size and type in, label maps on their own grid out; anybody's data."""
import csv
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from types import SimpleNamespace

import h5py
import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from skimage.measure import label as connected

import predict
import prepare_folder
import test_own as testing_own
import train_own
from evaluation import scan_maps
from evaluation.inference import segment
from imaging.preprocess import apply
from imaging.record import PUBLISHED, Preprocessing
from imaging.scan_files import read_scan_file
from runtime.files import ROOT, load_tensors, save_tensors
from training.trained import load_run

TINY = ["--patch-size", "32", "32", "16", "--stride", "16", "16", "16", "--labeled-batch", "2",
        "--unlabeled-batch", "2", "--pre-steps", "1", "--self-steps", "1", "--workers", "0", "--device", "cpu"]
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])      # the axes of LA's files


@pytest.fixture
def run(recipe, runs, shallow, no_curves):
    """A run on LA, to be changed."""
    return runs.trained(recipe("LA", pre_steps=2, self_steps=2, patch_size=(32, 32, 32)))


@pytest.fixture
def volume(phantoms):
    """A phantom (36, 30, 28) on the prepared grid, axes to the left, the back and the head: two windows."""
    path = sorted(phantoms("LA").rglob("mri_norm2.h5"))[0]
    with h5py.File(path) as file:
        return np.round(file["image"][2:38, 3:33, 3:31] * 100)


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
    _, labels = predicted(run, tmp_path / "scan.nrrd", tmp_path / "out", "--probabilities",
                          "--format", "nifti")
    trained = load_run(run, device="cpu")
    recipe, method = trained.recipe, trained.method
    image, _, _ = apply(read_scan_file(tmp_path / "scan.nrrd"), PUBLISHED["LA"])
    windows = {"stride": (16, 16, 16), "weights": "gaussian"}        # half of the patch's 32
    probabilities = segment(method, torch.from_numpy(image[None]), recipe, **windows)["fused"].numpy()
    assert np.allclose(np.moveaxis(labels["scan_probabilities.nii.gz"].get_fdata(), -1, 0), probabilities, atol=1e-6)
    kept = np.asarray(labels["scan.nii.gz"].dataobj) > 0
    assert not (kept & (probabilities.argmax(0) == 0)).any() and kept.any()


@pytest.mark.parametrize(("spacing", "axes"), [((1.4, 0.8, 1.3), "LPS"), ((0.7, 1.5, 1.0), "SAR")])
def test_a_resampled_label_map_is_the_argmax_of_the_probabilities_beside_it(run, volume, tmp_path, spacing, axes):
    """Put back voxel by voxel after the decision, it would not be."""
    (run / "preprocessing.json").write_text(json.dumps({
        "dataset": "folder", "orientation": "RAS", "normalise": "zscore", "spacing": spacing}), encoding="utf-8")
    nib.save(turned(volume, LPS, axes), tmp_path / "scan.nii.gz")
    code, files = predicted(run, tmp_path / "scan.nii.gz", tmp_path / "out", "--probabilities", "--keep-largest",
                            "none")
    probabilities = files["scan_probabilities.nii.gz"].get_fdata()
    labels = np.asarray(files["scan.nii.gz"].dataobj)
    assert code == 0 and np.isfinite(probabilities).all() and np.allclose(probabilities.sum(-1), 1, atol=1e-5)
    assert np.array_equal(labels, probabilities.argmax(-1)) and len(np.unique(labels)) == 2


def test_scans_smaller_than_the_patch_and_what_is_asked_for_beside_the_labels(run, volume, tmp_path):
    nib.save(nib.Nifti1Image(volume[:20, :, :9], np.diag([2, 1, 3, 1])), tmp_path / "small.nii")
    code, files = predicted(run, tmp_path / "small.nii", tmp_path / "out", "--probabilities", "--disagreement",
                            "--overlay")
    assert code == 0 and set(files) == {"small.nii.gz", "small_probabilities.nii.gz", "small_disagreement.nii.gz"}
    assert files["small_probabilities.nii.gz"].shape == (20, 30, 9, 2)
    assert np.allclose(files["small_probabilities.nii.gz"].get_fdata().sum(-1), 1, atol=1e-5)
    apart = files["small_disagreement.nii.gz"].get_fdata()
    assert apart.shape == (20, 30, 9) and 0 <= apart.min() < apart.max() <= 1
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


def test_an_output_never_takes_the_place_of_an_input(run, volume, tmp_path, capsys):
    """Whatever it is called: the folder itself, a link to it, the scan's own name in another format."""
    scans = tmp_path / "scans"
    scans.mkdir()
    (tmp_path / "link").symlink_to(scans)
    for name in ("a.nii.gz", "a_probabilities.nii.gz", "b.nrrd"):
        if name.endswith(".nrrd"):
            nrrd.write(str(scans / name), volume.astype(np.int16))
        else:
            nib.save(nib.Nifti1Image(volume, LPS), scans / name)
    before = {path: path.read_bytes() for path in scans.iterdir()}
    for source, output, words in ((scans, scans, "is the folder of the scans"),
                                  (scans, tmp_path / "link", "is the folder of the scans"),
                                  (scans / "a.nii.gz", scans, "a.nii.gz is there, and is a scan"),
                                  (tmp_path / "link" / "a.nii.gz", scans, "a.nii.gz is there, and is a scan"),
                                  (scans, tmp_path / "out", "the cases a and a_probabilities would both be written")):
        for more in ([], ["--force"]):
            with pytest.raises(SystemExit, match="2"):
                predicted(run, source, output, "--probabilities", *more)
            assert words in capsys.readouterr().err
    assert {path: path.read_bytes() for path in scans.iterdir()} == before


def test_each_prediction_knows_its_run_and_its_scan(run, volume, tmp_path, capsys):
    """The same again is skipped; what is asked for later is added; anything else is left alone, and named."""
    source, out = tmp_path / "scan.nii.gz", tmp_path / "out"
    nib.save(nib.Nifti1Image(volume, LPS), source)
    predicted(run, source, out)
    first = (out / "scan.nii.gz").read_bytes()
    assert predicted(run, source, out)[0] == 0 and "0 segmented, 1 skipped" in capsys.readouterr().out
    code, files = predicted(run, source, out, "--probabilities", "--overlay")
    assert code == 0 and "scan_probabilities.nii.gz" in files and (out / "scan.png").exists()
    assert (out / "scan.nii.gz").read_bytes() == first
    assert predicted(run, source, out, "--overlay")[0] == 0 and "1 skipped" in capsys.readouterr().out

    other = shutil.copytree(run, tmp_path / "other")
    weights = load_tensors(other / "last.pt")
    for tensor in weights["method"].values():
        tensor.mul_(2)
    save_tensors(other / "last.pt", weights)
    kept = {path: path.read_bytes() for path in out.iterdir()}
    for more, name in (([], "scan.nii.gz"), (["--overlay"], "scan.png"), (["--probabilities"], "scan_probabilities")):
        assert predicted(other, source, out, *more)[0] == 2
        error = capsys.readouterr().err
        assert name in error and "was made by another run, with other options, from another scan" in error
    assert {path: path.read_bytes() for path in out.iterdir()} == kept
    assert predicted(other, source, out, "--overlay", "--force")[0] == 0
    assert (out / "scan.nii.gz").read_bytes() != first

    nib.save(nib.Nifti1Image(volume + 1, LPS), source)
    assert predicted(other, source, out)[0] == 2
    (out / "scan.nii.gz").write_bytes(b"mine")
    assert predict.main(["--run", str(other), "--input", str(source), "--output", str(out), "--device", "cpu"]) == 2
    assert (out / "scan.nii.gz").read_bytes() == b"mine"


def table(out):
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_every_result_is_measured_beside_the_labelled_cases_whatever_was_skipped_or_killed(run, volume, tmp_path,
                                                                                         capsys, monkeypatch):
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for name, sides in {"a": (1, 1, 1), "b": (1, 1, 2), "c": (3, 1, 1)}.items():
        nib.save(nib.Nifti1Image(volume + len(name), np.diag([*sides, 1])), scans / f"{name}.nii.gz")
    calls, original = [], scan_maps.segment_case

    def counted(job, paths):
        calls.append(paths[0].name[0])
        if calls[-1] == "c" and len(calls) == 3:
            raise KeyboardInterrupt
        return original(job, paths)
    monkeypatch.setattr(scan_maps, "segment_case", counted)
    with pytest.raises(SystemExit, match="130"):
        predicted(run, scans, out)
    assert not (out / "predictions.csv").exists()       # what was measured is noted beside it, case by case
    code, labels = predicted(run, scans, out)
    assert code == 0 and calls == [*"abc", "c"]
    rows = table(out)
    for name, label in labels.items():
        array, row = np.asarray(label.dataobj) > 0, rows[name[0]]
        assert int(row["voxels"]) == array.sum() > 0 and row["file"] == name and row["name"] == "left atrium"
        assert float(row["ml"]) == pytest.approx(array.sum() * np.prod(label.header.get_zooms()) / 1000, rel=1e-5)
        assert 0 <= float(row["agreement"]) <= 1 and 0 < float(row["entropy"]) < 1 and row["voxel_size"] == ""
    assert sorted(row["look"] for row in rows.values()) == ["1", "2", "3"]
    scores = [float(row["score"]) for row in rows.values()]
    assert scores == sorted(scores, reverse=True)
    assert not list(out.glob(".*")) and f"{out / 'predictions.csv'}" in capsys.readouterr().out

    before = (out / "predictions.csv").read_bytes()
    (out / "predictions.csv").write_bytes(b"\xef\xbb\xbf" + before)         # as spreadsheets save it
    assert predicted(run, scans, out)[0] == 0 and predicted(run, scans / "b.nii.gz", out)[0] == 0
    assert (out / "predictions.csv").read_bytes() == before and len(calls) == 4
    nib.save(nib.Nifti1Image(volume[:, :, ::-1], np.eye(4)), scans / "b.nii.gz")
    assert predicted(run, scans / "b.nii.gz", out)[0] == 2 and (out / "predictions.csv").read_bytes() == before
    assert predicted(run, scans / "b.nii.gz", out, "--force")[0] == 0
    after = table(out)
    assert after["b"]["made_from"] != rows["b"]["made_from"] and after["a"]["made_from"] == rows["a"]["made_from"]
    (out / "predictions.csv").unlink()
    (out / "c.nii.gz").unlink()
    assert predicted(run, scans / "a.nii.gz", out)[0] == 0 and set(table(out)) == {"a"} and calls[-1] == "a"


def test_the_report_shows_the_scans_with_their_labels_and_replaces_no_other_page(run, volume, tmp_path, capsys):
    record(run, labels={0: 0, 255: 1})
    for name in ("a.nii.gz", "b.nrrd"):
        if name.endswith("nrrd"):
            nrrd.write(str(tmp_path / "scans" / name), volume.astype(np.int16))
        else:
            (tmp_path / "scans").mkdir()
            nib.save(nib.Nifti1Image(volume, LPS), tmp_path / "scans" / name)
    out = tmp_path / "out"
    assert predicted(run, tmp_path / "scans", out, "--report")[0] == 0
    assert {(row["class"], row["value"]) for row in table(out).values()} == {("1", "255")}
    text = (out / "report.html").read_text(encoding="utf-8")
    cases = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert {case["name"] for case in cases} == {"a", "b"} and all(case["contours"] for case in cases)
    assert [case["look"] for case in cases] == [1, 2] and "http" not in text
    assert predicted(run, tmp_path / "scans", out, "--report")[0] == 0      # all skipped, the page is whole
    assert (out / "report.html").read_text(encoding="utf-8") == text
    (out / "report.html").write_text("mine", encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        predicted(run, tmp_path / "scans", out, "--report")
    assert "report.html: was made by something else" in capsys.readouterr().err


def test_another_programs_predictions_csv_is_kept(run, volume, tmp_path, capsys):
    nib.save(nib.Nifti1Image(volume, LPS), tmp_path / "a.nii.gz")
    (tmp_path / "out").mkdir()
    for text, words in (("name,dice\na,0.5\n", "is no table of predict.py"), ("case\na,b\n", "is damaged")):
        (tmp_path / "out/predictions.csv").write_text(text, encoding="utf-8")
        with pytest.raises(SystemExit, match="2"):
            predicted(run, tmp_path / "a.nii.gz", tmp_path / "out")
        assert words in capsys.readouterr().err
        assert (tmp_path / "out/predictions.csv").read_text(encoding="utf-8") == text
    assert predicted(run, tmp_path / "a.nii.gz", tmp_path / "out", "--force")[0] == 0 and set(table(tmp_path / "out"))


def test_a_run_of_before_the_record_is_said_once_and_compares_nothing(run, volume, tmp_path, capsys):
    (run / "training_cases.json").unlink()
    nib.save(nib.Nifti1Image(volume, LPS), tmp_path / "a.nii.gz")
    assert predicted(run, tmp_path / "a.nii.gz", tmp_path / "out")[0] == 0
    assert capsys.readouterr().out.count("has no training_cases.json") == 1
    row = table(tmp_path / "out")["a"]
    assert row["intensities"] == row["voxel_size"] == "" and "labelled" not in row["flags"] and float(row["ml"]) > 0


def test_outputs_carry_nothing_of_the_scans_header_but_its_geometry(run, volume, tmp_path):
    header = nib.Nifti1Header()
    header["descrip"], header["db_name"], header["aux_file"] = b"Jane Doe", b"Jane Doe", b"Jane Doe"
    header.set_xyzt_units("mm", "sec")
    image = nib.Nifti1Image(volume.astype(np.float32), LPS, header)
    image.set_sform(LPS, 4)
    image.set_qform(LPS, 1)
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"Jane Doe, 1970-01-01"))
    nib.save(image, tmp_path / "scan.nii")
    assert b"Jane Doe" in (tmp_path / "scan.nii").read_bytes()
    _, files = predicted(run, tmp_path / "scan.nii", tmp_path / "out", "--probabilities", "--disagreement")
    for name, output in files.items():
        assert b"Jane" not in gzip.decompress((tmp_path / "out" / name).read_bytes())
        own = output.header
        assert np.array_equal(output.affine, LPS) and (own["sform_code"], own["qform_code"]) == (4, 1)
        assert own["xyzt_units"] == image.header["xyzt_units"] and not own.extensions
    _, files = predicted(run, tmp_path / "scan.nii", tmp_path / "kept", "--keep-header")
    kept = files["scan.nii.gz"].header
    assert kept["descrip"].item() == b"Jane Doe" and len(kept.extensions) == 1


def test_scans_that_cannot_be_segmented_do_not_end_the_batch(run, volume, tmp_path, capsys, monkeypatch):
    """A scan too large for the memory, by its header or on the way, and one that meets a mistake of ours."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("a", "huge", "full", "odd"):
        nib.save(nib.Nifti1Image(volume, LPS), scans / f"{name}.nii")
    content = bytearray((scans / "huge.nii").read_bytes())
    content[42:48] = np.array([30_000] * 3, np.int16).tobytes()         # dim[1] to dim[3]
    (scans / "huge.nii").write_bytes(content)
    original = scan_maps.segment_case

    def failing(job, paths):
        if paths[0].stem == "full":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        if paths[0].stem == "odd":
            raise KeyError("ours")
        return original(job, paths)
    monkeypatch.setattr(scan_maps, "segment_case", failing)
    code, labels = predicted(run, scans, tmp_path / "out")
    error = capsys.readouterr().err
    assert code == 2 and set(labels) == {"a.nii.gz"}
    assert "huge.nii: has 30000 x 30000 x 30000 voxels, which need about" in error
    assert "bad case full: out of memory: crop" in error and "bad case odd: KeyError: 'ours' (our mistake" in error


@pytest.mark.parametrize("kind", ["overlay", "probabilities", "disagreement"])
def test_an_output_that_fails_never_costs_the_label_map(run, volume, tmp_path, capsys, monkeypatch, kind):
    nib.save(nib.Nifti1Image(volume, LPS), tmp_path / "scan.nii.gz")
    words = "ours"
    with monkeypatch.context() as patch:
        if kind == "overlay":
            patch.setattr("evaluation.plots.overlay", lambda *_: 1 / 0)
            words = "division by zero"
        else:
            patch.setattr(scan_maps, "restore", lambda *_: {}["ours"])
        asked = {"--overlay", "--probabilities"} if kind == "overlay" else {f"--{kind}", "--overlay"}
        code, labels = predicted(run, tmp_path / "scan.nii.gz", tmp_path / "out", *asked)
    assert code == 2 and words in capsys.readouterr().err and "scan.nii.gz" in labels
    there = {path.name for path in (tmp_path / "out").iterdir()} - {"predictions.csv"}
    assert len(there) == 2 and ("scan.png" in there) == (kind != "overlay")      # the other one does not suffer either
    code, _ = predicted(run, tmp_path / "scan.nii.gz", tmp_path / "out", *asked)    # made good the next time
    assert code == 0 and len(list((tmp_path / "out").iterdir())) == 4


def test_windows_and_components_can_be_chosen_and_are_part_of_what_a_prediction_is(run, volume, tmp_path, capsys):
    nib.save(nib.Nifti1Image(volume, LPS), tmp_path / "scan.nii.gz")
    fast = predicted(run, tmp_path / "scan.nii.gz", tmp_path / "out", "--probabilities")[1]
    same = predicted(run, tmp_path / "scan.nii.gz", tmp_path / "same", "--probabilities", "--stride", "16", "16", "16",
                     "--weights", "gaussian")[1]
    fine = predicted(run, tmp_path / "scan.nii.gz", tmp_path / "fine", "--probabilities", "--stride", "2", "8", "8",
                     "--weights", "uniform")[1]
    maps = [files["scan_probabilities.nii.gz"].get_fdata() for files in (fast, same, fine)]
    assert np.array_equal(maps[0], maps[1]) and not np.allclose(maps[0], maps[2], atol=1e-4)
    capsys.readouterr()
    assert predicted(run, tmp_path / "scan.nii.gz", tmp_path / "out", "--stride", "8", "8", "8")[0] == 2
    assert "was made by another run, with other options, " in capsys.readouterr().err
    for words in (["none"], ["each"], ["1"], ["left atrium"]):
        _, files = predicted(run, tmp_path / "scan.nii.gz", tmp_path / words[0], "--keep-largest", *words)
        parts = connected(np.asarray(files["scan.nii.gz"].dataobj), connectivity=3).max()
        assert parts <= 1 or words == ["none"]
    for words, error in ((["--keep-largest", "2"], "expected none, each, or classes from 1 to 1"),
                         (["--keep-largest", "none", "1"], "--keep-largest none 1: expected none"),
                         (["--stride", "33", "16", "16"], "from 1 to the window's 32 32 32")):
        with pytest.raises(SystemExit, match="2"):
            predicted(run, tmp_path / "scan.nii.gz", tmp_path / "bad", *words)
        assert error in capsys.readouterr().err and not (tmp_path / "bad").exists()


MEMORY = """
import re, sys
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import torch

import predict
from evaluation import scan_maps
from imaging.record import Preprocessing
from runtime.device import Device

Device("cpu")
folder = Path(sys.argv[1])
recipe = SimpleNamespace(patch_size=(64, 64, 64), stride=(32, 32, 32), normalise="stored", half_resolution=False,
                         num_classes=14)

def model(x):
    scores = torch.stack([(x[:, 0] - k) ** 2 for k in range(14)], 1).neg_().softmax(1)
    return {"fused": scores, "subnet0": scores, "subnet1": scores}

model.pair = None
job = scan_maps.Job(model, recipe, Preprocessing("any", "LPS", "zscore"),
                  predict.Options(run=folder, input=folder, output=folder),
                  {"stride": (64, 64, 64), "weights": "uniform"}, False, (), np.arange(14, dtype=np.uint8), 0, None,
                  None)
for edge in (64, 224):
    scan = np.random.default_rng(0).normal(size=(edge,) * 3).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(scan, np.eye(4)), folder / "scan.nii")
    del scan
    result = scan_maps.segment_case(job, [folder / "scan.nii"])
    scan_maps.write_case(job, {"labels": folder / "labels.nii"}, "", *result[:3])
    print(1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))[1]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of a process is read from /proc")
def test_a_large_scan_of_many_classes_takes_one_views_probabilities_and_little_more(tmp_path):
    """512 x 512 x 600 voxels and 14 classes fit under 14 GiB: 95 bytes a voxel, 56 of them probabilities."""
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], cwd=ROOT / "code", capture_output=True,
                          encoding="utf-8",
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "code")})
    assert done.returncode == 0, done.stderr
    small, large = map(int, done.stdout.split())
    assert 56 < (large - small) / 224 ** 3 < 95
    assert small + (large - small) / 224 ** 3 * 512 * 512 * 600 < 14 * 2 ** 30
    assert len(np.unique(nib.load(tmp_path / "labels.nii").dataobj)) > 3


def test_what_a_scan_needs_is_said_before_it_is_segmented():
    """Of the same scan: 12 GiB, and more for each view and for the probabilities on the scan's own grid."""
    voxels = 512 * 512 * 600
    image, scan = [SimpleNamespace(size=voxels)], SimpleNamespace(array=SimpleNamespace(size=voxels))

    def needed(views=(), probabilities=False):
        options = SimpleNamespace(probabilities=probabilities)
        job = SimpleNamespace(recipe=SimpleNamespace(num_classes=14), views=views, others=(), options=options)
        return scan_maps.memory(job, image, scan)
    assert 11 * 2 ** 30 < needed() < 14 * 2 ** 30
    assert needed(("subnet0", "subnet1")) - needed() == 2 * 4 * 14 * voxels
    assert needed(probabilities=True) - needed() == 3 * 4 * 14 * voxels


@pytest.mark.parametrize(("shape", "axes", "spacing", "depth"), [
    ((4, 6, 8), "RAS", (1, 1, 1), 2), ((4, 6, 8), "SPL", (1, 1, 1), 0), ((4, 6, 8), "RAS", (1, 5, 1), 1),
    ((4, 6, 8), "ASR", (3, 1, 1), 0)])
def test_a_picture_is_cut_along_the_coarsest_axis_or_the_bodys(tmp_path, shape, axes, spacing, depth):
    ornt = nib.orientations.axcodes2ornt(axes)
    affine = np.zeros((4, 4))
    for axis, (place, flip) in enumerate(ornt):
        affine[int(place), axis] = flip * spacing[axis]
    affine[3, 3] = 1
    nib.save(nib.Nifti1Image(np.zeros(shape, np.float32), affine), tmp_path / "scan.nii")
    scan = read_scan_file(tmp_path / "scan.nii")
    assert scan_maps.body_axes(scan) == axes and scan_maps.depth_axis(scan) == depth


@pytest.mark.parametrize("shape", [(40, 36, 1), (1, 36, 34), (1, 1, 1)])
def test_a_single_slice_is_segmented_at_half_resolution_with_its_overlay(recipe, runs, shallow, no_curves, tmp_path,
                                                                        shape):
    run = runs.trained(recipe("LA", pre_steps=1, self_steps=1, half_resolution=True))
    scan = np.random.default_rng(0).integers(0, 99, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(scan, np.diag([1, 1, 9, 1.0])), tmp_path / "scan.nii")
    if scan.size == 1:      # one value is no image, and said so
        return
    code, labels = predicted(run, tmp_path / "scan.nii", tmp_path / "out", "--overlay", "--disagreement")
    assert code == 0 and labels["scan.nii.gz"].shape == shape and (tmp_path / "out" / "scan.png").exists()


def channels(run, *names):
    """The run's record says that its network takes these channels."""
    values = {"dataset": "folder", "orientation": "RAS", "normalise": "zscore", "modalities": names}
    (run / "preprocessing.json").write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize(("modality", "wrong", "right"), [
    ("0000", "a_0001", "a_0000"), ("flair", "a_t1", "a_flair"), ("flair", "a-t2w", "a-t2f"),
    ("flair", "a.seg", "a.flair")])
def test_another_channel_is_not_segmented(run, volume, tmp_path, capsys, modality, wrong, right):
    channels(run, modality)
    scans = tmp_path / "scans"
    scans.mkdir()
    nib.save(nib.Nifti1Image(volume, LPS), scans / f"{wrong}.nii.gz")
    for source in (scans, scans / f"{wrong}.nii.gz"):
        code, labels = predicted(run, source, tmp_path / "out")
        assert code == 2 and not labels and "by its name" in capsys.readouterr().err
    nib.save(nib.Nifti1Image(volume, LPS), scans / f"{right}.nii.gz")
    code, labels = predicted(run, scans, tmp_path / "out")
    assert code == 0 and set(labels) == {"a.nii.gz"} and "1 file left aside" in capsys.readouterr().out


def test_channels_of_one_case_are_not_taken_for_cases_by_a_network_of_one(run, volume, tmp_path, capsys):
    """A run of unnumbered scans says nothing of channels: which of two it should take, nobody knows."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("a_0000", "a_0001", "b_0000"):
        nib.save(nib.Nifti1Image(volume, LPS), scans / f"{name}.nii.gz")
    code, labels = predicted(run, scans, tmp_path / "out")
    assert code == 2 and set(labels) == {"b_0000.nii.gz"}
    assert capsys.readouterr().err.count("is another channel by its name") == 2


def test_results_of_scans_of_training_are_said_to_be_such_and_not_scored(run, phantoms, tmp_path, capsys):
    """Under any name, by their voxels."""
    files = sorted(phantoms("LA").rglob("mri_norm2.h5"))
    names = list(json.loads((run / "data.json").read_text(encoding="utf-8"))["cases"]["labelled"])
    record = {"dataset": "folder", "orientation": "RAS", "normalise": "zscore"}
    (run / "preprocessing.json").write_text(json.dumps(record), encoding="utf-8")
    for path in files:
        with h5py.File(path) as file:
            image, label = file["image"][()], file["label"][()]
        name = "learned" if path.parent.name == names[0] else path.parent.name
        nib.save(nib.Nifti1Image(image, np.eye(4)), place(tmp_path / "scans" / f"{name}.nii.gz"))
        nib.save(nib.Nifti1Image(label, np.eye(4)), place(tmp_path / "labels" / f"{name}.nii.gz"))
        if name == "learned":       # as it leaves its preparation here
            prepared, _, _ = apply(read_scan_file(tmp_path / "scans" / "learned.nii.gz"), Preprocessing(**record))
            data = json.loads((run / "data.json").read_text(encoding="utf-8"))
            data["cases"]["labelled"][names[0]] = [[1, *prepared.shape], zlib.crc32(prepared), 0]
            (run / "data.json").write_text(json.dumps(data), encoding="utf-8")
    save_tensors(run / "last.pt", load_tensors(run / "last.pt") | {"cases": None})
    assert predicted(run, tmp_path / "scans", tmp_path / "maps")[0] == 0
    assert "1 scan that training had with a label, learned the first" in capsys.readouterr().out
    assert {name for name, row in table(tmp_path / "maps").items() if row["training"]} == {"learned"}
    seen = min(path.parent.name for path in files if path.parent.name != names[0])
    text = (tmp_path / "maps" / "predictions.csv").read_text(encoding="utf-8")
    (tmp_path / "maps" / "predictions.csv").write_text(text.replace(f",{seen},1,1,,", f",{seen},1,1,unlabelled,"),
                                                       encoding="utf-8")
    command = ["--predictions", str(tmp_path / "maps"), "--labels", str(tmp_path / "labels")]
    rows = testing_own.main(command)
    assert {row["case"] for row in rows} == {path.parent.name for path in files} - {names[0]}
    told = capsys.readouterr().out
    assert "1 case of which the network had the labels in training, learned" in told
    assert f"1 case of which the network had the scans in training without their labels, {seen} the first" in told
    for path in (tmp_path / "labels").iterdir():
        if path.name != "learned.nii.gz":
            path.unlink()
    with pytest.raises(SystemExit, match="2"):
        testing_own.main(command)
    assert "learned the first, and no other: it is not tested on them" in capsys.readouterr().err


def place(path):
    path.parent.mkdir(exist_ok=True)
    return path


def test_scans_that_are_called_as_label_maps_are_segmented_where_those_of_training_were(run, volume, tmp_path):
    scan = tmp_path / "scans" / "a_seg.nii.gz"
    scan.parent.mkdir()
    nib.save(nib.Nifti1Image(volume, LPS), scan)
    data = json.loads((run / "data.json").read_text(encoding="utf-8"))
    for source in (scan, scan.parent):
        assert predicted(run, source, tmp_path / "out")[0] == 2
    data["cases"]["unlabelled"] = {f"{name}_seg": content for name, content in data["cases"]["unlabelled"].items()}
    (run / "data.json").write_text(json.dumps(data), encoding="utf-8")
    save_tensors(run / "last.pt", load_tensors(run / "last.pt") | {"cases": None})
    for number, source in enumerate((scan, scan.parent)):
        code, labels = predicted(run, source, tmp_path / str(number))
        assert code == 0 and set(labels) == {"a_seg.nii.gz"}


def test_the_record_and_the_network_must_agree_on_the_number_of_channels(run, volume, tmp_path, capsys):
    channels(run, "0000", "0001")
    nib.save(nib.Nifti1Image(volume, LPS), tmp_path / "a_0000.nii.gz")
    with pytest.raises(SystemExit, match="2"):
        predicted(run, tmp_path / "a_0000.nii.gz", tmp_path / "out")
    assert "names 2 channels, and the network takes 1" in capsys.readouterr().err


@pytest.mark.slow       # test_own_data.py and test_own_methods.py go the same way
def test_anybodys_folder_from_scans_to_predictions(phantoms, tmp_path, shallow, no_curves):
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
    train_own.main(["--data-dir", str(mine), "--method", "cml", "--out", str(run), *TINY])
    rows = testing_own.main(["--run", str(run), "--device", "cpu"])
    assert {row["class"] for row in rows} == {1, 2} and {row["case"] for row in rows} == {"scan2"}
    code, predictions = predicted(run, images, tmp_path / "out")
    assert code == 0 and len(predictions) == 5
    assert set(np.unique(predictions["scan0.nii.gz"].dataobj)) <= {0, 1, 2}
    assert np.array_equal(predictions["scan3.nii.gz"].affine, nib.load(images / "scan3.nii.gz").affine)
    assert (run / "preprocessing.json").read_bytes().decode() == (mine / "preprocessing.json").read_bytes().decode()


def test_the_map_of_each_format_opens_on_its_scan_in_simpleitk(run, volume, tmp_path):
    scans, array = tmp_path / "scans", volume.astype(np.int16)
    scans.mkdir()
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetOrigin((-101.23456789, 57.1111111, 912.7654321))
    image.SetSpacing((0.8123456789, 0.9, 1.1))
    for name in ("a.nrrd", "b.mha", "c.mhd", "d.nhdr", "e.nii.gz", "f.hdr"):
        sitk.WriteImage(image, str(scans / name))
    record(run, labels={0: 0, 255: 1})
    code, _ = predicted(run, scans, tmp_path / "out", "--probabilities", "--disagreement")
    assert code == 0
    for name in ("a.nrrd", "b.mha", "c.mhd", "d.nhdr", "e.nii.gz", "f.hdr"):
        end = ".nii.gz" if name[0] in "ef" else ".nrrd"
        scan = sitk.ReadImage(str(scans / name))
        for what in ("", "_disagreement"):
            other = sitk.ReadImage(str(tmp_path / f"out/{name[0]}{what}{end}"), sitk.sitkUInt8)
            assert sitk.Mask(scan, other).GetSize() == scan.GetSize()
        labels = sitk.ReadImage(str(tmp_path / f"out/{name[0]}{end}"))
        statistics = sitk.LabelStatisticsImageFilter()
        statistics.Execute(scan, labels)
        assert set(statistics.GetLabels()) <= {0, 255} and 255 in statistics.GetLabels()
        assert sitk.ReadImage(str(tmp_path / f"out/{name[0]}_probabilities{end}")).GetSize()[:3] == scan.GetSize()
    code, _ = predicted(run, scans, tmp_path / "out", "--probabilities", "--disagreement")
    assert code == 0
    assert {path.name for path in (tmp_path / "out").iterdir() if path.name.startswith("a")} == {
        "a.nrrd", "a_probabilities.nrrd", "a_disagreement.nrrd"}


def test_changed_voxels_beside_a_header_are_another_scan(run, volume, tmp_path, capsys):
    image = sitk.GetImageFromArray(volume.astype(np.int16).transpose(2, 1, 0))
    for name in ("a.mhd", "b.nhdr", "c.hdr"):
        sitk.WriteImage(image, str(tmp_path / name))
        assert predicted(run, tmp_path / name, tmp_path / "out")[0] == 0
        assert predicted(run, tmp_path / name, tmp_path / "out")[0] == 0
        assert "1 skipped" in capsys.readouterr().out
        voxels = tmp_path / f"{name[0]}.{'img' if name[0] == 'c' else 'raw'}"
        content = bytearray(voxels.read_bytes() if voxels.exists() else (tmp_path / "b.raw.gz").read_bytes())
        content[1000] ^= 1
        voxels.write_bytes(content)
        assert predicted(run, tmp_path / name, tmp_path / "out")[0] == 2
        assert "was made by another run, with other options, from another scan" in capsys.readouterr().err


def test_a_scan_in_metres_and_its_twin_in_millimetres_have_one_segmentation(run, volume, tmp_path):
    record(run, spacing=(1.6, 1.6, 1.6))
    for name, unit, factor in (("mm", "mm", 1), ("m", "meter", 0.001), ("um", "micron", 1000)):
        image = nib.Nifti1Image(volume, np.diag([factor, factor, factor, 1]))
        image.header.set_xyzt_units(unit)
        nib.save(image, tmp_path / f"{name}.nii.gz")
        code, labels = predicted(run, tmp_path / f"{name}.nii.gz", tmp_path / "out")
        assert code == 0 and labels[f"{name}.nii.gz"].header.get_xyzt_units()[0] == unit
    one, *others = (np.asarray(labels[f"{name}.nii.gz"].dataobj) for name in ("mm", "m", "um"))
    assert 0 < one.mean() < 1 and all(np.array_equal(one, other) for other in others)


def record(run, **changes):
    values = {"dataset": "folder", "orientation": "RAS", "normalise": "zscore"} | changes
    (run / "preprocessing.json").write_text(json.dumps(values), encoding="utf-8")


def test_a_map_that_was_corrected_under_its_own_header_is_not_replaced(run, volume, tmp_path, capsys):
    nib.save(nib.Nifti1Image(volume.astype(np.int16), LPS), tmp_path / "a.nii.gz")
    _, labels = predicted(run, tmp_path / "a.nii.gz", tmp_path / "out")
    voxels, path = np.array(labels["a.nii.gz"].dataobj), tmp_path / "out" / "a.nii.gz"
    voxels[:4] = 1
    nib.save(nib.Nifti1Image(voxels, labels["a.nii.gz"].affine, labels["a.nii.gz"].header), path)
    mine = path.read_bytes()
    for more in ([], ["--overlay"]):
        code, _ = predicted(run, tmp_path / "a.nii.gz", tmp_path / "out", *more)
        assert code == 2 and path.read_bytes() == mine
        assert "from another scan or by something else; --force overwrites it" in capsys.readouterr().err
