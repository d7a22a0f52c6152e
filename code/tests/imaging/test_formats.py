"""Every format in and out: other programs' files come in with their voxels and places, our maps open on their space."""
import itertools
import shutil

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from imaging import scan_files
from imaging.grids import ScanFile, check_same_grid
from imaging.scan_files import mark_of, read_channels, read_label, read_scan_file, read_scans, save_on_grid
from runtime.errors import InputError

SHAPE = 7, 6, 5
LPS = np.diag([-1.0, -1, 1, 1])


def affine_of(directions, spacing=(1.1, 1.3, 2.7), origin=(-101.23456789, 57.1111111, 912.7654321)):
    """RAS+ affine; the origin has more digits than a float32 holds."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions, float) * spacing
    affine[:3, 3] = origin
    return affine


GRIDS = {"straight": affine_of(np.diag([-1, -1, 1])),
         "oblique": affine_of(Rotation.from_euler("xyz", (12, -7, 33), degrees=True).as_matrix()),
         "sagittal": affine_of([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])}
for axes, flips in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
    GRIDS["{}{}{} {:+}{:+}{:+}".format(*axes, *flips)] = affine_of(np.eye(3)[list(axes)] * flips)


def volume():
    return np.random.default_rng(0).integers(-900, 900, SHAPE).astype(np.int16)


def itk_image(array, affine):
    image, lps = sitk.GetImageFromArray(array.transpose(2, 1, 0)), LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing)
    image.SetDirection((lps[:3, :3] / spacing).ravel())
    image.SetOrigin(lps[:3, 3])
    return image


def by_simpleitk(path, array, affine, compressed=False):
    sitk.WriteImage(itk_image(array, affine), str(path), compressed)


def by_nibabel(path, array, affine, kind=nib.Nifti1Image):
    image = kind(array, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.to_filename(str(path))


def by_pynrrd(path, array, affine, **fields):
    lps = LPS @ affine
    nrrd.write(str(path), array, {"space": "left-posterior-superior", "space directions": lps[:3, :3].T,
                                  "space origin": lps[:3, 3], "encoding": "gzip"} | fields)


def by_monai(path, array, affine):
    """Not installed with the requirements, as TorchIO and dcm2niix; docs/data.md says which versions were compared."""
    writer = pytest.importorskip("monai.data").NibabelWriter(output_dtype=array.dtype)
    writer.set_data_array(array, channel_dim=None)
    writer.set_metadata({"affine": affine, "original_affine": affine, "spatial_shape": array.shape})
    writer.write(str(path))


def by_torchio(path, array, affine):
    import torch  # here: the other writers do without PyTorch
    image = pytest.importorskip("torchio").ScalarImage(tensor=torch.from_numpy(array[None]), affine=affine)
    image.save(path)


WRITERS = {
    **{f"SimpleITK {suffix}": (suffix, by_simpleitk, {}) for suffix in (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha",
                                                                         ".mhd", ".hdr")},
    **{f"SimpleITK {suffix}, compressed": (suffix, by_simpleitk, {"compressed": True})
       for suffix in (".nrrd", ".nhdr", ".mha", ".mhd")},
    "nibabel .nii": (".nii", by_nibabel, {}), "nibabel .nii.gz": (".nii.gz", by_nibabel, {}),
    "nibabel NIfTI-2": (".nii", by_nibabel, {"kind": nib.Nifti2Image}),
    "nibabel pair": (".hdr", by_nibabel, {"kind": nib.Nifti1Pair}),
    **{f"pynrrd {encoding} {suffix}": (suffix, by_pynrrd, {"encoding": encoding})
       for encoding in ("raw", "gzip", "bzip2", "ascii") for suffix in (".nrrd", ".nhdr")}}
OTHERS = {**{f"MONAI {suffix}": (suffix, by_monai, {}) for suffix in (".nii", ".nii.gz")},
          **{f"TorchIO {suffix}": (suffix, by_torchio, {}) for suffix in (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")}}


def assert_one_space(scan, labels):
    """SimpleITK takes both for one space and counts the right voxels."""
    image, mask = sitk.ReadImage(str(scan)), sitk.ReadImage(str(labels))
    masked = sitk.GetArrayFromImage(sitk.Mask(image, mask)).transpose(2, 1, 0)
    statistics = sitk.LabelStatisticsImageFilter()
    statistics.Execute(image, mask)
    array, drawn = volume(), label_map()
    np.testing.assert_array_equal(masked, np.where(drawn, array, 0))
    for label in (1, 2):
        assert statistics.GetCount(label) == (drawn == label).sum()
        assert statistics.GetMean(label) == pytest.approx(array[drawn == label].mean())


def label_map():
    return np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)


@pytest.mark.parametrize("writer", [*WRITERS, *OTHERS])
@pytest.mark.parametrize("grid", ["straight", "oblique", "sagittal"])
def test_a_file_of_another_program_comes_in_as_it_is_and_our_map_lies_on_it(tmp_path, grid, writer):
    suffix, write, options = (WRITERS | OTHERS)[writer]
    write(tmp_path / f"a{suffix}", volume(), GRIDS[grid], **options)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    scan = read_scan_file(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(scan.array, volume())
    np.testing.assert_allclose(scan.affine, GRIDS[grid], rtol=1e-6, atol=1e-4 if "n" in suffix[:3] else 1e-10)
    np.testing.assert_allclose(scan.spacing, (1.1, 1.3, 2.7), rtol=1e-6)
    assert scan.notes == {}
    out = tmp_path / f"map{scan_files.WRITERS[scan_files.format_of(scan.path).out][0]}"
    save_on_grid(out, label_map(), scan, "mark")
    if writer != "nibabel NIfTI-2" and "bzip2" not in writer:     # which SimpleITK does not read
        assert_one_space(scan.path, out)
    back = read_scan_file(out)
    np.testing.assert_array_equal(back.array, label_map())
    assert mark_of(out) == "mark"
    np.testing.assert_array_equal(read_label(out, scan, {0: 0, 1: 1, 2: 2}), label_map())
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("grid", [name for name in GRIDS if name[0].isdigit()])
def test_maps_of_nrrd_and_mha_scans_lie_on_them_in_every_orientation(tmp_path, grid):
    for suffix in (".nrrd", ".mha"):
        by_simpleitk(tmp_path / f"a{suffix}", volume(), GRIDS[grid])
        scan = read_scan_file(tmp_path / f"a{suffix}")
        np.testing.assert_allclose(scan.affine, GRIDS[grid], rtol=1e-12)
        save_on_grid(tmp_path / "map.nrrd", label_map(), scan)
        assert_one_space(scan.path, tmp_path / "map.nrrd")


@pytest.mark.parametrize("codes", ["".join(sides[axis] for sides, axis in zip(names, axes, strict=True)) for names in
                                   itertools.permutations(("LR", "PA", "IS")) for axes in np.ndindex(2, 2, 2)])
def test_labels_and_channels_stored_along_other_axes_come_in_in_their_places(tmp_path, codes):
    by_simpleitk(tmp_path / "a.mha", volume(), GRIDS["oblique"])
    scan, image = read_scan_file(tmp_path / "a.mha"), nib.Nifti1Image(label_map(), GRIDS["oblique"])
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes))
    stored = image.as_reoriented(turn)
    by_simpleitk(tmp_path / "label.nii.gz", np.asarray(stored.dataobj), stored.affine)
    by_pynrrd(tmp_path / "label.seg.nrrd", np.asarray(stored.dataobj), stored.affine, **{
        f"Segment{number}_{key}": value for number, name in enumerate("ab") for key, value in (
            ("Name", name), ("LabelValue", str(number + 1)), ("Layer", "0"))})
    for name in ("label.nii.gz", "label.seg.nrrd"):
        np.testing.assert_array_equal(read_label(tmp_path / name, scan, {0: 0, 1: 1, 2: 2}), label_map())
    first, second = read_scans([tmp_path / "a.mha", tmp_path / "label.nii.gz"], "itk", 2)
    np.testing.assert_array_equal(second.array, label_map())
    check_same_grid(second, first)
    moved = stored.affine.copy()
    moved[:3, 3] += 0.2
    by_simpleitk(tmp_path / "label.nii.gz", np.asarray(stored.dataobj), moved)
    with pytest.raises(InputError, match="expected the same grid|has shape"):
        read_label(tmp_path / "label.nii.gz", scan, {0: 0, 1: 1, 2: 2})


@pytest.mark.parametrize("degrees", [0.01, 0.5, 8])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_maps_of_sheared_scans_lie_on_them(tmp_path, degrees, suffix):
    """A gantry tilt, say; NIfTI's sform could hold it, and ITK would not read it."""
    sheared = GRIDS["oblique"] @ np.array([[1, 0, 0, 0], [0, 1, np.tan(np.radians(degrees)), 0], [0, 0, 1, 0],
                                           [0, 0, 0, 1]])
    by_simpleitk(tmp_path / f"a{suffix}", volume(), sheared)
    scan = read_scan_file(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(scan.affine, sheared, rtol=1e-10)
    save_on_grid(tmp_path / "map.nrrd", label_map(), scan)
    assert_one_space(scan.path, tmp_path / "map.nrrd")


@pytest.mark.parametrize("fields", [
    {"spacings": [1.1, 1.3, 2.7]}, {"spacings": [1.1, 1.3, 2.7], "axis mins": [10, 20, 30.]},
    {"spacings": [1.1, 1.3, 2.7], "axis mins": [10, 20, 30.], "centerings": ["node"] * 3},
    *({"space": space, "space directions": GRIDS["oblique"][:3, :3].T, "space origin": GRIDS["oblique"][:3, 3],
       "space units": [unit] * 3} for space in ("RAS", "LAS", "LPS") for unit in ("mm", "m"))])
def test_maps_of_odd_nrrd_headers_lie_on_their_scans(tmp_path, fields):
    nrrd.write(str(tmp_path / "a.nrrd"), volume(), dict(fields))
    save_on_grid(tmp_path / "map.nrrd", label_map(), read_scan_file(tmp_path / "a.nrrd"))
    assert_one_space(tmp_path / "a.nrrd", tmp_path / "map.nrrd")


@pytest.mark.parametrize(("name", "other"), [(b"centerings:", b"centers:"), (b"axis mins:", b"axismins:"),
                                             (b"spacings:", b"SPACINGS:"), (b"byte skip:", b"byteskip:")])
def test_fields_of_an_nrrd_have_two_names_and_any_case(tmp_path, name, other):
    """pynrrd reads each as a field of its own, and the first one's value alone."""
    nrrd.write(str(tmp_path / "a.nrrd"), volume(), {"spacings": [1.1, 1.3, 2.7], "axis mins": [10, 20, 30.],
                                                    "centerings": ["node"] * 3, "byte skip": -1, "encoding": "raw"})
    content = (tmp_path / "a.nrrd").read_bytes()
    assert content.count(name) == 1
    (tmp_path / "a.nrrd").write_bytes(content.replace(name, other))
    scan = read_scan_file(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(scan.array, volume())
    np.testing.assert_allclose(scan.affine, LPS @ affine_of(np.eye(3), (1.1, 1.3, 2.7), (10, 20, 30)))
    save_on_grid(tmp_path / "map.nrrd", label_map(), scan)
    assert_one_space(tmp_path / "a.nrrd", tmp_path / "map.nrrd")


def test_analyze_without_orientation_lies_where_simpleitk_puts_it(tmp_path):
    nib.AnalyzeImage(volume(), np.diag([1.1, 1.3, 2.7, 1])).to_filename(str(tmp_path / "a.hdr"))
    scan = read_scan_file(tmp_path / "a.hdr")
    np.testing.assert_array_equal(scan.array, volume())
    np.testing.assert_allclose(scan.affine, LPS * (1.1, 1.3, 2.7, 1), rtol=1e-6)
    assert "no orientation" in scan.notes["orientation"]
    save_on_grid(tmp_path / "map.nii.gz", label_map(), scan)
    assert_one_space(tmp_path / "a.hdr", tmp_path / "map.nii.gz")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_probabilities_come_out_as_channels(tmp_path, suffix):
    by_simpleitk(tmp_path / "a.nrrd", volume(), GRIDS["oblique"])
    scan = read_scan_file(tmp_path / "a.nrrd")
    shares = np.random.default_rng(0).random((*SHAPE, 2), np.float32)
    save_on_grid(tmp_path / f"p{suffix}", shares, scan)
    channels = read_channels(tmp_path / f"p{suffix}", "itk", 2)
    np.testing.assert_array_equal(np.stack([one.array for one in channels], -1), shares)
    image = sitk.ReadImage(str(tmp_path / f"p{suffix}"))
    assert image.GetSize()[:3] == SHAPE and sitk.GetArrayFromImage(image).size == shares.size


# ---- more than three axes --------------------------------------------------------------------------------------------


def four_axes(folder, count):
    """{format: a file of `count` channels, by SimpleITK or nibabel}, and its array."""
    array = np.random.default_rng(0).integers(0, 99, (*SHAPE, count)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, GRIDS["oblique"]), folder / "a.nii.gz")
    joined = sitk.JoinSeries([itk_image(array[..., channel], GRIDS["straight"]) for channel in range(count)])
    for name in ("a.mha", "a.nrrd"):
        sitk.WriteImage(joined, str(folder / name))
    composed = sitk.Compose([itk_image(array[..., channel], GRIDS["oblique"]) for channel in range(count)])
    for name in ("b.mha", "b.nrrd"):
        sitk.WriteImage(composed, str(folder / name))
    by_pynrrd(folder / "c.nrrd", array, GRIDS["oblique"], **{
        "space directions": np.vstack([(LPS @ GRIDS["oblique"])[:3, :3].T, [np.nan] * 3])})
    return [folder / name for name in ("a.nii.gz", "a.mha", "a.nrrd", "b.mha", "b.nrrd", "c.nrrd")], array


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_fourth_axis_holds_the_channels(tmp_path, count):
    paths, array = four_axes(tmp_path, count)
    for path in paths:
        channels = read_channels(path, "itk", count)
        for channel, scan in enumerate(channels):
            np.testing.assert_array_equal(scan.array, array[..., channel])
            grid = GRIDS["straight" if path.name in ("a.mha", "a.nrrd") else "oblique"]
            np.testing.assert_allclose(scan.affine, grid, rtol=1e-5)
        save_on_grid(tmp_path / "map.nrrd", label_map(), channels[0], keep_header=True)
        origin = sitk.ReadImage(str(tmp_path / "map.nrrd")).GetOrigin()
        np.testing.assert_allclose(origin, (LPS @ grid)[:3, 3], rtol=1e-5)
        np.testing.assert_array_equal(read_label(tmp_path / "map.nrrd", channels[0], {0: 0, 1: 1, 2: 2}), label_map())
        if count == 1:
            np.testing.assert_array_equal(read_scan_file(path).array, array[..., 0])
        with pytest.raises(InputError, match="expected .* channels|expected one 3D volume"):
            read_channels(path, "itk", count + 1 if count > 1 else 4)


# ---- what is damaged, or leads elsewhere -----------------------------------------------------------------------------


@pytest.mark.parametrize("writer", [name for name in WRITERS if "ascii" not in name])
def test_a_file_cut_short_is_refused(tmp_path, writer):
    suffix, write, options = WRITERS[writer]
    write(tmp_path / f"a{suffix}", volume(), GRIDS["straight"], **options)
    header = tmp_path / f"a{suffix}"
    file = scan_files.parts(header)[-1]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match=f"a{suffix}.*(cannot be read|export it again)"):
        read_scan_file(header)


