"""export.py: the folder's reader, with its own packages alone, writes what predict.py writes."""
import io
import json
import runpy
import shutil
import subprocess
import sys
from contextlib import redirect_stderr
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

import export
import predict
import prepare_folder
import train_own
from imaging.scan_files import is_prediction
from methods import registry
from runtime.files import ROOT, load_tensors, save_tensors

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install -r requirements-export.txt")
pytestmark = pytest.mark.usefixtures("narrow", "no_curves")
ALONE = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(*{name.split(".")[0] for name in sys.modules})
"""
FOREIGN = {"torch", "skimage", "cc3d", "h5py", "nrrd", "SimpleITK", "tyro", "imaging", "runtime", "evaluation"}


def affine_of(axes, sides):
    """Voxel index -> mm, RAS+, of axes such as "LPS"."""
    ornt = nib.orientations.axcodes2ornt(axes)
    affine = np.zeros((4, 4))
    for axis, (place, flip) in enumerate(ornt):
        affine[int(place), axis] = flip * sides[axis]
    affine[:, 3] = 17.25, -31.5, 4.125, 1
    return affine


def scan(folder, name, axes="LPS", sides=(1, 1, 1), shape=(40, 36, 34), dtype=np.int16, seed=0):
    """A bright ball in noise, in a file."""
    space = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    ball = np.sqrt(sum((x - 0.1 * seed) ** 2 for x in space)) < 0.6
    array = 300 * ball + np.random.default_rng(seed).normal(200, 60, shape)
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(dtype), affine_of(axes, sides), dtype=dtype), folder / name)
    return folder / name, ball


def strip(path):
    """The background of a scan is one value, other than 0."""
    image = nib.load(path)
    array = np.asarray(image.dataobj)
    space = np.meshgrid(*(np.linspace(-1, 1, n) for n in array.shape), indexing="ij")
    nib.save(nib.Nifti1Image(np.where(np.linalg.norm(space, axis=0) < 0.9, array, 3), image.affine,
                             dtype=array.dtype), path)


def of_several_classes(run):
    """The run with its weights in disorder: after so few steps, one class would be all that it sees."""
    weights, generator = load_tensors(run / "last.pt"), torch.Generator().manual_seed(0)
    for weight in weights["method"].values():
        if weight.ndim > 1:
            weight += torch.randn(weight.shape, generator=generator) / 3
    save_tensors(run / "last.pt", weights)
    return run


def exported(run, output):
    export.main(["--run", str(run), "--output", str(output)])
    return output


def read_alone(folder, target, *paths):
    """segment.py in a process that has neither this repository nor PyTorch -> finished process."""
    done = subprocess.run([sys.executable, "-I", "-c", ALONE, str(folder / "segment.py"), str(target),
                           *map(str, paths)], capture_output=True, encoding="utf-8", cwd=folder)
    assert done.returncode or not FOREIGN & set(done.stdout.split()), done.stdout
    return done


def read_here(folder, target, *paths):
    """segment.py in this process, which has loaded what takes long -> the same of it."""
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(io.StringIO()) as told:
        patch.setattr(sys, "argv", [str(word) for word in ("segment.py", target, *paths)])
        try:
            runpy.run_path(str(folder / "segment.py"), run_name="__main__")
        except SystemExit as stopped:
            return SimpleNamespace(returncode=stopped.code, stderr=told.getvalue())
    return SimpleNamespace(returncode=0, stderr=told.getvalue())


def assert_alike(run, folder, tmp_path, *cases):
    """Label maps of both programs: equal voxel for voxel, on the scans' grids; `cases` are lists of files."""
    scans = cases[0][0].parent
    assert predict.main(["--run", str(run), "--input", str(scans), "--output", str(tmp_path / "ours"), "--device",
                         "cpu"]) == 0
    theirs = sorted((tmp_path / "ours").glob("*.nii.gz"))
    assert len(theirs) == len(cases)
    for path, files in zip(theirs, sorted(cases), strict=True):
        target = tmp_path / "alone" / path.name
        target.parent.mkdir(exist_ok=True)
        done = read_here(folder, target, *files)
        assert done.returncode == 0, done.stderr
        ours, alone = nib.load(path), nib.load(target)
        labels = np.asarray(ours.dataobj)
        assert len(np.unique(labels)) > 1       # says something, so that equality means something
        assert np.array_equal(labels, np.asarray(alone.dataobj)), (path.name, int((labels != alone.dataobj).sum()))
        assert alone.get_data_dtype() == ours.get_data_dtype() and np.array_equal(alone.affine, ours.affine)
        assert [int(alone.header[key]) for key in ("sform_code", "qform_code", "xyzt_units")] == [
            int(ours.header[key]) for key in ("sform_code", "qform_code", "xyzt_units")]


