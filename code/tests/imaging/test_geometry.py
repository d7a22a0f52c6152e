"""Which place a header gives its scan: what SimpleITK says, what is said to the user, and what follows from it."""
import itertools
import json

import h5py
import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

import prepare_ACDC
import prepare_folder
from imaging.preprocess import apply
from imaging.record import Preprocessing
from imaging.scan_files import read_label, read_scan_file, save_on_grid
from runtime.errors import InputError

SHAPE = 6, 5, 4


def affine_of(turns, spacing, origin):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", turns, degrees=True).as_matrix() * spacing
    affine[:3, 3] = origin
    return affine


S = affine_of((10, 0, 20), (1.5, 1.4, 3), (10, 20, 30))
Q = affine_of((-10, 5, 0), (1.5, 1.4, 3), (1, 2, 3))
SKEWED = S @ np.array([[1, 0.02, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
ONES = affine_of((0, 0, 0), (1, 1, 1), (5, 6, 7))


def write(path, sform=None, qform=None, codes=(1, 1), pixdim=None, units=2, array=None, **fields):
    """A NIfTI file whose header holds these fields, whether or not they agree: nibabel would make them."""
    if array is None:
        array = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)
    header = nib.Nifti1Header()
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header.set_qform(S if qform is None else qform, codes[1])
    header.set_sform(S if sform is None else sform, codes[0])
    if pixdim is not None:
        header["pixdim"][1:4] = pixdim
    header["xyzt_units"] = units
    for key, value in fields.items():
        header[key] = value
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    path.write_bytes(header.binaryblock + bytes(4) + array.tobytes("F"))
    return path


def by_itk(path):
    """SimpleITK's affine of a file, RAS+."""
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine


# ---- NIfTI -----------------------------------------------------------------------------------------------------------

SIZES = {"agreeing": None, "ACDC": (1.32, 1.32, 10), "a little off": (1.503, 1.4, 3), "2 % off": (1.53, 1.4, 3)}


@pytest.mark.parametrize(("codes", "sizes", "units"), [
    *((codes, "agreeing", 2) for codes in itertools.product(range(5), range(3))),
    *((codes, sizes, 2) for codes in ((1, 0), (1, 1), (2, 0), (2, 1), (0, 0), (0, 1)) for sizes in SIZES),
    *(((1, 1), "agreeing", units) for units in (0, 1, 3, 9, 10, 11)), ((2, 1), "ACDC", 1), ((0, 0), "ACDC", 3)])
def test_a_scan_lies_where_simpleitk_puts_it(tmp_path, codes, sizes, units):
    sform = ONES if sizes == "ACDC" else S
    scan = read_scan_file(write(tmp_path / "a.nii", sform, Q, codes, SIZES[sizes], units))
    expected = by_itk(scan.path)
    unit = {1: 1000, 3: 0.001}.get(units & 7, 1)
    # up to 1 % the sform's own columns stand, and ITK's are up to that much longer
    off = 0.01 * np.abs(expected) if sizes == "a little off" else 0
    assert (np.abs(scan.affine - expected) < 1e-4 * unit + off).all(), (scan.affine, expected)
    np.testing.assert_allclose(scan.spacing, np.linalg.norm(expected[:3, :3], axis=0), rtol=0.01)


def test_what_was_decided_is_said_with_its_numbers(tmp_path):
    def notes(**header):
        return read_scan_file(write(tmp_path / "a.nii", **header)).notes

    assert notes() == {}
    assert notes(qform=S + 1e-3) == {}
    assert notes(codes=(2, 0)) == notes(codes=(0, 1)) == {}
    assert notes(pixdim=(1.503, 1.4, 3)) == {}      # a fifth of a per cent
    assert notes(pixdim=(0, 0, 0), codes=(1, 0)) == {}      # says nothing
    said = notes(sform=ONES, qform=Q, codes=(2, 1), pixdim=(1.32, 1.32, 10))
    assert "sform says 1 x 1 x 1 mm and pixdim 1.32 x 1.32 x 10 mm" in said["voxel size"]
    assert "the qform's directions" in said["voxel size"] and "--geometry sform" in said["voxel size"]
    moved = Q.copy()
    moved[:3, 3] += [0, 0, 8.8]
    assert "8.8 mm apart; the qform is taken as ITK does" in notes(sform=moved, qform=Q, codes=(2, 1))["place"]
    assert "8.8 mm apart; the sform is taken as ITK does" in notes(sform=moved, qform=Q, codes=(1, 1))["place"]
    assert "8.8 mm apart; the qform is taken" in notes(sform=SKEWED, qform=moved - Q + SKEWED)["place"]
    assert "no orientation" in notes(codes=(0, 0))["orientation"]
    assert "metres" in notes(units=1)["unit"] and "micrometres" in notes(units=3)["unit"]


def test_geometry_sform_takes_the_sform_with_its_own_sizes(tmp_path):
    path = write(tmp_path / "a.nii", ONES, Q, (2, 1), (1.32, 1.32, 10))
    scan = read_scan_file(path, "sform")
    np.testing.assert_allclose(scan.affine, ONES)
    np.testing.assert_allclose(scan.spacing, 1)
    assert "--geometry itk takes the other" in scan.notes["voxel size"]
    np.testing.assert_allclose(read_scan_file(write(path, S, Q, (2, 1)), "sform").affine, S, atol=1e-5)
    np.testing.assert_allclose(read_scan_file(write(path, S, Q, (0, 1)), "sform").affine, Q, atol=1e-5)


def test_a_skewed_sform_stands_where_there_is_no_other(tmp_path):
    """ITK refuses such a file."""
    scan = read_scan_file(write(tmp_path / "a.nii", SKEWED, codes=(1, 0)))
    np.testing.assert_allclose(scan.affine, SKEWED, atol=1e-5)


def test_fields_that_say_nothing_or_too_much(tmp_path, caplog):
    for pixdim in ((0, 0, 0), (np.nan, 1.4, 3), (-1.5, -1.4, -3)):
        np.testing.assert_allclose(read_scan_file(write(tmp_path / "a.nii", pixdim=pixdim)).affine, S, atol=1e-5)
    assert not caplog.records       # nibabel would say so at each look into the file
    spoilt = write(tmp_path / "b.nii", Q, qform=Q, codes=(1, 1), quatern_b=np.nan)
    np.testing.assert_allclose(read_scan_file(spoilt).affine, Q, atol=1e-5)
    longer = write(tmp_path / "c.nii", codes=(1, 1), quatern_b=2, quatern_c=0, quatern_d=0)
    np.testing.assert_allclose(read_scan_file(longer).affine, by_itk(longer), atol=1e-4)


@pytest.mark.parametrize("fields", [{"pixdim": (0, 0, 0)}, {"pixdim": (-1.5, 1.4, 3)},
                                    {"sform_code": 99, "qform_code": 0}])
@pytest.mark.parametrize("keep_header", [False, True])
def test_a_map_lies_where_its_scan_does_whatever_its_fields_say(tmp_path, fields, keep_header):
    """nibabel corrects such fields as it reads, and would correct them in what it writes."""
    scan = read_scan_file(write(tmp_path / "a.nii", **fields))
    save_on_grid(tmp_path / "map.nii.gz", (scan.array > 500).astype(np.uint8), scan, keep_header=keep_header)
    np.testing.assert_allclose(read_scan_file(tmp_path / "map.nii.gz").affine, scan.affine, atol=1e-5)
    np.testing.assert_allclose(by_itk(tmp_path / "map.nii.gz"), by_itk(tmp_path / "a.nii"), atol=1e-5)


def test_voxels_that_would_begin_inside_the_header_are_refused(tmp_path):
    """nibabel takes the header's bytes for voxels where vox_offset is 0."""
    content = bytearray(write(tmp_path / "a.nii").read_bytes())
    content[108:112] = bytes(4)
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(InputError, match=r"byte 0 \(vox_offset\), inside its header, expected 352"):
        read_scan_file(tmp_path / "a.nii")


def test_a_scan_in_metres_its_twin_in_millimetres_and_its_simpleitk_copy_are_one_input(tmp_path):
    rng = np.random.default_rng(1)
    array = rng.integers(0, 900, (20, 18, 9)).astype(np.int16)
    small, large = S / 1000, S * 1000
    small[3], large[3] = S[3], S[3]
    paths = [write(tmp_path / "mm.nii", S, S, array=array),
             write(tmp_path / "m.nii", small, small, units=1, array=array),
             write(tmp_path / "um.nii", large, large, units=3, array=array)]
    for path in paths[:3]:
        copy = path.with_name(f"copy_{path.name}")
        sitk.WriteImage(sitk.ReadImage(str(path)), str(copy))
        paths.append(copy)
    preprocessing = Preprocessing("folder", "RAS", "zscore", spacing=(2, 2, 3))
    first, *others = [apply(read_scan_file(path), preprocessing) for path in paths]
    for image, _, geometry in others:
        np.testing.assert_allclose(image, first[0], atol=1e-3)
        np.testing.assert_allclose(geometry.spacing, first[2].spacing, rtol=1e-5)


@pytest.mark.parametrize("codes", [(0, 0), (2, 1), (1, 1)])
def test_a_scan_and_its_simpleitk_copy_reach_the_network_alike(tmp_path, codes):
    path = write(tmp_path / "a.nii", S, Q, codes)
    sitk.WriteImage(sitk.ReadImage(str(path)), str(tmp_path / "copy.nii"))
    one, two = (apply(read_scan_file(tmp_path / name), Preprocessing("folder", "RAS", "zscore"))[0]
                for name in ("a.nii", "copy.nii"))
    np.testing.assert_array_equal(one, two)


# ---- labels that do not lie on their scans ---------------------------------------------------------------------------

IDENTITY = {"sform": np.eye(4), "qform": np.eye(4)}


@pytest.mark.parametrize(("scan", "label", "cause", "advice"), [
    ({"sform": S, "qform": Q}, {"sform": Q, "qform": Q}, "its affine and the scan's qform are one grid", "--geometry"),
    ({"sform": S, "qform": S}, {"sform": Q, "qform": S}, "its qform and the scan's affine are one grid", "--geometry"),
    ({"sform": ONES, "qform": Q, "codes": (2, 1), "pixdim": (1.32, 1.32, 10)}, {"sform": ONES, "qform": ONES},
     "its affine and the scan's sform are one grid", "--geometry"),
    ({}, IDENTITY, "identity affine", "save it with the scan's affine"),
    ({}, {"codes": (0, 0)}, "its header gives no orientation", "save both with one affine"),
    ({"codes": (0, 0)}, {}, "the scan's header gives no orientation", "save both with one affine"),
    ({}, {"sform": Q, "qform": Q}, "the voxels have one size, and lie or point elsewhere", "resample it to that scan"),
    ({}, {"sform": S @ np.diag([2, 2, 2, 1]), "qform": S @ np.diag([2, 2, 2, 1])},
     "its voxels have 3 x 2.8 x 6 mm and the scan's 1.5 x 1.4 x 3 mm", "resample it to that scan")])
def test_the_cause_of_a_misplaced_label_is_named(tmp_path, scan, label, cause, advice):
    scan = read_scan_file(write(tmp_path / "scan.nii", **({"sform": S, "qform": S} | scan)))
    mask = write(tmp_path / "mask.nii", **({"sform": S, "qform": S} | label), array=np.ones(SHAPE, np.uint8))
    with pytest.raises(InputError) as error:
        read_label(mask, scan, {0: 0, 1: 1})
    words = str(error.value)
    assert cause in words and advice in words and "--same-voxels" in words
    assert ("resample it" in words) == ("resample it" in advice)        # it would leave another label
    assert read_label(mask, scan, {0: 0, 1: 1}, same_affine=False).all()


def test_same_voxels_takes_labels_as_they_are_stored(tmp_path, capsys):
    array, mask = np.zeros((20, 18, 9), np.int16), np.zeros((20, 18, 9), np.uint8)
    array[3:9, 2:7, 4:6], mask[3:9, 2:7, 4:6] = np.arange(900, 960).reshape(6, 5, 2), 1
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "images/a.nii", S, S, array=array)
    write(tmp_path / "labels/a.nii", **IDENTITY, array=mask)
    command = ["--images", str(tmp_path / "images"), "--labels", str(tmp_path / "labels"), "--output",
               str(tmp_path / "out"), "--workers", "1"]
    with pytest.raises(SystemExit, match="2"):
        prepare_folder.main(command)
    assert "identity affine" in capsys.readouterr().err
    assert not prepare_folder.main([*command, "--same-voxels"])
    with h5py.File(tmp_path / "out/a/mri_norm2.h5") as file:
        np.testing.assert_array_equal(file["image"][()] != 0, file["label"][()] == 1)


# ---- NRRD ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [
    {"spacings": [1, 2, 3.]}, {"spacings": [1, 2, 3.], "axis mins": [10, 20, 30.]},
    {"spacings": [1, 2, 3.], "axis mins": [10, 20, 30.], "centerings": ["node"] * 3},
    {"spacings": [1, 2, 3.], "axis mins": [10, 20, 30.], "centerings": ["cell"] * 3},
    {"spacings": [1, 2, 3.], "axis mins": [10, 20, 30.], "centerings": ["cell", "node", "cell"]},
    *({"space": space, "space directions": S[:3, :3].T, "space origin": S[:3, 3]}
      for space in ("LPS", "RAS", "LAS", "left-posterior-superior"))])