@pytest.mark.parametrize(("suffix", "wrong"), [(".nii.gz", ".nii"), (".nii", ".nii.gz"), (".nrrd", ".nii.gz"),
                                               (".mha", ".nrrd"), (".nrrd", ".mha"), (".nrrd", ".hdr"),
                                               (".nii.gz", ".Nii.gz"), (".nii", ".Nii")])
def test_a_file_of_another_format_than_its_name_says_is_to_be_renamed(tmp_path, suffix, wrong):
    by_simpleitk(tmp_path / f"a{suffix}", volume(), GRIDS["straight"])
    (tmp_path / f"a{suffix}").rename(tmp_path / f"b{wrong}")
    with pytest.raises(InputError, match=rf"b{wrong}: cannot be read .* it is a {suffix}: rename it so"):
        read_scan_file(tmp_path / f"b{wrong}")


@pytest.mark.parametrize("writer", [name for name in WRITERS if "compressed" in name or "gz" in name])
def test_a_damaged_compressed_file_is_refused(tmp_path, writer):
    """SimpleITK reads such a MetaImage without a word."""
    suffix, write, options = WRITERS[writer]
    write(tmp_path / f"a{suffix}", volume(), GRIDS["straight"], **options)
    file = scan_files.parts(tmp_path / f"a{suffix}")[-1]
    content = bytearray(file.read_bytes())
    content[-9] ^= 255
    file.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        read_scan_file(tmp_path / f"a{suffix}")