@pytest.fixture(scope="module")
def _trained(tmp_path_factory):
    return tmp_path_factory.mktemp("trained")


@pytest.fixture
def run_of(recipe, runs, _trained):
    """run_of(dataset, **changes) -> a run; each is trained once."""
    def make(dataset, name="", **changes):
        out = _trained / f"{dataset}{name}"
        if not out.exists():
            runs.train(recipe(dataset, **{"pre_steps": 2, "self_steps": 2, "out": out} | changes))
        return out
    return make


def test_a_published_volume_run_in_every_orientation(run_of, tmp_path):
    run, scans = run_of("LA", method="cml_plus"), tmp_path / "scans"
    cases = [[scan(scans, f"{axes}.nii.gz", axes, sides, shape, dtype)[0]] for axes, sides, shape, dtype in (
        ("LPS", (1, 1, 1), (40, 36, 34), np.int16), ("SAR", (0.7, 1.5, 1), (36, 40, 20), np.float32))]
    folder = exported(run, tmp_path / "exported")
    assert {path.name for path in folder.iterdir()} == {"network.onnx", "network.json", "preprocessing.json",
                                                        "segment.py"}
    assert len((folder / "segment.py").read_text(encoding="utf-8").splitlines()) <= 120
    assert_alike(run, folder, tmp_path, *cases)
    done = read_alone(folder, tmp_path / "labels.nii.gz", *cases[0])
    assert done.returncode == 0, done.stderr
    labels, here = (nib.load(path).dataobj for path in (tmp_path / "labels.nii.gz", tmp_path / "alone" / "LPS.nii.gz"))
    assert np.array_equal(labels, here)


def test_a_published_slice_run(run_of, tmp_path):
    scans = tmp_path / "scans"
    cases = [[scan(scans, f"{name}.nii.gz", axes, sides, shape)[0]] for name, axes, sides, shape in (
        ("a", "LPS", (1.4, 1.4, 8), (40, 36, 5)), ("b", "RAS", (5, 1, 1), (4, 33, 41)))]
    run = of_several_classes(run_of("ACDC"))
    assert_alike(run, exported(run, tmp_path / "exported"), tmp_path, *cases)


@pytest.mark.parametrize(("record", "more"), [
    ({"normalise": "zscore", "spacing": (1.4, 0.8, 1.3), "orientation": "RAS", "labels": {0: 0, 255: 1}}, {}),
    ({"normalise": "zscore_brain", "spacing": (1.4, 0.8, 1.3), "orientation": "RAS"}, {}),
    pytest.param({"normalise": "ct", "windows": [(-100, 600, 240, 130)], "orientation": "ASL",
                  "spacing": (1.1, 1, 0.9)}, {}, marks=pytest.mark.slow),
    pytest.param({"normalise": "minmax", "orientation": "LPS"}, {"half_resolution": True, "normalise": "zscore"},
                 marks=pytest.mark.slow)])
