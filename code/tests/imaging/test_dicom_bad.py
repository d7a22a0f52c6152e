"""Damaged and odd DICOM through prepare_folder.py and predict.py: one line each, exit code 2, the good ones done."""
import os
import re
import shutil
import struct
import zlib

import nibabel as nib
import numpy as np
import pytest

import predict
import prepare_folder
from imaging.new_scans import scans_to_segment
from imaging.record import PLAIN
from imaging.scan_files import read_scan_file

pydicom = pytest.importorskip("pydicom")

VOXELS = np.random.default_rng(0).integers(0, 900, (32, 31, 30)).astype(np.int16)
VOXELS[8:25, 8:25, 8:25] += 1500
SMALL = VOXELS[:7, :6, :5]
IN_ALL = slice(None)


def change(paths, places, **fields):
    """Fields of the slices at `places`; None removes one, a function makes one of the slice's number."""
    for number, path in list(enumerate(paths))[places if isinstance(places, slice) else slice(places, places + 1)]:
        data = pydicom.dcmread(path)
        for key, value in fields.items():
            if value is None:
                delattr(data, key)
            else:
                setattr(data, key, value(number) if callable(value) else value)
        data.save_as(path)


def changed(places, **fields):
    return lambda paths: change(paths, places, **fields)


def raw(old, new, place=2):
    """Bytes of a slice's file."""
    def damage(paths):
        content = paths[place].read_bytes()
        assert old in content and len(old) == len(new)
        paths[place].write_bytes(content.replace(old, new))
    return damage


def written(content, place=2):
    return lambda paths: paths[place].write_bytes(content)


def cut(end, place=2):
    return lambda paths: paths[place].write_bytes(paths[place].read_bytes()[:end])


def with_syntax(uid, data=None):
    """All slices say that they are stored in this transfer syntax."""
    def damage(paths):
        for path in paths:
            dataset = pydicom.dcmread(path)
            dataset.file_meta.TransferSyntaxUID = uid
            if data is not None:
                dataset.PixelData = pydicom.encaps.encapsulate([data])
                dataset["PixelData"].VR = "OB"
            dataset.save_as(path, implicit_vr=False, little_endian=True)
    return damage


def _uid(name):
    return f"1.2.{zlib.crc32(name.encode())}"


AT = [12.5, -40.25, -307.5]
BAD = {     # one line -> what makes it of a CT series of five slices
    # places
    "about 1 slice missing between IM0001.dcm at -307.5 mm and IM0003.dcm at -302.5": lambda paths: paths[2].unlink(),
    "about 2 slices missing between IM0001.dcm": lambda paths: [paths[2].unlink(), paths[3].unlink()],
    "2 slices lie on others, such as": changed(1, ImagePositionPatient=[12.5, -40.25, -310]),
    "1 image are there twice": lambda paths: shutil.copy(paths[1], paths[1].with_name("copy.dcm")),
    "unequal gaps between": changed(1, ImagePositionPatient=[12.5, -40.25, -307.1]),
    "mm beside the line of the other slices": changed(1, ImagePositionPatient=[12.5, -30, -307.5]),
    "sheared by 21.8 degrees": changed(IN_ALL, ImagePositionPatient=lambda k: [12.5, -40.25 + k, -310 + 2.5 * k]),
    "5 slices lie on others": changed(IN_ALL, ImagePositionPatient=AT),
    "several directions": changed(3, ImageOrientationPatient=[0, 1, 0, 0, 0, 1]),
    "several directions, .* expected one volume; keep": changed(0, ImageOrientationPatient=[1, 0, 0, 0, -1, 0]),
    "directions 1 0 0 0.5 1 0, expected two of length 1 at right angles": changed(
        IN_ALL, ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0]),
    "directions 0 0 0 0 0 0, expected two of length 1": changed(IN_ALL, ImageOrientationPatient=[0] * 6),
    "several pixel spacings": changed(3, PixelSpacing=[1, 1]),
    "pixel spacing 0 1, expected positive numbers": changed(IN_ALL, PixelSpacing=[0, 1]),
    "pixel spacing -1 1, expected positive numbers": changed(IN_ALL, PixelSpacing=[-1, 1]),
    "PixelSpacing .*, expected 2 finite numbers": changed(2, PixelSpacing=0.7),
    "ImageOrientationPatient .*, expected 6 finite numbers": changed(2, ImageOrientationPatient=[1, 0, 0]),
    "ImagePositionPatient .*nan.*, expected 3 finite numbers": raw(b"12.5\\-40.25\\-305", b"12.5\\nan\\   -305"),
    "IM0002.dcm: cannot be read .*12,5": raw(b"12.5\\-40.25\\-305", b"12,5\\-40.25\\-305"),
    "has no place in the patient": changed(2, ImagePositionPatient=None),
    "IM0000.dcm: is a mosaic, .* convert it with dcm2niix": changed(IN_ALL, ImageType=["ORIGINAL", "MOSAIC"]),

    # voxels
    "several rows and columns": changed(3, Rows=3, Columns=14),
    "has no rows or columns": changed(2, Rows=None),
    "has no rows or columns, as": changed(IN_ALL, Columns=0),
    "IM0002.dcm: its voxels cannot be read .*number of bytes of pixel data is less": cut(-10),
    "IM0000.dcm: its voxels cannot be read .*less than|65535 x 65535 x 5 voxels, which need": changed(
        IN_ALL, Rows=65535, Columns=65535),
    "IM0002.dcm: its voxels cannot be read": changed(2, PixelData=None),
    "IM0003.dcm: its voxels cannot be read": changed(3, BitsAllocated=None),
    "IM0001.dcm: its voxels cannot be read": changed(1, BitsAllocated=12),
    "IM0004.dcm: its voxels cannot be read": changed(4, PixelRepresentation=None),
    "its voxels cannot be read .*transfer syntax": with_syntax("1.2.3.4.5.6"),
    "its voxels cannot be read": with_syntax("1.2.840.10008.1.2.5", b"no run lengths"),
    "all voxels are 7, expected an image": changed(IN_ALL, PixelData=struct.pack("<42h", *[7] * 42)),
    "RescaleSlope .*, expected 1 finite number|cannot be read": changed(2, RescaleSlope=[1, 2]),
    "rescale slope of 0": changed(2, RescaleSlope=0),

    # files
    "has no SOP class": written(b""),
    "has no SOP class|cannot be read|no rows": cut(700),
    "IM0002.dcm: has no SOP class": written(b"\x89PNG\r\n\x1a\n" + bytes(200)),
    "IM0002.dcm: (has no SOP class|cannot be read)": written(bytes(128) + b"DICM" + bytes(range(256)) * 9),
}
FRAMES = {      # one line -> what makes it of the data set, and of its frames, of an enhanced MR file of five
    "has 4 frames and describes 5": lambda data, frames: setattr(data, "NumberOfFrames", 4),
    r"has no place in the patient \(": lambda data, frames: delattr(frames[3], "PlanePositionSequence"),
    "x.dcm, frame 2 and x.dcm, frame 4": lambda data, frames: setattr(
        frames[3].PlanePositionSequence[0], "ImagePositionPatient", AT),
    "about 3 slices missing between x.dcm, frame 4": lambda data, frames: setattr(
        frames[4].PlanePositionSequence[0], "ImagePositionPatient", [12.5, -40.25, -292.5]),
}


