"""DICOM SEG out, and the commands on DICOM: back on the series' own planes, and nobody's name in what is no DICOM."""
import itertools
import json
import re
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

import predict
import prepare_folder
from imaging import dicom_segmentations
from imaging.new_scans import scans_to_segment
from imaging.record import PLAIN
from imaging.scan_files import mark_of, read_scan_file
from runtime.errors import InputError

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

SHAPE = 7, 6, 8
MARK = "0123456789abcdef"
QUICK = "LPS", "SAR", "ILA"
ORIENTATIONS = ["".join(sides[end] for sides, end in zip(axes, ends, strict=True))
                for axes in itertools.permutations(("LR", "PA", "IS")) for ends in itertools.product((0, 1), repeat=3)]
CODES = {"wall": {"category": ["123037004", "SCT", "Anatomical Structure"], "type": ["10746000", "SCT", "Septum"]}}


def series_of(path):
    cases, bad, _ = scans_to_segment(path, PLAIN)
    assert not bad
    ((series,),) = cases.values()
    return series


def labels():
    array = np.zeros(SHAPE, np.uint8)
    array[2:5, 1:4, 2:4], array[3:6, 3:5, 3:6] = 1, 2      # planes 0, 1, 6 and 7 are empty
    return array


def classic(dicom, folder, array, affine):
    dicom.series(folder, array, affine, order=[4, 1, 3, 0, 2, 7, 6, 5], SpacingBetweenSlices=5)


def enhanced(dicom, folder, array, affine):
    dicom.enhanced(folder / "x", array, affine, [3, 0, 4, 1, 2, 7, 5, 6])


def assert_on(scan, array, affine, wanted):
    """An array with its affine (RAS+), along whichever axes, is this one on the scan's grid."""
    back = nib.Nifti1Image(array.astype(np.uint8), affine)
    back = back.as_reoriented(ornt_transform(io_orientation(back.affine), io_orientation(scan.affine)))
    assert np.array_equal(back.get_fdata(), wanted)
    np.testing.assert_allclose(back.affine, scan.affine, atol=1e-4)


@pytest.mark.parametrize("write", [classic, enhanced])
@pytest.mark.parametrize("axes", [axes if axes in QUICK else pytest.param(axes, marks=pytest.mark.slow)
                                  for axes in ORIENTATIONS])
def test_highdicom_reads_a_segmentation_where_its_series_lies(write, axes, tmp_path, dicom):
    turn = nib.orientations.ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    affine = dicom.affine() @ nib.orientations.inv_ornt_aff(turn, SHAPE)
    write(dicom, tmp_path / "in", np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16), affine)
    series, path = series_of(tmp_path / "in"), tmp_path / "a.dcm"
    dicom_segmentations.save(path, labels(), series, ["atrium", "wall"], [1, 4],
                             dicom_segmentations.read_codes(None, ["atrium", "wall"]), "CML cml", MARK)
    file = highdicom.seg.segread(path)
    volume = file.get_volume(combine_segments=True)
    scan = read_scan_file(series)
    assert_on(scan, volume.array, np.diag([-1, -1, 1, 1]) @ volume.affine, labels())
    assert mark_of(path) == MARK and file.PatientName == dicom.name
    assert file.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices == pytest.approx(
        scan.spacing[2])
    assert file.NumberOfFrames == 2 * SHAPE[2]      # empty ones, too
    names = [(item.SegmentNumber, item.SegmentLabel, item.SegmentDescription) for item in file.SegmentSequence]
    assert names == [(1, "atrium", "value 1 in label files"), (2, "wall", "value 4 in label files")]
    uids = {uid for _, _, uid in file.get_source_image_uids()}
    assert uids == {frame.uid for frame in series.frames}
    assert file.ReferencedSeriesSequence[0].SeriesInstanceUID == pydicom.dcmread(series.files[0]).SeriesInstanceUID