def test_resampled_and_windowed_scans_at_full_and_half_resolution(run_of, tmp_path, record, more):
    run, scans = run_of("LA", "half" * bool(more), **more), tmp_path / "scans"
    (run / "preprocessing.json").write_text(json.dumps({"dataset": "folder", **record}), encoding="utf-8")
    cases = [[scan(scans, f"{axes}.nii.gz", axes, sides, shape, dtype)[0]] for axes, sides, shape, dtype in (
        ("PIR", (1, 1, 1), (37, 36, 34), np.float64), ("LAS", (0.8, 1.4, 2.1), (44, 25, 17), np.int16))]
    for [path] in cases if record["normalise"] == "zscore_brain" else ():
        strip(path)
    try:
        assert_alike(run, exported(run, tmp_path / "exported"), tmp_path, *cases)
    finally:
        (run / "preprocessing.json").unlink()


@pytest.fixture
def sliced(_trained, tmp_path, monkeypatch):
    """A run on somebody's own data: thick slices of two channels, resampled -> run, {case: files}."""
    from training import recipe as recipe_module
    monkeypatch.setattr(recipe_module, "ROOT", tmp_path)
    cases = {}
    for seed, (name, sides) in enumerate({"a": (1, 1, 5), "b": (1.3, 1.3, 5), "c": (1, 1.2, 6)}.items()):
        for end in ("T2", "ASL"):
            path, ball = scan(tmp_path / "images", f"{name}_{end}.nii.gz", "LPS", sides, (36, 40, 5), np.int16,
                              seed + 3 * (end == "ASL"))
            cases.setdefault(name, []).append(path)
        (tmp_path / "labels").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(ball.astype(np.uint8) * 7, affine_of("LPS", sides)),
                 tmp_path / "labels" / f"{name}.nii.gz")
    prepare_folder.main(["--images", str(tmp_path / "images"), "--labels", str(tmp_path / "labels"), "--output",
                         str(tmp_path / "mine"), "--workers", "1", "--label-map", "7:1",
                         "--channels", "T2", "ASL"])
    run = train_own.main(["mini", "--data-dir", str(tmp_path / "mine"), "--patch-size", "32", "32", "--pre-steps", "4",
                          "--self-steps", "8", "--eval-every", "100", "--workers", "0", "--device", "cpu"])
    return of_several_classes(run), cases


def test_own_slices_of_two_channels(sliced, tmp_path, capsys):
    run, cases = sliced
    folder = exported(run, tmp_path / "exported")
    assert capsys.readouterr().out.endswith("segment.py labels.nii.gz scan_T2.nii.gz scan_ASL.nii.gz\n")
    assert (folder / "plan.json").exists()
    assert json.loads((folder / "network.json").read_text(encoding="utf-8"))["stride"] == [16, 16]
    assert_alike(run, folder, tmp_path, *cases.values())
    backwards, alone = tmp_path / "backwards.nii.gz", tmp_path / "alone" / "a.nii.gz"
    assert read_here(folder, backwards, *reversed(cases["a"])).returncode == 0      # channels are known by their names
    assert np.array_equal(nib.load(backwards).dataobj, nib.load(alone).dataobj)
    one = cases["a"][0]
    twice = shutil.copy(one, tmp_path / "again_T2.nii.gz")
    for files in ([one], [one, twice], [one, one], [*cases["a"], twice]):
        done = read_here(folder, tmp_path / "one.nii.gz", *files)
        assert done.returncode == 2 and "each of ['T2', 'ASL']" in done.stderr and done.stderr.count("\n") == 1


