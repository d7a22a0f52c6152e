"""DICOM in: every series of a tree with its voxels and its place, or one line that says why not."""
import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

import label_next
import prepare_folder
from imaging.case_files import told
from imaging.folders import find
from imaging.labelling import Places, scan_of, source_files
from imaging.new_scans import scans_to_segment
from imaging.record import PLAIN
from imaging.scan_files import read_scan_file, save_on_grid
from runtime.errors import InputError

pydicom = pytest.importorskip("pydicom")

SHAPE = 7, 6, 5
WHEEL = Path(pydicom.__file__).parent / "data" / "test_files"
AXES = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def volume(shape=SHAPE, dtype=np.int16):
    return np.random.default_rng(0).integers(0, 900, shape).astype(dtype)


def found(path):
    """{case: ScanFile}, {case: one line}, what is left aside in words."""
    cases, bad, aside = scans_to_segment(Path(path), PLAIN)
    return {name: read_scan_file(scan) for name, (scan,) in cases.items()}, bad, told(aside)


def only(path):
    scans, bad, _ = found(path)
    assert not bad
    (scan,) = scans.values()
    return scan


def same(scan, array, affine):
    """Whether it is the same volume in the world, whichever way its axes are stored."""
    mine, theirs = (nib.as_closest_canonical(nib.Nifti1Image(np.asarray(one, np.float64), place))
                    for one, place in ((scan.array, scan.affine), (array, affine)))
    return (np.allclose(mine.affine, theirs.affine, atol=1e-4) and mine.shape == theirs.shape
            and np.array_equal(mine.get_fdata(), theirs.get_fdata()))


@pytest.mark.parametrize("axes, flips", AXES)
def test_every_orientation_comes_in_as_it_was_and_its_map_lies_on_it(axes, flips, tmp_path, dicom):
    array, affine = volume(), dicom.affine(np.eye(3)[list(axes)].T * flips)
    order = np.random.default_rng(1).permutation(SHAPE[2])
    dicom.series(tmp_path / "one", array, affine, order=order)
    scan = only(tmp_path)
    assert same(scan, array, affine)
    assert np.linalg.det(scan.affine[:3, :3]) > 0       # as SimpleITK and 3D Slicer order the slices
    drawn = (scan.array > 450).astype(np.uint8)
    save_on_grid(tmp_path / "map.nrrd", drawn, scan)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "one")))
    mask, statistics = sitk.ReadImage(str(tmp_path / "map.nrrd")), sitk.LabelStatisticsImageFilter()
    assert np.array_equal(sitk.GetArrayFromImage(sitk.Mask(image, mask)).T, scan.array * drawn)
    statistics.Execute(image, mask)
    assert statistics.GetMean(1) == pytest.approx(scan.array[drawn > 0].mean())
    dicom.enhanced(tmp_path / "two" / "enhanced", array, affine, order, SeriesInstanceUID="1.2.9", StudyInstanceUID="1")
    assert same(only(tmp_path / "two"), array, affine)


def test_simpleitk_puts_an_oblique_series_where_we_do(tmp_path, dicom):
    array = volume()
    affine = dicom.affine(Rotation.from_euler("xyz", (12, -7, 33), degrees=True).as_matrix())
    dicom.series(tmp_path, array, affine, order=[4, 1, 3, 0, 2])
    scan = only(tmp_path)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    assert np.array_equal(scan.array, sitk.GetArrayFromImage(image).T)
    np.testing.assert_allclose(scan.affine[:3, 3] * (-1, -1, 1), image.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(scan.spacing, image.GetSpacing(), rtol=1e-6)
    assert same(scan, array, affine)


def test_each_slice_has_a_rescale_of_its_own_and_fractions_stay(tmp_path, dicom):
    array, affine = volume(), dicom.affine()
    slopes, intercepts = (1, 0.5, 2.25, 1, 0.1), (0, -0.5, -1000, 50.5, 3)
    dicom.series(tmp_path / "a", array, affine,
                 each=lambda k: {"RescaleSlope": slopes[k], "RescaleIntercept": intercepts[k]})
    wanted = (array * np.array(slopes) + intercepts).astype(np.float32)
    assert same(only(tmp_path / "a"), wanted, affine)
    order = [3, 0, 4, 1, 2]
    dicom.enhanced(tmp_path / "b" / "x", array, affine, order, [slopes[k] for k in order],
                   [intercepts[k] for k in order])
    assert same(only(tmp_path / "b"), wanted, affine)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint8])
