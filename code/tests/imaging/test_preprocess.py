"""preprocess.py, record.py, scan_files.py: what is stored is read, restore undoes apply, bad input is refused."""
import json
from dataclasses import asdict, replace
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from dataloaders.components import largest_component
from imaging import record, scan_files
from imaging.preprocess import Geometry, apply, restore, restore_labels
from imaging.record import PUBLISHED, Preprocessing
from imaging.scan_files import ScanFile, read_label, read_scan_file
from runtime.errors import InputError

ORIENTATIONS = ["RAS", "LPS", "SPL", "ASR", "PIR", "LIA", "IRP", "RSA"]
FOLDER = Preprocessing("folder", "RAS", "zscore", labels={0: 0, 1: 1, 2: 2})
RECIPES = [*PUBLISHED.values(), FOLDER, replace(PUBLISHED["LA"], crop="foreground")]


def phantom(shape=(17, 22, 9), seed=0):
    """A bright blob in a dark frame, and a label inside it, both with the axes right, anterior, superior."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape, np.int16)
    inner = tuple(slice(2, n - 1) for n in shape)
    image[inner] = rng.integers(50, 200, image[inner].shape)
    label = np.zeros(shape, np.uint8)
    label[inner] = rng.integers(0, 3, image[inner].shape)
    return image, label


def stored(array, codes, spacing=(0.7, 1.3, 4.5), tilt=0.0):
    """RAS array -> (array, affine) as a scanner with the axes `codes` would store it."""
    angle = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = angle @ np.diag(spacing), (-30, 12, 5)
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
    return nib.orientations.apply_orientation(array, turn), affine @ inv_ornt_aff(turn, array.shape)


def scan_of(array, affine=None, spacing=None):
    affine = np.diag([*(spacing or (1, 1, 1)), 1.0]) if affine is None else affine
    return ScanFile(np.asarray(array, np.float32), affine, nib.affines.voxel_sizes(affine), Path("scan.nii"))


# ---- there and back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe.dataset}-{recipe.crop}")
def test_label_map_comes_back_bit_for_bit(codes, recipe):
    image, label = (stored(array, codes, tilt=0.2) for array in phantom())
    scan = scan_of(*image)
    prepared, classes, geometry = apply(scan, recipe, label[0], np.random.default_rng(0))
    assert prepared.shape == classes.shape and prepared.dtype == np.float32
    geometry = Geometry(**json.loads(json.dumps(asdict(geometry))))     # as it comes out of an HDF5 attribute
    back = restore(classes, geometry)
    assert back.dtype == np.uint8 and back.shape == scan.array.shape
    inside = restore(np.ones_like(classes), geometry) == 1
    assert np.array_equal(back[inside], label[0][inside]) and not back[~inside].any()
    assert np.count_nonzero(label[0]) == np.count_nonzero(back) or recipe.crop == "foreground"


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float64"])
@pytest.mark.parametrize("slope", [None, (0.5, -20)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_files_come_back_on_their_own_grid(tmp_path, dtype, slope, suffix):
    (array, affine), (label, _) = (stored(array, "PIR", tilt=0.1) for array in phantom((9, 12, 7)))
    file = nib.Nifti1Image(array.astype(dtype), affine)
    file.set_qform(affine, 1)
    if slope:
        file.header.set_slope_inter(*slope)
    nib.save(file, tmp_path / f"scan{suffix}")
    original = nib.load(tmp_path / f"scan{suffix}")
    scan = read_scan_file(tmp_path / f"scan{suffix}")
    assert np.allclose(scan.array, original.get_fdata()) and np.allclose(scan.spacing, [1.3, 4.5, 0.7])

    _, classes, geometry = apply(scan, FOLDER, label)
    scan_files.save_on_grid(tmp_path / "out.nii.gz", restore(classes, geometry), scan)
    written = nib.load(tmp_path / "out.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), label)
    assert np.array_equal(written.affine, original.affine) and written.shape == original.shape
    assert int(written.header["sform_code"]) == int(original.header["sform_code"])
    assert int(written.header["qform_code"]) == 1 and written.get_data_dtype() == np.uint8


@settings(max_examples=20, deadline=None)
@given(shape=st.tuples(*[st.integers(4, 13)] * 3), codes=st.sampled_from(ORIENTATIONS),
       target=st.sampled_from([*ORIENTATIONS, "slices"]), seed=st.integers(0, 99))
def test_any_shape_and_orientation_comes_back(shape, codes, target, seed):
    image, label = (stored(array, codes) for array in phantom(shape, seed))
    prepared, classes, geometry = apply(scan_of(*image), replace(FOLDER, orientation=target), label[0])
    assert np.array_equal(restore(classes, geometry), label[0])
    assert np.allclose(restore(prepared, geometry), (image[0] - image[0].mean()) / image[0].std(), atol=1e-5)


def test_storage_orientation_does_not_reach_the_network():
    results = [apply(scan_of(*stored(phantom()[0], codes)), FOLDER)[::2] for codes in ORIENTATIONS]
    for image, geometry in results:
        assert np.allclose(image, results[0][0], atol=1e-5) and np.allclose(geometry.spacing, [0.7, 1.3, 4.5])


def test_slices_come_first_whichever_axis_they_are_stored_on():
    volume = np.random.default_rng(0).normal(size=(6, 5, 4))
    published = apply(scan_of(volume, spacing=(1, 1, 8)), PUBLISHED["ACDC"])[0]
    assert published.shape == (4, 5, 6)     # (slices, H, W), as SimpleITK reads (x, y, z)
    assert apply(scan_of(volume, spacing=(8, 1, 1)), PUBLISHED["ACDC"])[0].shape == (6, 4, 5)
    assert apply(scan_of(volume), PUBLISHED["ACDC"])[0].shape == (4, 5, 6)


def test_probabilities_outside_the_crop_are_background():
    image, label = (array[0] for array in (stored(array, "LIA") for array in phantom()))
    recipe = replace(FOLDER, crop="brain")
    _, classes, geometry = apply(scan_of(image), recipe, label)
    probabilities = np.eye(3, dtype=np.float32)[classes].transpose(3, 0, 1, 2)
    back = restore(probabilities, geometry)
    assert np.allclose(back.sum(0), 1) and np.array_equal(back.argmax(0), label)
    with pytest.raises(ValueError, match="does not fit"):
        restore(probabilities[:, 1:], geometry)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0)])
def test_resampling_reaches_the_spacing_and_returns_to_the_grid(spacing):
    grid = np.indices((18, 15, 11)) - np.reshape((9, 7, 5), (3, 1, 1, 1))
    ball = (np.linalg.norm(grid / np.reshape((6, 6, 4), (3, 1, 1, 1)), axis=0) < 1).astype(np.uint8)
    scan = scan_of(*stored(ball * 100, "SPL", spacing=(0.9, 1.1, 2.5)))
    label = stored(ball, "SPL")[0]
    image, classes, geometry = apply(scan, replace(FOLDER, spacing=spacing), label)
    assert image.shape == classes.shape
    assert np.allclose(geometry.spacing, spacing, rtol=0.06)
    onehot = np.stack([classes == 0, classes == 1]).astype(np.float32)
    for back in (restore(classes, geometry), restore(onehot, geometry).argmax(0)):
        assert back.shape == scan.array.shape
        assert 2 * np.sum(back * label) / (back.sum() + label.sum()) > 0.85


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.5, 0.6, 2.0), None])
@pytest.mark.parametrize("codes", ["RAS", "SPL", "AIR"])
def test_label_maps_are_the_likeliest_class_of_the_probabilities_put_back(spacing, codes):
    """Of a soft and noisy prediction; the nearest voxel of its argmax is another map where something was resampled."""
    scan = scan_of(*stored(phantom((20, 17, 14))[0], codes, spacing=(0.9, 1.1, 2.5)))
    image, _, geometry = apply(scan, replace(FOLDER, spacing=spacing, crop="brain"))
    scores = np.random.default_rng(0).random((4, *image.shape), np.float32) ** 4
    probabilities = scores / scores.sum(0)
    labels = restore_labels(probabilities, geometry)
    assert labels.dtype == np.uint8 and labels.shape == scan.array.shape
    assert np.array_equal(labels, restore(probabilities, geometry).argmax(0))
    assert np.array_equal(labels, restore_labels(iter(probabilities), geometry))
    assert np.array_equal(labels, restore(probabilities.argmax(0), geometry)) == (spacing is None)


def test_post_processing_does_not_depend_on_how_the_scan_is_stored():
    """Two components of one size: the first along the prepared axes stays."""
    label = np.zeros((12, 10, 8), np.uint8)
    label[2:4, 6:8, 1:3], label[8:10, 1:3, 5:7] = 1, 1
    upright = []
    for codes in ("RAS", "LPI", "SAR", "IPL"):
        image, affine = stored(label * 50, codes)
        _, classes, geometry = apply(scan_of(image, affine), FOLDER, image // 50)
        kept = restore_labels(np.eye(2, dtype=np.float32)[classes].transpose(3, 0, 1, 2), geometry, largest_component)
        assert kept.sum() == 8
        upright.append(apply(scan_of(image, affine), FOLDER, kept)[1])
    assert all(np.array_equal(upright[0], other) for other in upright)


# ---- crops and intensities ---------------------------------------------------------------------------------


def test_label_crop_has_the_published_margins():
    label = np.zeros((300, 260, 4), np.uint8)
    label[100:230, 120:151, 1:3] = 1        # 130 wide: margins only; 31 wide: widened to 112 first
    image = np.random.default_rng(0).normal(size=label.shape)
    scan = scan_of(image, np.diag([-1, -1, 1, 1.0]))
    boxes = [apply(scan, PUBLISHED["LA"], label, np.random.default_rng(seed)) for seed in range(12)]
    for prepared, classes, geometry in boxes:
        (left, right), (front, back), depth = geometry.box
        assert 10 <= 100 - left <= 19 and 10 <= right - 230 <= 19
        assert 50 <= 120 - front <= 59 and 51 <= back - 151 <= 60 and depth == [0, 4]
        assert classes.sum() == label.sum() and prepared.shape[1] >= 112
    assert len({str(geometry.box) for *_, geometry in boxes}) > 6
    whole, _, geometry = apply(scan_of(image), PUBLISHED["LA"])
    assert whole.shape == label.shape       # nothing to crop around in a scan without a label


def test_foreground_crop_needs_no_label_and_counts_what_it_cuts():
    image = np.random.default_rng(0).normal(0, 1, (60, 50, 6))
    image[10:40, 5:45] += 100
    label = np.zeros(image.shape, np.uint8)
    label[8:20, 10:20, 2] = 1
    _, classes, geometry = apply(scan_of(image, np.diag([-1, -1, 1, 1.0])),
                                 replace(PUBLISHED["LA"], crop="foreground"), label)
    assert geometry.box == [[10, 40], [5, 45], [0, 6]]
    assert geometry.label_outside == 20 and classes.sum() == 100


def test_zscore_and_minmax_are_over_the_whole_scan():
    image, label = phantom()
    scan = scan_of(image)
    assert np.allclose(restored := apply(scan, FOLDER)[0], (image - image.mean()) / image.std(), atol=1e-5)
    cropped, _, geometry = apply(scan, replace(FOLDER, crop="brain"))
    assert np.array_equal(cropped, restored[tuple(slice(*side) for side in geometry.box)])
    slices = apply(scan, PUBLISHED["ACDC"])[0]
    assert slices.min() == 0 and slices.max() == 1


def test_brain_background_may_be_any_value_and_the_label_cannot_leak():
    image, _ = phantom((20, 22, 18))
    label = np.zeros(image.shape, np.uint8)
    label[1:6, 8:10, 8:10] = 1              # one plane of it outside the brain
    brain = image != 0
    recipe = replace(PUBLISHED["BraTS2019"], background="mean")
    results = []
    for background in (0, -3.5):
        values = np.where(brain, image / 10 - 9.25, background).astype(np.float32)
        results.append(apply(scan_of(values, np.diag([-1, -1, 1, 1.0])), recipe, label))
    prepared, classes, geometry = results[1]
    assert np.allclose(results[0][0][1:], prepared[1:], atol=1e-2)
    assert geometry.box == [[1, 19], [2, 21], [2, 17]] and geometry.label_outside == 4
    assert classes.sum() == label.sum()
    inside = prepared[1:]                   # plane 0 is there for the label's sake
    assert not prepared[0].any() and abs(inside.mean()) < 1e-4 and abs(inside.std() - 1) < 1e-4
    unlabelled = apply(scan_of(values, np.diag([-1, -1, 1, 1.0])), recipe)[0]
    assert np.allclose(unlabelled, inside, atol=2e-2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_background_of_brats_is_where_the_published_files_have_it(seed):
    """SSL4MIS: clipped, then the whole crop less the brain's mean, over the brain's deviation; nothing set to 0."""
    image, _ = phantom((20, 22, 18), seed)
    image[6:8, 6:9, 5:7] = 0                # a ventricle: no brain by its value, inside the box
    found, _, geometry = apply(scan_of(image, np.diag([-1, -1, 1, 1.0])), PUBLISHED["BraTS2019"])
    crop = image[tuple(slice(*side) for side in geometry.box)].astype(float)
    crop = np.minimum(crop, np.percentile(crop, 99.9))
    brain = crop[crop > 0]
    assert np.allclose(found, (crop - brain.mean()) / brain.std(), atol=1e-4)
    assert np.allclose(found[crop == 0], -brain.mean() / brain.std(), atol=1e-4)
    ours = apply(scan_of(image, np.diag([-1, -1, 1, 1.0])), replace(PUBLISHED["BraTS2019"], background="mean"))[0]
    assert not ours[crop == 0].any() and np.array_equal(ours[crop > 0], found[crop > 0])


def test_records_without_the_background_are_of_data_that_had_it_at_the_mean():
    values = replace(PUBLISHED["BraTS2019"], background="mean").to_dict()
    assert "background" not in values and Preprocessing.from_dict(values).background == "mean"
    assert PUBLISHED["BraTS2019"].to_dict()["background"] == "own"


# ---- what leaves is an image -------------------------------------------------------------------------------


def speck(value):
    image = np.zeros((16, 14, 12))
    image[2, 2, 2] = value
    return image


@pytest.mark.parametrize("image, recipe, words", [
    (phantom((20, 20, 12))[0], {"spacing": (50, 50, 50)}, "1 x 1 x 1 voxels would be left of 20 x 20 x 12"),
    (phantom((20, 20, 12))[0], {"spacing": (1, 1, 9)}, "20 x 20 x 1 voxels would be left of 20 x 20 x 12"),
    (phantom((20, 20, 12))[0], {"spacing": (0.001, 0.001, 0.001)}, r"20000 x 20000 x 12000 voxels need about .* GiB"),
    (np.pad(np.ones((10, 10, 4)), 1), {"normalise": "zscore_brain", "crop": "brain"}, "is 1 everywhere|NaN"),
    (speck(1e38) - speck(3e38), {"normalise": "minmax"}, None),
    (np.where(speck(1) > 0, 3e38, -3e38), {"normalise": "minmax"}, "NaN or infinite"),
    (speck(1e-45), {"normalise": "minmax"}, None)])
def test_what_is_prepared_is_finite_not_constant_and_of_some_size(image, recipe, words):
    recipe = replace(FOLDER, **recipe)
    if words is None:
        found = apply(scan_of(image), recipe)[0]
        assert np.isfinite(found).all() and found.min() < found.max()
        return
    with pytest.raises(InputError, match=f"scan.nii: .*({words}).*"):
        apply(scan_of(image), recipe)


def test_a_label_that_is_lost_on_the_way_is_refused():
    image, label = phantom((24, 24, 12))[0], np.zeros((24, 24, 12), np.uint8)
    label[3, 3, 3] = 1
    assert apply(scan_of(image), FOLDER, label)[1].sum() == 1
    with pytest.raises(InputError, match="nothing of its label is left .* another crop or spacing"):
        apply(scan_of(image), replace(FOLDER, spacing=(3, 3, 3)), label)
    assert not apply(scan_of(image), replace(FOLDER, spacing=(3, 3, 3)), np.zeros_like(label))[1].any()
    bright = np.random.default_rng(0).normal(0, 1, (60, 50, 6))
    bright[30:50, 5:45] += 100
    outside = np.zeros(bright.shape, np.uint8)
    outside[3:9, 10:20, 2] = 1
    with pytest.raises(InputError, match="nothing of its label is left"):
        apply(scan_of(bright, np.diag([-1, -1, 1, 1.0])), replace(PUBLISHED["LA"], crop="foreground"), outside)


@pytest.mark.parametrize("spacing", [(1e-9, 1, 1), (1, 500, 1), (1, 1, 1e300), (1, 1, 1e-320)])
def test_absurd_spacings_are_refused_at_once(spacing):
    with pytest.raises(InputError, match=r"spacing .*: expected three sides in mm, above 0 \(0.001 to 100\)"):
        replace(FOLDER, spacing=spacing)


def test_clip_cuts_the_brightest_voxels():
    image = np.random.default_rng(0).normal(100, 10, (20, 20, 20))
    image[0, 0, 0], image[5, 5, 5] = 0, 1e6
    image = apply(scan_of(image), PUBLISHED["BraTS2019"])[0]
    assert image.max() < 5 and abs(image.mean()) < 1e-3


def test_modalities_become_channels():
    recipe = replace(PUBLISHED["BraTS2019"], modalities=("flair", "t1"))
    flair, t1 = scan_of(phantom(seed=0)[0]), scan_of(phantom(seed=1)[0])
    image, _, geometry = apply([flair, t1], recipe)
    assert image.shape == (2, 14, 19, 6)
    assert np.array_equal(restore(image[0] != 0, geometry), flair.array != 0)
    with pytest.raises(InputError, match="1 modalities given, expected flair, t1"):
        apply(flair, recipe)


@pytest.mark.parametrize("recipe", [*PUBLISHED.values(), replace(FOLDER, spacing=(1, 1.5, 2), labels={9: 1})])
def test_record_round_trip(tmp_path, recipe):
    assert record.read_preprocessing(tmp_path) is None
    record.write_preprocessing(tmp_path, recipe)
    assert record.read_preprocessing(tmp_path) == recipe
    (tmp_path / record.RECORD).write_text('{"dataset": 1', encoding="utf-8")
    with pytest.raises(InputError, match="preprocessing.json: is no preprocessing record .* prepare"):
        record.read_preprocessing(tmp_path)


# ---- reading -----------------------------------------------------------------------------------------------


def nifti(path, array, affine=None):
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.mark.parametrize("space, flips", [("left-posterior-superior", (-1, -1, 1)), ("RAS", (1, 1, 1)),
                                          ("left-anterior-superior", (-1, 1, 1)), (None, (-1, -1, 1))])
def test_nrrd_affine(tmp_path, space, flips):
    array, _ = phantom()
    header = {"space": space, "space directions": np.diag([0.6, 0.7, 1.2]), "space origin": [1, 2, 3]}
    nrrd.write(str(tmp_path / "a.nrrd"), array, header if space else {"spacings": [0.6, 0.7, 1.2]})
    scan = read_scan_file(tmp_path / "a.nrrd")
    assert np.array_equal(scan.array, array) and np.allclose(scan.spacing, [0.6, 0.7, 1.2])
    assert np.allclose(np.diag(scan.affine)[:3], np.array(flips) * [0.6, 0.7, 1.2])
    assert np.allclose(scan.affine[:3, 3], np.array(flips) * [1, 2, 3] if space else 0)


def test_same_scan_as_nifti_and_as_nrrd(tmp_path):
    array, affine = stored(phantom()[0], "PIR", tilt=0.3)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    header = {"space": "LPS", "space directions": lps[:3, :3].T, "space origin": lps[:3, 3]}
    nrrd.write(str(tmp_path / "a.nrrd"), array, header)
    results = [apply(read_scan_file(path), FOLDER)
               for path in (tmp_path / "a.nrrd", nifti(tmp_path / "a.nii.gz", array, affine))]
    assert np.array_equal(results[0][0], results[1][0])
    assert np.allclose(results[0][2].affine, results[1][2].affine, atol=1e-4)


def test_labels_are_mapped_to_classes(tmp_path):
    scan = scan_of(np.ones((5, 6, 7)))
    values = np.random.default_rng(0).choice([0, 1, 2, 4], (5, 6, 7)).astype(np.float64)
    file = nib.Nifti1Image(values, np.eye(4))
    file.set_data_dtype(np.int16)       # written with a scl_slope: 4 may come back as 3.99994
    nib.save(file, tmp_path / "l.nii.gz")
    label = read_label(tmp_path / "l.nii.gz", scan, PUBLISHED["BraTS2019"].labels)
    assert label.dtype == np.uint8 and np.array_equal(label, values > 0)
    assert not read_label(nifti(tmp_path / "e.nii", np.zeros((5, 6, 7), np.uint8)), scan, FOLDER.labels,
                          allow_empty=True).any()
    shifted = nifti(tmp_path / "s.nii", np.ones((5, 6, 7), np.uint8), np.diag([2, 2, 2, 1.0]))
    assert read_label(shifted, scan, FOLDER.labels, same_affine=False).all()


def test_constant_scan_is_refused():
    with pytest.raises(InputError, match="scan.nii: all voxels are 3, expected an image"):
        apply(scan_of(np.full((4, 4, 4), 3)), FOLDER)