def test_a_file_that_holds_far_more_than_it_says_is_read_as_far_as_it_says_or_refused(tmp_path):
    import tracemalloc
    whole = np.zeros((400, 400, 400), np.uint8)
    by_pynrrd(tmp_path / "a.nrrd", whole, GRIDS["straight"])
    by_simpleitk(tmp_path / "b.mha", whole, GRIDS["straight"], True)
    content = (tmp_path / "a.nrrd").read_bytes().replace(b"sizes: 400 400 400", b"sizes: 12 14 10")
    (tmp_path / "a.nrrd").write_bytes(content)
    content = (tmp_path / "b.mha").read_bytes().replace(b"DimSize = 400 400 400", b"DimSize = 12 14 10")
    (tmp_path / "b.mha").write_bytes(content)
    tracemalloc.start()
    assert read_scan_file(tmp_path / "a.nrrd").array.shape == (12, 14, 10)
    with pytest.raises(InputError, match="b.mha holds more than the 1680 bytes"):
        read_scan_file(tmp_path / "b.mha")
    assert tracemalloc.get_traced_memory()[1] < 30e6     # the volumes have 64 MB
    tracemalloc.stop()


def test_voxels_in_this_very_folder_may_be_named_so(tmp_path):
    by_simpleitk(tmp_path / "a.nhdr", volume(), GRIDS["straight"])
    content = (tmp_path / "a.nhdr").read_bytes()
    (tmp_path / "a.nhdr").write_bytes(content.replace(b"data file: a.raw", b"data file: ./a.raw"))
    np.testing.assert_array_equal(read_scan_file(tmp_path / "a.nhdr").array, volume())


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b""])
def test_a_header_may_be_written_by_hand(tmp_path, suffix, ending):
    """In an editor of Windows, or without an end of its last line."""
    by_simpleitk(tmp_path / f"a{suffix}", volume(), GRIDS["oblique"])
    before = read_scan_file(tmp_path / f"a{suffix}")
    lines = (tmp_path / f"a{suffix}").read_bytes().rstrip(b"\n").split(b"\n")
    (tmp_path / f"a{suffix}").write_bytes((ending or b"\n").join(lines) + ending)
    scan = read_scan_file(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(scan.array, volume())
    np.testing.assert_array_equal(scan.affine, before.affine)


@pytest.mark.parametrize("more", ["", "BinaryData = T\nBinaryDataByteOrderMSB = False\n",
                                  "ElementSpacing: 1.1 1.3 2.7\nOffset: 10 20 30\n"])
def test_a_metaimage_header_of_few_lines_is_read_as_simpleitk_reads_it(tmp_path, more):
    (tmp_path / "a.raw").write_bytes(volume().tobytes("F"))
    (tmp_path / "a.mhd").write_text(f"NDims = 3\nDimSize = 7 6 5\n{more}"
                                    "ElementType = MET_SHORT\nElementDataFile = a.raw", encoding="utf-8")
    theirs, scan = sitk.ReadImage(str(tmp_path / "a.mhd")), read_scan_file(tmp_path / "a.mhd")
    np.testing.assert_array_equal(scan.array, sitk.GetArrayFromImage(theirs).transpose(2, 1, 0))
    np.testing.assert_allclose(scan.spacing, theirs.GetSpacing())
    np.testing.assert_allclose(scan.affine[:3, 3] * (-1, -1, 1), theirs.GetOrigin())


@pytest.mark.parametrize(("suffix", "field"), [(".nhdr", b"data file: a.raw"), (".mhd", b"ElementDataFile = a.raw")])
@pytest.mark.parametrize("name", ["../a.raw", "/etc/passwd", "sub/a.raw", "LIST\na.raw\na.raw", "a%d.raw 1 5 1",
                                  "b.raw", "..", ""])
def test_voxels_are_followed_to_a_file_beside_the_header_alone(tmp_path, suffix, field, name):
    folder = tmp_path / "scans"
    (folder / "sub").mkdir(parents=True)
    by_simpleitk(folder / f"a{suffix}", volume(), GRIDS["straight"])
    for elsewhere in (tmp_path, folder / "sub"):
        shutil.copy(folder / "a.raw", elsewhere)
    path = folder / f"a{suffix}"
    content = path.read_bytes()
    assert field in content
    path.write_bytes(content.replace(field, field[:-5] + name.encode()))
    with pytest.raises(InputError, match="beside it"):
        read_scan_file(path)


@pytest.mark.parametrize("end", ("nii", "nii.gz", "nrrd"))
@pytest.mark.parametrize("dtype", (np.uint8, np.uint16, np.float32))
def test_a_map_whose_voxels_were_changed_is_no_longer_what_was_written(tmp_path, end, dtype):
    """Whatever program changed it and kept the header; one that was saved again as it is stays what it was."""
    path, again = tmp_path / f"a.{end}", tmp_path / f"b.{end}"
    array = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(dtype)
    scan = ScanFile(array.astype(np.float32), np.diag([1.0, 2, 3, 1]), np.array([1.0, 2, 3]), tmp_path / "scan.mha")
    save_on_grid(path, array, scan, "0123456789abcdef")
    for change in (0, 1):
        if end == "nrrd":
            voxels, header = nrrd.read(str(path))
            voxels[1, 2, 3] += change
            nrrd.write(str(again), voxels, header)
        else:
            image = nib.load(path)
            voxels = np.array(image.dataobj)
            voxels[1, 2, 3] += change
            nib.save(nib.Nifti1Image(voxels, image.affine, image.header), again)
        assert mark_of(path) == "0123456789abcdef" and mark_of(again) == ("" if change else "0123456789abcdef")


@pytest.mark.parametrize("end", ("mha", "mhd", "nrrd"))
def test_names_in_a_header_are_in_any_encoding(tmp_path, end):
    """SimpleITK copies what a DICOM file says of its patient, byte for byte."""
    path, image = tmp_path / f"a.{end}", itk_image(volume(), GRIDS["oblique"])
    for key, text in (("0010|0010", "Mueller"), ("0010|4000", "first\nsecond: third")):
        image.SetMetaData(key, text)
    sitk.WriteImage(image, str(path))
    path.write_bytes(path.read_bytes().replace(b"Mueller", "Müller".encode("latin-1")))
    scan = read_scan_file(path)
    np.testing.assert_array_equal(scan.array, volume())
    save_on_grid(tmp_path / "kept.nrrd", scan.array, scan, keep_header=True)
    np.testing.assert_allclose(read_scan_file(tmp_path / "kept.nrrd").affine, scan.affine)