def test_monochrome1_is_turned_as_simpleitk_turns_it(dtype, tmp_path, dicom):
    array = volume(dtype=dtype)
    dicom.series(tmp_path, array, dicom.affine(), PhotometricInterpretation="MONOCHROME1", RescaleSlope=2,
                 RescaleIntercept=-3)
    scan = only(tmp_path)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    assert np.array_equal(scan.array, sitk.GetArrayFromImage(image).T)
    assert (scan.array.max() - scan.array == 2 * (array - array.min().astype(int))).all()
    assert "MONOCHROME1" in scan.notes


def test_unused_bits_do_not_count(tmp_path, dicom):
    array = volume(dtype=np.uint16)
    dicom.series(tmp_path, array | 0xf000, dicom.affine(), BitsStored=12, HighBit=11)
    assert same(only(tmp_path), array, dicom.affine())


@pytest.mark.parametrize("key, values", [("AcquisitionNumber", (1, 2, 3)), ("TemporalPositionIdentifier", (1, 2, 3)),
                                         ("TriggerTime", (0, 33.5, 700)), ("EchoTime", (2.5, 9, 12)),
                                         ("AcquisitionTime", ("101500.25", "101530", "101600"))])
def test_phases_of_a_series_are_scans_of_their_own_in_order(key, values, tmp_path, dicom):
    arrays = [volume() + 1000 * phase for phase in range(3)]
    for phase in (2, 0, 1):
        dicom.series(tmp_path / "p" / str(phase), arrays[phase], dicom.affine(),
                     each=lambda k, phase=phase: {key: values[phase]})
    scans, bad, _ = found(tmp_path)
    assert list(scans) == [f"p_s7_phase{number}" for number in (1, 2, 3)] and not bad
    assert all(same(scan, array, dicom.affine()) for scan, array in zip(scans.values(), arrays, strict=True))


def test_acquisitions_one_after_the_other_are_one_scan(tmp_path, dicom):
    dicom.series(tmp_path, volume(), dicom.affine(), each=lambda k: {"AcquisitionNumber": 1 + (k > 2)})
    assert same(only(tmp_path), volume(), dicom.affine())


def test_a_phase_that_lacks_a_slice_is_refused_and_the_others_are_taken(tmp_path, dicom):
    for phase in range(2):
        paths = dicom.series(tmp_path / str(phase), volume(), dicom.affine(), each=lambda k, phase=phase: {
            "AcquisitionNumber": phase})
    paths[2].unlink()
    scans, bad, _ = found(tmp_path)
    assert list(scans) == ["0_s7_phase1"] and list(bad) == ["0_s7_phase2"]
    assert "about 1 slice missing between IM0001.dcm at" in next(iter(bad.values()))