@pytest.fixture
def folder(tmp_path, dicom):
    """A folder of patients, one for each line of BAD, and a good one before and after them; {patient: line}."""
    lines = {f"k{number:02}": line for number, line in enumerate(BAD | FRAMES)}
    for name, line in lines.items():
        place, fields = tmp_path / "scans" / name, {"SeriesInstanceUID": _uid(name), "PatientID": f"id{name}",
                                                    "StudyInstanceUID": f"1.3.{int(name[1:])}"}
        if line in BAD:
            BAD[line](dicom.series(place, SMALL, dicom.affine(), **fields))
        else:
            path = dicom.enhanced(place / "x.dcm", SMALL, dicom.affine(), range(5), **fields)
            data = pydicom.dcmread(path)
            FRAMES[line](data, data.PerFrameFunctionalGroupsSequence)
            data.save_as(path)
    for name in ("a", "z"):
        dicom.series(tmp_path / "scans" / name, VOXELS, dicom.affine(), SeriesInstanceUID=_uid(name),
                     StudyInstanceUID=f"1.4.{ord(name)}", PatientID=f"id{name}")
    os.mkfifo(tmp_path / "scans" / "a" / "pipe.dcm")
    (tmp_path / "scans" / "z" / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(99))
    return tmp_path / "scans", lines


def assert_each_has_its_line(error, lines, dicom):
    assert "Traceback" not in error and "our mistake" not in error, error
    said = {match[1]: match[2] for match in re.finditer(r"^bad case (k\d\d)\w*: (.*)$", error, re.MULTILINE)}
    assert error.count("bad case ") == len(said) == len(lines), error
    wrong = [(line, said.get(name)) for name, line in lines.items() if not re.search(line, said.get(name, ""))]
    assert not wrong, "\n".join(map(str, wrong))
    assert not any(word in error for word in ("Doe", dicom.identity))


def test_prepare_names_each_bad_series_and_prepares_the_good_ones(folder, dicom, tmp_path, capsys):
    scans, lines = folder
    before = {path: path.read_bytes() for path in scans.rglob("*") if path.is_file()}
    (tmp_path / "labels").mkdir()
    for name in ("a", "z"):
        ((series,),) = scans_to_segment(scans / name, PLAIN)[0].values()
        scan = read_scan_file(series)
        nib.save(nib.Nifti1Image((scan.array > 1400).astype(np.uint8), scan.affine),
                 tmp_path / "labels" / f"{name}_s7.nii.gz")
    args = ["--images", str(scans), "--labels", str(tmp_path / "labels"), "--output", str(tmp_path / "out"),
            "--workers", "1"]
    assert prepare_folder.main(args) == 2
    assert_each_has_its_line(capsys.readouterr().err, lines, dicom)
    assert {path.parent.name for path in (tmp_path / "out").rglob("*.h5")} == {"a_s7", "z_s7"}
    assert (tmp_path / "out" / "train.list").read_text(encoding="utf-8").split() == ["a_s7", "z_s7"]
    assert {path: path.read_bytes() for path in before} == before


def test_predict_names_each_bad_series_and_segments_the_good_ones(folder, dicom, recipe, runs, shallow, no_curves,
                                                                  tmp_path, capfd):
    scans, lines = folder
    run = tmp_path / "run"
    runs.trained(recipe("LA", pre_steps=1, self_steps=1, patch_size=(32, 32, 32), out=run))
    capfd.readouterr()
    assert predict.main(["--run", str(run), "--input", str(scans), "--output", str(tmp_path / "maps"), "--device",
                         "cpu", "--stride", "32", "32", "32"]) == 2
    assert_each_has_its_line(capfd.readouterr().err, lines, dicom)
    assert {path.name for path in (tmp_path / "maps").glob("[!.]*")} == {"a_s7.nrrd", "z_s7.nrrd", "predictions.csv"}
