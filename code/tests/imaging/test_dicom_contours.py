"""RTSTRUCT out: contours that give the mask back wherever they are filled, holes too, on the series' own planes."""
import shutil
import subprocess

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from skimage.draw import polygon2mask

from imaging import dicom_contours, dicom_segmentations
from imaging.dicom_contours import outlines
from imaging.dicom_segmentations import TISSUE, mark_of
from imaging.new_scans import scans_to_segment
from imaging.record import PLAIN
from imaging.scan_files import read_scan_file, save_on_grid
from runtime.errors import InputError

pydicom = pytest.importorskip("pydicom")

SHAPE, MARK = (23, 19, 6), "0123456789abcdef"
CODE = TISSUE | {"type": ["82471001", "SCT", "Left atrium"]}


def labels():
    """Rings with islands in their holes, parts that touch at a corner, walls of one pixel, single pixels, noise."""
    array = np.zeros(SHAPE, np.uint8)
    x, y = np.mgrid[:SHAPE[0], :SHAPE[1]]
    far = np.hypot(x - 11, y - 9)
    array[..., 1] = ((far < 9) & (far > 5)) | (far < 2.5)
    array[3:12, 3:12, 2] = 1
    array[4:11, 4:11, 2] = 0
    array[12:15, 12:15, 2], array[17, 17, 2], array[0, 0, 2], array[20:, :4, 2] = 1, 1, 1, 2
    array[..., 3] = np.random.default_rng(0).random(SHAPE[:2]) < 0.6
    array[:, :, 4] = 2
    return array


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("fill", ["each on its own", "by winding"])
def test_polygons_filled_give_the_mask_back(fill):
    for plane in (1, 2, 3, 4):
        for value in (1, 2):
            mask, filled = labels()[..., plane] == value, np.zeros(SHAPE[:2], bool)
            for points in outlines(mask):
                if fill == "each on its own":       # by parity
                    filled |= polygon2mask(mask.shape, points)
                else:
                    filled |= Polygon(points, closed=False).contains_points(np.argwhere(mask >= 0)).reshape(mask.shape)
            assert not mask.any() and not filled.any() or dice(mask, filled) > 0.99, (plane, value)


def rasterised(file, series, affine):
    """Masks (classes, *N) of an RTSTRUCT, filled where a contour's millimetres lie on the grid of `affine`."""
    masks = np.zeros((len(file.ROIContourSequence), *SHAPE), bool)
    planes = {frame.uid + str(frame.index): place for place, frame in enumerate(series.frames)}
    back = np.linalg.inv(affine) @ np.diag([-1, -1, 1, 1])
    for mask, region in zip(masks, file.ROIContourSequence, strict=True):
        for contour in region.get("ContourSequence", ()):
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints
            voxels = points @ back[:3, :3].T + back[:3, 3]
            place = int(np.rint(voxels[0, 2]))
            assert np.abs(voxels[:, 2] - place).max() < 1e-3
            image = contour.ContourImageSequence[0]
            number = image.get("ReferencedFrameNumber")
            assert planes[image.ReferencedSOPInstanceUID + str(number and number - 1)] == place
            mask[..., place] ^= polygon2mask(SHAPE[:2], voxels[:, :2])
    return masks


def classic(dicom, folder, array, affine):
    dicom.series(folder, array, affine, order=[4, 1, 3, 0, 2, 5], SpacingBetweenSlices=5)


def enhanced(dicom, folder, array, affine):
    dicom.enhanced(folder / "x", array, affine, [3, 0, 4, 1, 2, 5])


@pytest.mark.parametrize("write", [classic, enhanced])
@pytest.mark.parametrize("directions", [np.eye(3), np.eye(3)[[2, 0, 1]] * (1, -1, -1),
                                        [[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]])
def test_contours_lie_where_the_mask_does(write, directions, tmp_path, dicom):
    affine = dicom.affine(directions)
    write(dicom, tmp_path / "in", np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16), affine)
    ((series,),) = scans_to_segment(tmp_path / "in", PLAIN)[0].values()
    scan, path = read_scan_file(series), tmp_path / "a_rtstruct.dcm"
    dicom_contours.save(path, labels(), series, ["atrium", "wall", "nothing"], [1, 4, 5], [CODE, TISSUE, TISSUE],
                        "CML cml", MARK)
    file = pydicom.dcmread(path)
    masks = rasterised(file, series, scan.affine)
    for value in (1, 2):
        assert dice(masks[value - 1], labels() == value) > 0.99
    assert not masks[2].any()
    assert [(one.ROINumber, one.ROIName, one.ROIDescription) for one in file.StructureSetROISequence] == [
        (1, "atrium", "value 1 in label files"), (2, "wall", "value 4 in label files"),
        (3, "nothing", "value 5 in label files")]
    assert [one.RTROIIdentificationCodeSequence[0].CodeValue for one in file.RTROIObservationsSequence] == [
        "82471001", "85756007", "85756007"]
    source = pydicom.dcmread(series.files[0])
    frame = file.ReferencedFrameOfReferenceSequence[0]
    (study,) = frame.RTReferencedStudySequence
    (referred,) = study.RTReferencedSeriesSequence
    assert frame.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert (study.ReferencedSOPInstanceUID, referred.SeriesInstanceUID) == (
        source.StudyInstanceUID, source.SeriesInstanceUID)
    assert {image.ReferencedSOPInstanceUID for image in referred.ContourImageSequence} == {
        one.uid for one in series.frames}
    assert (file.PatientName, file.PatientID, file.StudyInstanceUID, file.Modality) == (
        dicom.name, dicom.identity, source.StudyInstanceUID, "RTSTRUCT")
    assert mark_of(path) == MARK