def test_localisers_derived_images_and_objects_are_left_aside_with_a_count(tmp_path, dicom):
    dicom.series(tmp_path / "a", volume(), dicom.affine())
    dicom.series(tmp_path / "b", volume()[..., :2], dicom.affine(), SeriesInstanceUID="1.2.8",
                 ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    dicom.series(tmp_path / "c", volume()[..., :3], dicom.affine(), SeriesInstanceUID="1.2.9",
                 ImageType=["DERIVED", "SECONDARY", "MPR"])
    shutil.copy(WHEEL / "rtstruct.dcm", tmp_path / "rs")
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")
    scans, bad, aside = found(tmp_path)
    assert list(scans) == ["a_s7"] and not bad
    for what in ("2 DICOM localiser images such as IM0000.dcm", "3 DICOM derived images", "1 DICOM RT Structure Set",
                 "1 .txt such as notes.txt"):
        assert what in aside
    assert list(found(tmp_path / "c")[0]) == ["c_s7"]     # alone, derived images are what there is


def test_cases_are_named_by_folder_and_series_never_by_the_patient(tmp_path, dicom):
    place = dicom.affine()
    for number, (folder, fields) in enumerate({
            "p1/study/x/y": {}, "p1/study/z": {"SeriesNumber": 1001},
            "p1/later/z": {"StudyDate": "20270101", "PatientName": "DOE^JANE^MARGARET^^", "PatientID": "hosp-4711 "},
            "p2": {"PatientID": "x"}, "Doe_Jane": {"StudyInstanceUID": "1.9"}, "hosp4711": {"StudyInstanceUID": "1.8"},
            "HOSP-4711": {"StudyInstanceUID": "1.7", "PatientIdentityRemoved": "YES"},
            "disc/IMG/a": {"PatientID": "y"}, "disc/IMG/b": {"PatientID": "z"}}.items()):
        dicom.series(tmp_path / folder, volume(), place, SeriesInstanceUID=f"1.5.{number}",
                     **{"PatientID": "HOSP-4711"} | fields)
    scans = found(tmp_path)[0]
    names, whose = set(scans), {name: scan.path.patient for name, scan in scans.items()}
    assert whose["p1_s7"] == whose["p1_s7_2"] != whose["a_s7"]      # other devices spell a name otherwise
    assert {"p1_s7", "p1_s1001", "p1_s7_2", "p2_s7", "HOSP-4711_s7", "a_s7", "b_s7"} < names and len(names) == 9
    assert not any(word in name.lower() for name in names - {"HOSP-4711_s7"} for word in ("doe", "jane", "4711"))


def test_patients_whom_an_anonymiser_gave_the_same_uids_are_no_phases_of_one(tmp_path, dicom):
    for number, kind in enumerate(("ORIGINAL", "ORIGINAL", "DERIVED"), 1):
        dicom.series(tmp_path / f"p{number}", volume(), dicom.affine(), PatientID=f"anonymous{number}",
                     SeriesInstanceUID="1.2.3", AcquisitionTime=f"1{number}0000", ImageType=[kind, "PRIMARY"])
    scans, bad, _ = found(tmp_path)
    assert list(scans) == ["p1_s7", "p2_s7", "p3_s7"] and not bad


@pytest.mark.parametrize("kind", ["ORIGINAL", "DERIVED"])
def test_series_are_channels_where_their_numbers_are_asked_for(tmp_path, dicom, kind):
    """Those that are derived, too, as maps of diffusion are, which are left aside otherwise."""
    for number, (patient, series) in enumerate(itertools.product(("p1", "p2", "p3"), (7, 8))):
        if (patient, series) != ("p3", 8):
            dicom.series(tmp_path / patient / str(series), volume() + number, dicom.affine(), SeriesNumber=series,
                         SeriesInstanceUID=f"1.5.{number}", StudyInstanceUID=f"1.{patient[1]}",
                         ImageType=[kind if series == 8 else "ORIGINAL", "PRIMARY", "ADC"])
    cases, bad, _ = scans_to_segment(tmp_path, ("s8", "s7"))
    assert {name: [one.name for one in case] for name, case in cases.items()} == {
        "p1": ["p1_s8", "p1_s7"], "p2": ["p2_s8", "p2_s7"]}
    assert "p3_s8: is missing" in bad["p3"]
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "p1.nii.gz").touch()
    there = find(tmp_path, tmp_path / "masks", None, ("s8", "s7"), False)
    assert [(case.name, bool(case.label)) for case in there.cases] == [("p1", True), ("p2", False)]
    series = there.cases[0].images
    assert set(there.bad) == {"p3"} and [one.name for one in series] == ["p1_s8", "p1_s7"]
    again = scan_of("p1", source_files(series), ("s8", "s7"), Places(None))
    assert [one.files for one in again] == [one.files for one in series]
    (tmp_path / "masks" / "p1.nii.gz").unlink()
    if kind == "DERIVED":
        with pytest.raises(InputError, match="left aside of them are 10 DICOM derived images such as IM0000.dcm; of"):
            find(tmp_path, tmp_path / "masks", None, (), False)