@pytest.mark.parametrize("fields", [{"SliceThickness": None}, {"SliceThickness": ""}, "turned"])
def test_a_series_without_thickness_or_with_rounded_directions_has_one_too(fields, tmp_path, dicom):
    """The standard lets a thickness be empty, and two programs round the directions of a slice in two ways."""
    array, affine = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16), dicom.affine()
    each = (lambda k: {"ImageOrientationPatient": [1, 1e-4 * (k % 2), 0, 0, 1, 0]}) if fields == "turned" else (
        lambda k: fields)
    dicom.series(tmp_path / "in", array, affine, each=each)
    series, path = series_of(tmp_path / "in"), tmp_path / "a.dcm"
    dicom_segmentations.save(path, labels(), series, ["atrium", "wall"], [1, 2],
                             dicom_segmentations.read_codes(None, ["atrium", "wall"]), "CML cml", MARK)
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    assert_on(read_scan_file(series), volume.array, np.diag([-1, -1, 1, 1]) @ volume.affine, labels())
    [measures] = pydicom.dcmread(path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert measures.SliceThickness == (2 if fields == "turned" else 2.5)


@pytest.mark.parametrize(("write", "key", "value"), [
    (classic, "PatientSex", "Male"), (classic, "StudyDate", "30-11-2019"), (classic, "StudyTime", "120000"),
    (enhanced, "PatientBirthDate", "1950.13.41"), (enhanced, "StudyTime", "25h")])
def test_patient_and_study_are_told_as_the_series_tells_them(write, key, value, tmp_path, dicom):
    """Old scanners' dates are not always the standard's."""
    write(dicom, tmp_path / "in", np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16), dicom.affine())
    for file in (tmp_path / "in").iterdir():
        data = pydicom.dcmread(file)
        data[key] = pydicom.DataElement(key, pydicom.datadict.dictionary_VR(key), value,
                                        validation_mode=pydicom.config.IGNORE)
        data.save_as(file)
    dicom_segmentations.save(tmp_path / "a.dcm", labels(), series_of(tmp_path / "in"), ["atrium", "wall"], [1, 4],
                             dicom_segmentations.read_codes(None, ["atrium", "wall"]), "CML cml", MARK)
    assert pydicom.dcmread(tmp_path / "a.dcm")[key].value == value and mark_of(tmp_path / "a.dcm") == MARK


@pytest.mark.skipif(shutil.which("segimage2itkimage") is None, reason="needs dcmqi")
@pytest.mark.parametrize("write", [classic, enhanced])
def test_dcmqi_reads_each_segment_where_its_series_lies(write, tmp_path, dicom):
    write(dicom, tmp_path / "in", np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16), dicom.affine())
    series, names = series_of(tmp_path / "in"), ["atrium", "wall"]
    dicom_segmentations.save(tmp_path / "a.dcm", labels(), series, names, [1, 4],
                             dicom_segmentations.read_codes(None, names), "CML cml", MARK)
    subprocess.run(["segimage2itkimage", "--inputDICOM", tmp_path / "a.dcm", "--outputDirectory", tmp_path,
                    "--outputType", "nrrd"], check=True, capture_output=True)
    for number in (1, 2):
        file = read_scan_file(tmp_path / f"{number}.nrrd")
        assert_on(read_scan_file(series), file.array > 0, file.affine, labels() == number)


def test_codes_are_the_file_s_and_tissue_for_classes_that_it_leaves_out(tmp_path):
    path = tmp_path / "codes.json"
    path.write_text(json.dumps(CODES), encoding="utf-8-sig")     # as some editors write it
    atrium, wall = dicom_segmentations.read_codes(path, ["atrium", "wall"])
    assert atrium == dicom_segmentations.TISSUE and wall == CODES["wall"]
    for odd in ("[", "[]", '{"liver": {}}', '{"wall": {"kind": ["1", "SCT", "x"]}}', '{"wall": {"type": ["1"]}}',
                '{"wall": {"type": [1, 2, 3]}}', '{"wall": 3}', r'{"wall": {"type": ["1", "SCT", "a\\b"]}}',
                '{"wall": {"type": ["1", "SCT", "%s"]}}' % (65 * "x"),
                '{"wall": {"category": ["1", "99OURHOSPITALSOWN", "x"]}}', '{"wall": {"type": ["1", "SCT", " "]}}'):
        path.write_text(odd, encoding="utf-8")
        with pytest.raises(InputError, match="codes.json: .*expected the classes atrium, wall, each with"):
            dicom_segmentations.read_codes(path, ["atrium", "wall"])


def test_without_highdicom_it_is_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match="package highdicom, which is not installed: pip install -r requirements-cl"):
        dicom_segmentations.writer()