def test_what_the_reader_cannot_take_is_one_line(run_of, tmp_path):
    folder = exported(run_of("LA"), tmp_path / "exported")
    good, _ = scan(tmp_path, "good.nii.gz")
    image = nib.load(good)
    (tmp_path / "cut.nii.gz").write_bytes(good.read_bytes()[:2000])
    (tmp_path / "scan.nrrd").write_bytes(b"NRRD0004\n")
    nib.save(nib.Nifti1Image(np.stack([image.get_fdata()] * 2, -1), image.affine), tmp_path / "series.nii.gz")
    apart = nib.Nifti1Image(image.get_fdata(), image.affine)
    apart.set_qform(np.diag([-1, -1, 3, 1.0]), 1)
    nib.save(apart, tmp_path / "apart.nii.gz")
    damaged = bytearray(good.read_bytes())
    damaged[-8] ^= 1        # of the check sum: that of other voxels
    (tmp_path / "damaged.nii.gz").write_bytes(damaged)
    damaged[20:40] = bytes(20)      # of the packed voxels
    (tmp_path / "unpacked.nii.gz").write_bytes(damaged)
    nib.save(nib.Nifti1Image(image.get_fdata() * 1j, image.affine), tmp_path / "complex.nii.gz")
    for name, place, field in (("inside.nii", 108, 0), ("inter.nii", 116, np.nan)):
        nib.save(nib.Nifti1Image(image.get_fdata(), image.affine), tmp_path / name)
        content = bytearray((tmp_path / name).read_bytes())
        content[112:120] = np.float32((2, 1)).tobytes()
        content[place:place + 4] = np.float32(field).tobytes()
        (tmp_path / name).write_bytes(content)
    for name in ("cut.nii.gz", "damaged.nii.gz", "unpacked.nii.gz", "scan.nrrd", "series.nii.gz", "apart.nii.gz",
                 "complex.nii.gz", "inside.nii", "inter.nii"):
        done = read_here(folder, tmp_path / "labels.nii.gz", tmp_path / name)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        assert not (tmp_path / "labels.nii.gz").exists()
    run = shutil.copytree(run_of("LA"), tmp_path / "fine")
    (run / "preprocessing.json").write_text(json.dumps({"dataset": "folder", "orientation": "RAS", "normalise":
                                                        "zscore", "spacing": [1, 1, 1]}), encoding="utf-8")
    large, _ = scan(tmp_path, "large.nii.gz", sides=(1e4,) * 3)         # micrometres that say that they are mm
    done = read_here(exported(run, tmp_path / "of_1_mm"), tmp_path / "labels.nii.gz", large)
    assert done.returncode == 2 and "Unable to allocate" in done.stderr and done.stderr.count("\n") == 1
    before = good.read_bytes()
    done = read_here(folder, good, good)
    assert done.returncode == 2 and "a NIfTI for each of ['lgemri']" in done.stderr and good.read_bytes() == before


@pytest.mark.parametrize(("change", "words"), [
    ({"--run": "nowhere"}, "nowhere"), ({"--output": "."}, "is there already"), ({"--checkpoint": "best"}, "best.pt")])
def test_bad_input_is_one_line(run_of, tmp_path, capsys, monkeypatch, change, words):
    options = {"--run": str(run_of("LA")), "--output": str(tmp_path / "exported")} | change
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        export.main([word for pair in options.items() for word in pair])
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "exported").exists()


def test_of_a_folder_of_folds_one_is_asked_for(tmp_path, capsys):
    (tmp_path / "folds" / "fold1").mkdir(parents=True)
    (tmp_path / "folds" / "fold1" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        exported(tmp_path / "folds", tmp_path / "exported")
    assert f"is a folder of folds, and one network is exported; give one of them, such as {tmp_path}" in (
        capsys.readouterr().err)


def test_missing_packages_and_preprocessing_without_a_reader_are_said(run_of, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="2"):
        patch.setattr(export, "find_spec", lambda name: None)
        exported(run_of("LA"), tmp_path / "exported")
    assert "onnxruntime: not installed; pip install -r" in capsys.readouterr().err
    run = shutil.copytree(run_of("LA"), tmp_path / "heads")
    for how in ({"crop": "foreground"}, {"crop": "brain"}, {"clip": 99.9}, {"background": "own"}):
        (run / "preprocessing.json").write_text(json.dumps(
            {"dataset": "folder", "orientation": "RAS", "normalise": "zscore_brain"} | how), encoding="utf-8")
        with pytest.raises(SystemExit, match="2"):
            exported(run, tmp_path / "exported")
        assert "the crop " in capsys.readouterr().err and not (tmp_path / "exported").exists()


def test_an_export_that_differs_is_not_left(run_of, tmp_path, capsys, monkeypatch):
    write = export.write_network

    def wrong(path, method, shape):
        with torch.no_grad():
            next(method.tested.parameters()).add_(0.1)
        write(path, method, shape)
        with torch.no_grad():
            next(method.tested.parameters()).sub_(0.1)
    monkeypatch.setattr(export, "write_network", wrong)
    with pytest.raises(SystemExit, match="2"):
        exported(run_of("LA"), tmp_path / "exported")
    assert "differ by" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if "exported" in path.name]