def test_damaged_folders_of_one_name_are_both_told(tmp_path, dicom):
    for patient in ("p1", "p2"):
        path = dicom.series(tmp_path / patient / "CT", volume(), dicom.affine(), SeriesInstanceUID=f"1.{patient[1]}")[0]
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        path.write_bytes(bytes(128) + b"DICM" + bytes(40))
    dicom.series(tmp_path / "good", volume(), dicom.affine())
    scans, bad, _ = found(tmp_path)
    assert set(scans) == {"good_s7"} and set(bad) == {"p1_CT", "p2_CT"}


def test_a_dicomdir_is_the_tree_that_it_lies_in(tmp_path):
    shutil.copytree(WHEEL / "dicomdirtests", tmp_path / "disc", ignore=lambda place, names: [
        name for name in names if name.startswith("DICOMDIR-") or name == "TINY_ALPHA"])
    whole, bad, aside = found(tmp_path / "disc" / "DICOMDIR")
    assert set(found(tmp_path / "disc")[0]) == set(whole) and len(whole) + len(bad) > 5
    (tmp_path / "disc" / "DICOMDIR").rename(tmp_path / "disc" / "dicomdir")     # as some systems show a CD
    assert set(found(tmp_path / "disc" / "dicomdir")[0]) == set(whole)


def test_own_data_may_be_named_by_a_dicomdir(tmp_path, dicom, capsys):
    """To prepare them, and to choose those to label."""
    affine, scans, labels = dicom.affine(), tmp_path / "scans", tmp_path / "labels"
    labels.mkdir()
    for number in (1, 2):
        dicom.series(scans / f"p{number}", volume(), affine, PatientID=str(number), SeriesInstanceUID=f"1.2.{number}")
    (scans / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(40))
    nib.save(nib.Nifti1Image((volume() > 500).astype(np.uint8), affine), labels / "p1_s7.nii.gz")
    assert prepare_folder.main(["--images", str(scans / "DICOMDIR"), "--labels", str(labels), "--output",
                                str(tmp_path / "out"), "--workers", "1"]) == 0
    assert "1 labelled case and 1 unlabelled" in capsys.readouterr().out
    assert label_next.main(["--labeled", "0", "--images", str(scans / "DICOMDIR"), "--count", "1", "--output",
                            str(tmp_path / "to_label")]) == 0
    with pytest.raises(SystemExit, match="2"):
        label_next.main(["--labeled", "0", "--images", str(scans / "DICOMDIR"), "--output", str(scans / "to_label")])
    assert f"lies in --images {scans}" in capsys.readouterr().err


def test_one_slice_of_a_series_asks_for_its_folder_and_a_file_of_frames_is_a_scan(tmp_path, dicom):
    paths = dicom.series(tmp_path / "a", volume(), dicom.affine())
    with pytest.raises(InputError, match="IM0003.dcm: is one of the 5 slices of a series; give its folder"):
        found(paths[3])
    assert same(only(dicom.enhanced(tmp_path / "b" / "x.dcm", volume(), dicom.affine(), [4, 3, 0, 1, 2])), volume(),
                dicom.affine())