def test_an_nrrd_lies_where_simpleitk_puts_it(tmp_path, header):
    nrrd.write(str(tmp_path / "a.nrrd"), np.arange(120, dtype=np.int16).reshape(SHAPE), header)
    np.testing.assert_allclose(read_scan_file(tmp_path / "a.nrrd").affine, by_itk(tmp_path / "a.nrrd"), atol=1e-9)


@pytest.mark.parametrize(("centering", "spacing", "origin"), [("cell", 2, 11), ("node", 2.4, 10)])
def test_axis_minima_and_maxima_of_an_nrrd_give_its_spacing(tmp_path, centering, spacing, origin):
    """SimpleITK takes a spacing of 1, and the origin that belongs to the true one."""
    nrrd.write(str(tmp_path / "a.nrrd"), np.arange(216, dtype=np.int16).reshape(6, 6, 6), {
        "axis mins": [10] * 3, "axis maxs": [22] * 3, "centerings": [centering] * 3})
    scan = read_scan_file(tmp_path / "a.nrrd")
    np.testing.assert_allclose(scan.affine, np.diag([-1, -1, 1, 1]) @ affine_of((0, 0, 0), spacing, origin))


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("m", 1000), ("um", 0.001), ("cm", 10), ("microns", 0.001)])
def test_space_units_of_an_nrrd_count(tmp_path, unit, factor):
    header = {"space": "LPS", "space directions": S[:3, :3].T / factor, "space origin": S[:3, 3] / factor,
              "space units": [unit] * 3}
    nrrd.write(str(tmp_path / "a.nrrd"), np.arange(120, dtype=np.int16).reshape(SHAPE), header)
    scan = read_scan_file(tmp_path / "a.nrrd")
    np.testing.assert_allclose(scan.affine, np.diag([-1, -1, 1, 1]) @ S)
    assert ("unit" in scan.notes) == (factor != 1)