NETWORKS = "mean_teacher", "dtc", "urpc", "mc_net", "ss_net", "mcf", "cml", "cml_plus"      # others have one of these


@pytest.mark.parametrize(("method", "dataset"), [
    pytest.param(method, dataset, marks=() if dataset == "ACDC" and method in NETWORKS else pytest.mark.slow)
    for method in registry.METHODS for dataset in ("LA", "ACDC")])
def test_every_methods_network_is_exported(recipe, tmp_path, method, dataset):
    made = recipe(dataset, method=method)
    network = registry.build(made)
    shape = made.in_channels, *made.patch_size
    export.write_network(tmp_path / "network.onnx", network, shape)
    assert export.largest_difference(tmp_path / "network.onnx", network, shape) < export.TOLERANCE
    size = sum(weight.numel() for weight in network.tested.parameters()) * 4
    assert (tmp_path / "network.onnx").stat().st_size < size + 150_000      # nothing that is not tested goes along
    assert str(ROOT).encode() not in (tmp_path / "network.onnx").read_bytes()


def test_what_an_exported_network_made_is_no_scan_and_no_label(run_of, tmp_path, monkeypatch):
    folder = exported(run_of("LA"), tmp_path / "exported")
    path, _ = scan(tmp_path, "scan.nii.gz")
    assert read_alone(folder, tmp_path / "labels.nii.gz", path).returncode == 0
    assert is_prediction(tmp_path / "labels.nii.gz") and not is_prediction(path)
    image = nib.load(tmp_path / "labels.nii.gz")
    corrected = np.asarray(image.dataobj).copy()
    corrected[0, 0, :2] = 1 - corrected[0, 0, :2]
    nib.save(nib.Nifti1Image(corrected, image.affine, image.header), tmp_path / "labels.nii.gz")
    assert not is_prediction(tmp_path / "labels.nii.gz")


@pytest.mark.parametrize(("sides", "shape"), [((1e-3,) * 3, (40, 36, 34)), ((1, 1, 0.7), (40, 36, 2))])
def test_a_scan_of_which_preparation_leaves_one_voxel_is_refused(run_of, tmp_path, capsys, sides, shape):
    """Such as one with voxels of a micrometre, which are resampled to the size of training, or a thin one."""
    run = shutil.copytree(run_of("LA"), tmp_path / "coarse")
    (run / "preprocessing.json").write_text(json.dumps({"dataset": "folder", "orientation": "RAS", "normalise":
                                                        "zscore", "spacing": [1, 1, 1]}), encoding="utf-8")
    folder = exported(run, tmp_path / "exported")
    path, _ = scan(tmp_path, "scan.nii.gz", sides=sides, shape=shape)
    done = read_here(folder, tmp_path / "labels.nii.gz", path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "once prepared, is one value" in done.stderr
    assert not (tmp_path / "labels.nii.gz").exists()
    assert predict.main(["--run", str(run), "--input", str(path), "--output", str(tmp_path / "ours")]) == 2
    assert "expected 2 an axis" in capsys.readouterr().err