def test_positions_count_where_spacing_between_slices_contradicts_them(tmp_path, dicom):
    dicom.series(tmp_path, volume(), dicom.affine(), SpacingBetweenSlices=5)
    scan = only(tmp_path)
    assert same(scan, volume(), dicom.affine()) and "5 mm, the slices' positions 2.5 mm" in (
        scan.notes["SpacingBetweenSlices"])


def test_a_slice_that_is_alone_is_as_thick_as_it_says_without_its_sign(tmp_path, dicom):
    dicom.series(tmp_path, volume()[..., :1], dicom.affine(), SpacingBetweenSlices=-2.5)
    assert same(only(tmp_path), volume()[..., :1], dicom.affine())


@pytest.mark.parametrize("name", sorted(path.name for path in WHEEL.glob("*.dcm")))
def test_pydicoms_own_files_are_read_right_or_refused_in_a_line(name, tmp_path):
    shutil.copy(WHEEL / name, tmp_path)
    data = pydicom.dcmread(WHEEL / name, force=True)
    volumes = {"693_J2KI", "CT_small", "examples_overlay", "J2K_pixelrep_mismatch"}
    try:
        scans, bad, _ = found(tmp_path / name)
    except InputError as error:
        assert "\n" not in str(error) and (" without a place" in str(error) or "Image" not in (
            data.SOPClassUID.name) or name == "MR_truncated.dcm")
        return
    assert len(scans) + len(bad) == 1
    for scan in scans.values():
        assert name.startswith("MR_small") or name.removesuffix(".dcm") in volumes
        same_voxels = data.pixel_array * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))
        assert np.array_equal(scan.array[..., 0].T, same_voxels)
        np.testing.assert_allclose(scan.affine[:3, 3] * (-1, -1, 1), data.ImagePositionPatient)
    assert all("has no SOP class" in line for line in bad.values())


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="needs dcm2niix")
@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "693_J2KI.dcm",
                                  "dicomdirtests/98892001/CT5N"])
def test_dcm2niix_reads_the_same_voxels_in_the_same_place(name, tmp_path):
    (shutil.copytree if (WHEEL / name).is_dir() else shutil.copy)(WHEEL / name, tmp_path / "in")
    subprocess.run(["dcm2niix", "-b", "n", "-f", "x", "-o", tmp_path, tmp_path / "in"], check=True, capture_output=True)
    image = nib.load(tmp_path / "x.nii")
    assert same(only(tmp_path / "in"), image.get_fdata(), image.affine)


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="needs dcm2niix")
@pytest.mark.parametrize("axes", ["LPS", "oblique", "PSR"])
def test_what_dcm2niix_writes_of_a_series_lies_where_the_series_does(axes, tmp_path, dicom):
    directions = Rotation.from_euler("xyz", (12, -7, 33), degrees=True).as_matrix() if axes == "oblique" else (
        nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(axes), SHAPE)[:3, :3])
    array, affine = volume(), dicom.affine(directions)
    for name, order in (("classic", None), ("mixed", [4, 1, 3, 0, 2])):
        dicom.series(tmp_path / name, array, affine, kind="MR", order=order)
        subprocess.run(["dcm2niix", "-b", "n", "-z", "y", "-o", tmp_path, "-f", name, tmp_path / name],
                       check=True, capture_output=True)
        converted, series = read_scan_file(tmp_path / f"{name}.nii.gz"), only(tmp_path / name)
        assert same(converted, array, affine) and same(series, converted.array, converted.affine)
        assert not converted.notes


def test_without_pydicom_other_formats_work_and_dicom_is_a_line(tmp_path, monkeypatch, dicom):
    dicom.series(tmp_path / "a", volume(), dicom.affine())
    nib.save(nib.Nifti1Image(volume(), np.eye(4)), tmp_path / "b.nii.gz")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert list(found(tmp_path / "b.nii.gz")[0]) == ["b"]
    (line,) = found(tmp_path / "a")[1].values()
    assert "package pydicom, which is not installed: pip install -r requirements-clinical.txt" in line