@pytest.mark.skipif(shutil.which("plastimatch") is None, reason="needs plastimatch")
@pytest.mark.parametrize("directions", [np.eye(3), [[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]])
def test_plastimatch_fills_the_contours_to_the_mask(directions, tmp_path, dicom):
    classic(dicom, tmp_path / "in", np.zeros(SHAPE, np.int16), dicom.affine(directions))
    ((series,),) = scans_to_segment(tmp_path / "in", PLAIN)[0].values()
    dicom_contours.save(tmp_path / "a_rtstruct.dcm", labels(), series, ["atrium", "wall"], [1, 2], [CODE] * 2, "CML",
                        MARK)
    save_on_grid(tmp_path / "grid.nrrd", labels(), read_scan_file(series))
    subprocess.run(["plastimatch", "convert", "--input", tmp_path / "a_rtstruct.dcm", "--fixed", tmp_path / "grid.nrrd",
                    "--output-prefix", tmp_path / "out", "--prefix-format", "nrrd"], check=True, capture_output=True)
    for number, name in enumerate(("atrium", "wall"), 1):
        assert dice(read_scan_file(tmp_path / "out" / f"{name}.nrrd").array > 0, labels() == number) == 1


@pytest.mark.parametrize("key", ["FrameOfReferenceUID", "StudyInstanceUID"])
def test_a_series_that_cannot_be_referred_to_is_refused_in_a_line(key, tmp_path, dicom):
    dicom.series(tmp_path / "in", np.zeros(SHAPE, np.int16), dicom.affine(), **{key: None})
    ((series,),) = scans_to_segment(tmp_path / "in", PLAIN)[0].values()
    with pytest.raises(InputError, match=f"has no {key}, which an RTSTRUCT refers to; write --format nrrd"):
        dicom_contours.save(tmp_path / "a_rtstruct.dcm", labels(), series, ["atrium"], [1], [CODE], "CML", MARK)
    assert not list(tmp_path.glob("*.dcm"))


@pytest.mark.parametrize("module, regions, key", [(dicom_contours, "StructureSetROISequence", "ROIName"),
                                                  (dicom_segmentations, "SegmentSequence", "SegmentLabel")])
def test_names_keep_their_letters_in_any_script(module, regions, key, tmp_path, dicom):
    pytest.importorskip("highdicom")
    name = "Müller^Jörg"
    dicom.series(tmp_path / "in", np.zeros(SHAPE, np.int16), dicom.affine(), SpecificCharacterSet="ISO_IR 100",
                 PatientName=name)
    ((series,),) = scans_to_segment(tmp_path / "in", PLAIN)[0].values()
    names = ["左心房", "стенка"]
    module.save(tmp_path / "a.dcm", labels(), series, names, [1, 2], [CODE] * 2, "CML", MARK)
    file = pydicom.dcmread(tmp_path / "a.dcm")
    assert [one[key].value for one in file[regions].value] == names and file.PatientName == name


@pytest.mark.parametrize("module, regions, key", [(dicom_contours, "StructureSetROISequence", "ROIName"),
                                                  (dicom_segmentations, "SegmentSequence", "SegmentLabel")])
def test_a_name_is_one_value_of_64_characters_and_tells_its_class(module, regions, key, tmp_path, dicom):
    """A backslash parts values in DICOM."""
    pytest.importorskip("highdicom")
    dicom.series(tmp_path / "in", np.zeros(SHAPE, np.int16), dicom.affine())
    ((series,),) = scans_to_segment(tmp_path / "in", PLAIN)[0].values()
    module.save(tmp_path / "a.dcm", labels(), series, ["left\\right\x1b\tlung ", "x" * 70], [1, 2], [CODE] * 2, "CML",
                MARK)
    assert [one[key].value for one in pydicom.dcmread(tmp_path / "a.dcm")[regions].value] == ["left/right lung",
                                                                                             "x" * 64]
    for names in (["a\\b", "a/b"], ["x" * 70, "x" * 71], ["a", "\x07"]):
        with pytest.raises(InputError, match="would be called .* in DICOM.*no backslash; write --format nrrd"):
            module.save(tmp_path / "b.dcm", labels(), series, names, [1, 2], [CODE] * 2, "CML", MARK)
    assert not (tmp_path / "b.dcm").exists()
