"""Damaged, odd and hostile scan files through prepare_folder.py: one line that names the file and the way out, exit 2.

And the good case beside it is prepared.
"""
import gzip
import os
import re
import zlib

import nibabel as nib
import nrrd
import numpy as np
import pytest

import prepare_folder

SHAPE = 12, 11, 10
VOXELS = np.random.default_rng(0).integers(10, 200, SHAPE).astype(np.int16)
LABEL = (VOXELS > 100).astype(np.uint8)
RAW = VOXELS.tobytes("F")


def named(name, content):
    """Image b is this file."""
    return lambda images, labels: (images / name).write_bytes(content)


def both(*damages):
    return lambda images, labels: [damage(images, labels) for damage in damages]


def pipe(name):
    return lambda images, labels: os.mkfifo(images / name)


def folder(name):
    return lambda images, labels: (images / name).mkdir()


def mha(data=RAW, name="b.mha", without=(), **fields):
    """A MetaImage header with these fields, and data behind it."""
    header = {"ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
              "CompressedData": "False", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0",
              "ElementSpacing": "1 1 1", "DimSize": "12 11 10", "ElementType": "MET_SHORT", "ElementDataFile": "LOCAL"}
    header |= fields
    header["ElementDataFile"] = header.pop("ElementDataFile")       # the last one
    header = {key: value for key, value in header.items() if key not in without}
    return named(name, "".join(f"{key} = {value}\n" for key, value in header.items()).encode() + data)


def nhdr(*lines, data=RAW, name="b.nrrd", encoding="raw"):
    """An NRRD header with these lines, the later ones of a field alone, and data behind it."""
    head = dict(line.split(":", 1) for line in (
        "type: short", "dimension: 3", "sizes: 12 11 10", f"encoding: {encoding}", "endian: little", *lines))
    text = "".join(f"{key}:{value}\n" for key, value in head.items() if value.strip() != "absent")
    return named(name, b"NRRD0004\n" + text.encode() + b"\n" + data)