def test_micrometres_with_their_sign_are_no_metres(tmp_path):
    path, copy = tmp_path / "a.nrrd", tmp_path / "b.nrrd"
    nrrd.write(str(path), np.arange(120, dtype=np.int16).reshape(SHAPE), {
        "space": "LPS", "space directions": S[:3, :3].T * 1000, "space origin": S[:3, 3] * 1000,
        "space units": ["um"] * 3})
    path.write_bytes(path.read_bytes().replace(b"um", "µm".encode()))
    scan = read_scan_file(path)
    np.testing.assert_allclose(scan.affine, np.diag([-1, -1, 1, 1]) @ S)
    save_on_grid(copy, scan.array, scan)
    np.testing.assert_allclose(read_scan_file(copy).affine, scan.affine)


# ---- the sizes that the scripts use ----------------------------------------------------------------------------------


def acdc_file(path, array):
    """As ACDC's: sform of 1 mm, the true sizes in pixdim."""
    write(path, ONES, affine_of((0, 0, 0), (1.32, 1.32, 10), (0, 0, 0)), (2, 1), array=array)


def test_acdcs_files_have_their_true_sizes_wherever_a_size_is_used(tmp_path, capsys):
    source, rng = tmp_path / "in/patient001", np.random.default_rng(0)
    source.mkdir(parents=True)
    (source / "Info.cfg").write_text("ED: 1\nES: 2\n", encoding="utf-8")
    for frame in (1, 2):
        acdc_file(source / f"patient001_frame{frame:02d}.nii", rng.integers(0, 900, (30, 28, 4)).astype(np.int16))
        acdc_file(source / f"patient001_frame{frame:02d}_gt.nii", np.ones((30, 28, 4), np.uint8))
    assert not prepare_ACDC.main(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--workers", "1"])
    with h5py.File(tmp_path / "out/data/patient001_frame01.h5") as file:
        np.testing.assert_allclose(json.loads(file.attrs["geometry"])["spacing"], (10, 1.32, 1.32), rtol=1e-5)
    said = capsys.readouterr().out
    assert said.count("1.32 x 1.32 x 10") == 1 and "of 2 files, such as patient001_frame01.nii" in said


@pytest.mark.parametrize(("geometry", "shape"), [("itk", (24, 30, 33)), ("sform", (23, 25, 2))])
def test_own_data_are_resampled_by_their_true_sizes(tmp_path, capsys, geometry, shape):
    for folder, array in (("images", np.random.default_rng(0).integers(0, 900, (40, 44, 12)).astype(np.int16)),
                          ("labels", np.eye(40, 44, dtype=np.uint8)[:, :, None].repeat(12, 2))):
        (tmp_path / folder).mkdir()
        acdc_file(tmp_path / folder / "a.nii", array)
    assert not prepare_folder.main(["--images", str(tmp_path / "images"), "--labels", str(tmp_path / "labels"),
                                    "--output", str(tmp_path / "out"), "--workers", "1", "--spacing", "1.76", "1.76",
                                    "5", "--geometry", geometry])
    with h5py.File(tmp_path / "out/a/mri_norm2.h5") as file:
        assert file["image"].shape == shape
    assert json.loads((tmp_path / "out/preprocessing.json").read_text(encoding="utf-8"))["geometry"] == geometry
    assert "sform says 1 x 1 x 1 mm" in capsys.readouterr().out