def test_predict_takes_dicom_and_gives_it_back_and_tells_no_name(recipe, runs, shallow, no_curves, tmp_path, dicom,
                                                                 capfd):
    run, rng = tmp_path / "run", np.random.default_rng(0)
    runs.trained(recipe("LA", pre_steps=1, self_steps=1, patch_size=(32, 32, 32), out=run))
    scans, affine = tmp_path / "scans", dicom.affine(spacing=(1.2, 1.2, 1.5))
    array = rng.integers(0, 900, (32, 31, 30)).astype(np.int16)
    array[8:25, 8:25, 8:25] += 1500
    dicom.series(scans / "p1" / "study", array, affine)
    dicom.series(scans / "Doe Jane", array, affine, SeriesInstanceUID="1.2.99", StudyInstanceUID="1.9")
    dicom.series(scans / "p1" / "scout", array[..., :1], affine, SeriesInstanceUID="1.2.98",
                 ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    dicom.series(scans / "p2", array, affine, SeriesInstanceUID="1.2.97", PatientID="other")[5].unlink()

    def predicted(*more):
        return predict.main(["--run", str(run), "--input", str(scans), "--output", str(tmp_path / "out"), "--device",
                             "cpu", "--stride", "32", "32", "32", *more])

    capfd.readouterr()
    assert predicted("--overlay", "--report") == 2 and predicted("--format", "nifti") == 2
    told = capfd.readouterr()
    assert "2 segmented, 0 skipped (there already, the same), 1 bad" in told.out
    assert "1 DICOM localiser images such as IM0000.dcm" in told.out
    assert re.search("bad case p2_s7: .*about 1 slice missing between IM0004.dcm", told.err)
    assert predicted("--format", "dicom-seg") == 2
    assert predicted("--format", "dicom-seg") == 2 and "0 segmented, 2 skipped" in capfd.readouterr().out
    assert predicted("--format", "rtstruct") == 2
    names = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    names -= {"predictions.csv", "report.html"}
    stems = {name.split(".")[0].removesuffix("_rtstruct") for name in names}
    assert names == {stem + end for stem in stems for end in (".nrrd", ".png", ".nii.gz", ".dcm", "_rtstruct.dcm")}
    assert "p1_s7" in stems
    assert len(stems) == 2 and all(re.fullmatch(r"p1_s7|study[0-9a-f]{8}_s7", stem) for stem in stems)

    mask = sitk.ReadImage(str(tmp_path / "out" / "p1_s7.nrrd"))
    scan = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(scans / "p1" / "study")))
    sitk.Mask(scan, mask)       # refuses another space
    file = highdicom.seg.segread(tmp_path / "out" / "p1_s7.dcm")
    volume = file.get_volume(combine_segments=True)
    assert volume.array.sum() == sitk.GetArrayFromImage(mask).sum() > 0 and file.PatientID == dicom.identity
    for path in [path for path in (tmp_path / "out").iterdir() if path.suffix != ".dcm"]:
        content = path.read_bytes() if path.suffix != ".gz" else nib.load(path).to_bytes()
        assert not any(word in content for word in (b"Doe", b"4711", b"1950"))
    assert not any(word in told.out for word in ("Doe", "4711"))


def test_own_data_may_be_dicom(tmp_path, dicom, capsys):
    images, labels = tmp_path / "images", tmp_path / "labels"
    labels.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        array = rng.integers(0, 900, (20, 18, 16)).astype(np.int16)
        dicom.series(images / f"p{number}" / "a", array, dicom.affine(), SeriesInstanceUID=f"1.2.{number}",
                     PatientID=str(number))
        if number < 2:
            scan = read_scan_file(series_of(images / f"p{number}"))
            label = nib.Nifti1Image((scan.array > 450).astype(np.uint8), scan.affine)
            nib.save(label, labels / f"p{number}_s7.nii.gz")
    scout = dicom.series(images / "p0" / "scout", array[..., :1], dicom.affine(), SeriesInstanceUID="1.2.98",
                                PatientID="0", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    args = ["--images", str(images), "--labels", str(labels), "--output", str(tmp_path / "data"), "--workers", "1"]
    assert prepare_folder.main(args) == 0 and len(scout) == 1
    told = capsys.readouterr().out
    assert "3 cases, 2 of them with a label" in told and "1 file left aside, which are no scans: 1 DICOM localiser" in (
        told)
    assert (tmp_path / "data" / "train.list").read_text(encoding="utf-8").split() == ["p0_s7", "p1_s7", "p2_s7"]
    assert prepare_folder.main(args) == 0 and "0 prepared, 3 skipped" in capsys.readouterr().out
    for path in (tmp_path / "data").rglob("*"):
        assert path.is_dir() or not any(word in path.read_bytes() for word in (b"Doe", b"4711"))


@pytest.mark.parametrize("identity", ["own", "alike"])
def test_dicom_scans_of_one_patient_are_held_out_together(tmp_path, dicom, identity):
    """By what headers say or, where an anonymiser wrote one name for all, by the folders that they lie in."""
    images, labels, rng = tmp_path / "images", tmp_path / "labels", np.random.default_rng(0)
    labels.mkdir()
    owners = {"p0/a": "0", "p1/a": "1", "p1/b": "1", "later": "0"}
    for number, (place, owner) in enumerate(owners.items(), 1):
        array = rng.integers(0, 900, (20, 18, 16)).astype(np.int16)
        dicom.series(images / place, array, dicom.affine(), SeriesInstanceUID=f"1.2.{number}", SeriesNumber=number,
                     PatientID=owner if identity == "own" else "ANON")
        scan = read_scan_file(series_of(images / place))
        label = nib.Nifti1Image((scan.array > 450).astype(np.uint8), scan.affine)
        nib.save(label, labels / f"{place.split('/')[0]}_s{number}.nii.gz")
    args = ["--images", str(images), "--labels", str(labels), "--output", str(tmp_path / "data"), "--workers", "1"]
    assert prepare_folder.main([*args, "--holdout", "1"]) == 0
    patients = json.loads((tmp_path / "data" / "patients.json").read_text(encoding="utf-8"))["cases"]
    assert patients["p1_s2"] == patients["p1_s3"] != patients["p0_s1"]
    assert (patients["later_s4"] == patients["p0_s1"]) == (identity == "own")
    assert (tmp_path / "data" / "test.list").read_text(encoding="utf-8").split() == ["p1_s2", "p1_s3"]