def nifti(name="b.nii", array=VOXELS, cut=None, kind=nib.Nifti1Image, **fields):
    """A NIfTI file whose header has these fields, whatever they are."""
    def damage(images, labels=None):
        image = kind(array, np.eye(4))
        image.set_qform(np.eye(4), 1)
        header = image.header
        for key, value in fields.items():
            header[key] = value
        header["magic"], header["vox_offset"] = b"n+1", 352
        content = (header.binaryblock + bytes(4) + array.tobytes("F"))[:cut]
        (images / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return damage


def analyze(change):
    def damage(images, labels):
        nib.AnalyzeImage(VOXELS, np.eye(4)).to_filename(str(images / "b.hdr"))
        change(images)
    return damage


def voxels_are(make):
    def change(images):
        (images / "b.img").unlink()
        make(images / "b.img")
    return analyze(change)


def label(make, name="b.nii"):
    """Image b is good, and its label is this."""
    def damage(images, labels):
        nib.save(nib.Nifti1Image(VOXELS, np.eye(4)), images / "b.nii")
        (labels / "b.nii").unlink()
        make(labels, images)
        if name != "b.nii":
            (labels / "b.nii").rename(labels / name)
    return damage


def segmentation(array=LABEL, **more):
    """Image b is good, and its label is a .seg.nrrd."""
    def make(labels, images):
        header = {"space": "RAS", "space directions": np.eye(3), "space origin": [0, 0, 0], "Segment0_Name": "a",
                  "Segment0_LabelValue": "1", "Segment0_Layer": "0"}
        nrrd.write(str(labels / "b.seg.nrrd"), array, header | more)
    return label(make)


DEFLATED = zlib.compress(RAW)
FLIPPED = DEFLATED[:-2] + bytes([DEFLATED[-2] ^ 1]) + DEFLATED[-1:]
TWO = {"kinds": ["list", *["domain"] * 3], "space directions": np.vstack([[np.nan] * 3, np.eye(3)]),
                     "Segment1_Name": "b", "Segment1_LabelValue": "1", "Segment1_Layer": "1"}
AGAIN = "copy or export it again"
BAD = {
    # MetaImage
    "mha of no bytes": (named("b.mha", b""), "b.mha: cannot be read", AGAIN),
    "mha that is text": (named("b.mha", b"not a MetaImage\n" * 9), "b.mha: cannot be read", AGAIN),
    "mha that is binary": (named("b.mha", bytes(range(256)) * 9), "b.mha: cannot be read", AGAIN),
    "mha without voxels": (mha(without=("ElementDataFile",)), "b.mha: cannot be read", AGAIN),
    "mha without a size": (mha(without=("DimSize",)), "b.mha: cannot be read", AGAIN),
    "mha without a type": (mha(without=("ElementType",)), "b.mha: cannot be read", AGAIN),
    "mha of two axes": (mha(NDims="2", DimSize="12 11", TransformMatrix="1 0 0 1", Offset="0 0", ElementSpacing="1 1"),
                        "b.mha: is 2D (12, 11)", "export it as one"),
    "mha of two sizes": (mha(DimSize="12 11"), "b.mha: cannot be read", AGAIN),
    "mha of a negative size": (mha(DimSize="12 -11 10"), "b.mha: cannot be read", AGAIN),
    "mha of no slices": (mha(DimSize="12 11 0"), "b.mha: has no voxels", "export it again"),
    "mha of 40,000 voxels per axis": (mha(DimSize="40000 40000 40000"), "40000 x 40000 x 40000", "crop or resample"),
    "mha of a number beyond all": (mha(DimSize="9" * 40 + " 1 1"), "b.mha: has 999", "crop or resample"),
    "mha in colour": (mha(ElementNumberOfChannels="3"), "b.mha: is 4D (12, 11, 10, 3)", "export it as one"),
    "mha of a series": (mha(NDims="4", DimSize="12 11 5 2"), "b.mha: is 4D (12, 11, 5, 2)", "one file per volume"),
    "mha of strings": (mha(ElementType="MET_STRING"), "b.mha: holds MET_STRING voxels", "greyscale"),
    "mha of text": (mha(BinaryData="False"), "b.mha: its voxels are text", "export it as binary"),
    "mha without a spacing": (mha(ElementSpacing="1 0 1"), "b.mha: has no usable affine", "with its geometry"),
    "mha with NaN for a spacing": (mha(ElementSpacing="1 nan 1"), "b.mha: has no usable affine", "with its geometry"),
    "mha in a plane": (mha(TransformMatrix="1 0 0 0 1 0 0 1 0"), "b.mha: has no usable affine", "with its geometry"),
    "mha with half a matrix": (mha(TransformMatrix="1 0 0 0"), "b.mha: cannot be read", AGAIN),
    "mha in parsecs": (mha(DistanceUnits="pc"), "b.mha: its DistanceUnits are 'pc'", "export it in mm"),
    "mha cut short": (mha(RAW[:-1]), "b.mha: cannot be read (b.mha holds fewer than the 2640 bytes", AGAIN),
    "mha with more": (mha(RAW + b"0"), "b.mha: cannot be read (b.mha holds more than the 2640 bytes", AGAIN),
    "compressed mha cut short": (mha(DEFLATED[:-9], CompressedData="True"), "b.mha: cannot be read", AGAIN),
    "compressed mha with a flipped bit": (mha(FLIPPED, CompressedData="True"), "b.mha: cannot be read", AGAIN),
    "compressed mha of nothing": (mha(b"", CompressedData="True"), "b.mha: cannot be read", AGAIN),
    "compressed mha that is not": (mha(CompressedData="True"), "b.mha: cannot be read", AGAIN),
    "mha of NaN": (mha(np.full(SHAPE, np.nan, "f4").tobytes(), ElementType="MET_FLOAT"), "has 1320 NaN", "nan_to_num"),
    "mhd of a system file": (mha(b"", "b.mhd", ElementDataFile="/etc/passwd"),
        "in another file, /etc/passwd", "one file"),
    "mhd of a file above": (mha(b"", "b.mhd", ElementDataFile="../b.raw"), "in another file, ../b.raw", "one file"),
    "mhd of a list": (mha(b"", "b.mhd", ElementDataFile="LIST"),
        "b.mhd: its voxels are in another file, LIST", "one file"),
    "mhd of nothing": (mha(b"", "b.mhd", ElementDataFile=""), "b.mhd: its voxels are in another file", "one file"),
    "mhd without its raw file": (mha(b"", "b.mhd", ElementDataFile="b.raw"), "in another file, b.raw", "one folder"),
    "mhd of a pipe": (both(pipe("b.raw"), mha(b"", "b.mhd", ElementDataFile="b.raw")), "in another file", "one folder"),
    "mhd of a folder": (both(folder("b.raw"), mha(b"", "b.mhd", ElementDataFile="b.raw")),
        "in another file", "one folder"),
    "mhd of a short raw file": (both(named("b.raw", RAW[:99]), mha(b"", "b.mhd", ElementDataFile="b.raw")),
                                "b.mhd: cannot be read (b.raw holds fewer", AGAIN),
    "mha that is a pipe": (pipe("b.mha"), "b.mha: is no regular file", "expected a scan"),
    "mha that is a folder": (folder("b.mha"), "b.mha: is no regular file", "expected a scan"),

    # NRRD
    "nrrd without sizes": (nhdr("sizes: absent"), "b.nrrd: cannot be read", AGAIN),
    "nrrd without a type": (nhdr("type: absent"), "b.nrrd: cannot be read", AGAIN),
    "nrrd of an unknown type": (nhdr("type: quaternion"), "b.nrrd: cannot be read", AGAIN),
    "nrrd of blocks": (nhdr("type: block", "block size: 2"), "b.nrrd: cannot be read", AGAIN),
    "nrrd of an unknown encoding": (nhdr("encoding: hex"), "b.nrrd: cannot be read", AGAIN),
    "nrrd of two sizes": (nhdr("sizes: 12 11"), "b.nrrd: ", None),
    "nrrd of two axes": (nhdr("dimension: 2", "sizes: 12 110"), "b.nrrd: is 2D (12, 110)", "export it as one"),
    "nrrd of a negative size": (nhdr("sizes: -12 11 -10"), "b.nrrd: ", None),
    "nrrd in colour": (nhdr("dimension: 4", "sizes: 3 4 11 10", "kinds: RGB-color domain domain domain"),
                       "b.nrrd: is 4D (4, 11, 10, 3)", "export it as one"),
    "nrrd in parsecs": (nhdr("space: LPS", "space directions: (1,0,0) (0,1,0) (0,0,1)",
        "space units: \"pc\" \"pc\" \"pc\""),
                        "b.nrrd: its space units are 'pc'", "export it in mm"),
    "nrrd in a plane": (nhdr("space: LPS", "space directions: (1,0,0) (0,1,0) (1,1,0)"), "b.nrrd: has no usable affine",
                        "with its geometry"),
    "nrrd with a spacing of 0": (nhdr("spacings: 1 0 1"), "b.nrrd: has no usable affine", "with its geometry"),
    "nrrd of directions without numbers": (nhdr("space: LPS", "space directions: (1,0,0) (0,a,0) (1,1,0)"),
                                           "b.nrrd: cannot be read", AGAIN),
    "nrrd of gzip that is not": (nhdr(encoding="gzip"), "b.nrrd: cannot be read", AGAIN),
    "nrrd of bzip2 that is not": (nhdr(encoding="bzip2"), "b.nrrd: cannot be read", AGAIN),
    "nrrd of half a gzip": (nhdr(encoding="gzip", data=gzip.compress(RAW)[:900]), "b.nrrd: cannot be read", AGAIN),
    "nrrd of a gzip that holds less": (nhdr(encoding="gzip", data=gzip.compress(RAW[:99])),
        "b.nrrd: cannot be read", AGAIN),
    "nrrd of text that is none": (nhdr(encoding="text", data=b"\xff\xfe12"), "b.nrrd: cannot be read", AGAIN),
    "nrrd of too few numbers": (nhdr(encoding="text", data=b"1 2 3"), "b.nrrd: cannot be read", AGAIN),
    "nrrd with lines to skip": (nhdr("line skip: 1000000000"), "b.nrrd: cannot be read", AGAIN),
    "nrrd with bytes to skip": (nhdr("byte skip: 100000000000"), "b.nrrd: cannot be read", AGAIN),
    "nrrd with a header without end": (named("b.nrrd", b"NRRD0004\ntype: short\n"), "b.nrrd: cannot be read", AGAIN),
    "nrrd that is a pipe": (pipe("b.nrrd"), "b.nrrd: is no regular file", "expected a scan"),
    "nhdr without its raw file": (nhdr("data file: b.raw", data=b"", name="b.nhdr"),
        "in another file, b.raw", "one folder"),
    "nhdr of a pipe": (both(pipe("b.raw"), nhdr("data file: b.raw", data=b"", name="b.nhdr")),
        "another file", "one folder"),
    "nhdr of a short raw file": (both(named("b.raw", RAW[:99]), nhdr("data file: b.raw", data=b"", name="b.nhdr")),
                                 "b.nhdr: cannot be read", AGAIN),

    # Analyze and NIfTI
    "hdr without its img": (analyze(lambda images: (images / "b.img").unlink()), "b.hdr: its voxels should be in b.img",
                            "copy both"),
    "hdr whose img is a pipe": (voxels_are(os.mkfifo), "b.hdr: its voxels should be in b.img", "copy both"),
    "hdr whose img is a folder": (voxels_are(os.mkdir), "b.hdr: its voxels should be in b.img", "copy both"),
    "hdr whose img is short": (voxels_are(lambda path: path.write_bytes(RAW[:-1])), "b.hdr: cannot be read", AGAIN),
    "hdr of no bytes": (analyze(lambda images: (images / "b.hdr").write_bytes(b"")), "b.hdr: cannot be read", AGAIN),
    "hdr cut short": (analyze(lambda images: (images / "b.hdr").write_bytes((images / "b.hdr").read_bytes()[:200])),
                      "b.hdr: cannot be read", AGAIN),
    "nifti that is a pipe": (pipe("b.nii.gz"), "b.nii.gz: is no regular file", "expected a scan"),
    "nifti with an sform of NaN": (nifti(srow_x=np.nan, sform_code=1, qform_code=0),
        "no usable affine", "its geometry"),
    "nifti with an sform of 0": (nifti(srow_x=0, sform_code=1, qform_code=0),
        "b.nii: has no usable affine", "its geometry"),
    "nifti with an infinite offset": (nifti(qoffset_x=np.inf, sform_code=0, qform_code=1),
        "no usable affine", "geometry"),
    "nifti of complex numbers": (nifti(array=VOXELS.astype(np.complex64)), "holds complex64 voxels", "greyscale"),
    "nifti of a series of one slice": (nifti(array=VOXELS.reshape(12, 11, 1, 10)),
        "is 4D (12, 11, 1, 10)", "per volume"),
    "nifti of five axes": (nifti(array=VOXELS.reshape(12, 11, 5, 1, 2)), "is 5D (12, 11, 5, 1, 2)", "per volume"),
    "nifti cut in the header": (nifti(cut=300), "b.nii: cannot be read", AGAIN),
    "nifti cut in the voxels": (nifti(cut=-7), "b.nii: cannot be read", AGAIN),
    "nifti.gz cut in the voxels": (nifti("b.nii.gz", cut=-7), "b.nii.gz: cannot be read", AGAIN),

    # labels
    "label that is a pipe": (label(lambda labels, _: os.mkfifo(labels / "b.nii")), "b.nii: is no regular file", "scan"),
    "label with an identity affine": (label(lambda labels, images: (
        nifti(array=LABEL)(labels), nib.save(nib.Nifti1Image(VOXELS, np.diag([1, 2, 3, 1])), images / "b.nii"))),
        "labels/b.nii: its affine puts it up to", "identity affine", "--same-voxels"),
    "label without an orientation": (label(lambda labels, _: nifti(array=LABEL, sform_code=0, qform_code=0)(labels)),
                                     "gives no orientation", "--same-voxels"),
    "label of other voxel sizes": (label(lambda labels, _: nib.save(nib.Nifti1Image(LABEL, np.diag([1, 1, 4, 1])),
                                                                    labels / "b.nii")),
                                   "its voxels have 1 x 1 x 4 mm and the scan's 1 x 1 x 1", "--same-voxels"),
    "label with turned axes": (label(lambda labels, _: nib.save(nib.Nifti1Image(LABEL.T, np.eye(4)), labels / "b.nii")),
                               "labels/b.nii: has shape (10, 11, 12)", "its axes are in another order"),
    "segmentation cut short": (label(lambda labels, _: (labels / "b.seg.nrrd").write_bytes(b"NRRD0004\ntype: short")),
                               "b.seg.nrrd: cannot be read", AGAIN),
    "segmentation that is a pipe": (label(lambda labels, _: os.mkfifo(labels / "b.seg.nrrd")),
        "is no regular file", None),
    "segmentation of no segments": (segmentation(Segment0_LabelValue="2"),
        "a value that belongs to no segment", "again"),
    "segmentation of another scan": (segmentation(**{"space origin": [0.4, 0, 0]}), "are not those of b.nii",
                                     "--same-voxels"),
    "segmentation beyond the scan": (segmentation(**{"space origin": [5, 0, 0]}),
        "of its voxels lie outside b.nii", None),
    "segmentation with an overlap": (segmentation(np.stack([LABEL, LABEL]), **TWO),
        "segments a and b overlap", "remove"),
    "segmentation of a segment without a name": (segmentation(np.stack([LABEL, 0 * LABEL]), **(TWO | {
        "Segment1_Name": "a"})), "two segments called a", "its own name"),
    "segmentation of a huge layer": (segmentation(Segment0_Layer="999999999999"), "b.seg.nrrd: cannot be read", AGAIN),
}


@pytest.mark.parametrize(("damage", "words"), [(row[0], [word for word in row[1:] if word]) for row in BAD.values()],
                         ids=BAD)
def test_a_bad_file_is_one_line_and_the_others_are_prepared(tmp_path, capsys, recwarn, damage, words):
    images, labels = tmp_path / "images", tmp_path / "labels"
    for path, array in ((images, VOXELS), (labels, LABEL)):
        path.mkdir()
        nib.save(nib.Nifti1Image(array, np.eye(4)), path / "a.nii")
    nib.save(nib.Nifti1Image(LABEL, np.eye(4)), labels / "b.nii")
    damage(images, labels)
    try:
        code = prepare_folder.main(["--images", str(images), "--labels", str(labels), "--output", str(tmp_path / "out"),
                                    "--workers", "1", "--num-classes", "2"])
    except SystemExit as stopped:
        code = stopped.code
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith(("error: ", "bad case b: "))]
    assert code == 2 and "Traceback" not in error and "our mistake" not in error, error
    assert any(all(word in line for word in words) for line in lines), error
    assert not re.search("bad case a", error) and not [one for one in recwarn if one.category is RuntimeWarning]
