"""3D Slicer's .seg.nrrd as labels: cropped boxes, layers and names, in the fields that Slicer writes."""
import json

import h5py
import nibabel as nib
import nrrd
import numpy as np
import pytest

import prepare_folder
from imaging.grids import ScanFile
from imaging.label_values import check_segments
from imaging.record import read_preprocessing
from imaging.scan_files import read_label, read_scan_file, values_in
from imaging.segmentations import segments
from runtime.errors import InputError

LPS = np.diag([-1.0, -1, 1, 1])
AFFINE = np.array([[0, -1.2, 0, 31.5], [0.9, 0, 0, -12.25], [0, 0, 2.5, 7.125], [0, 0, 0, 1]])
SHAPE = 20, 18, 16
SCAN = ScanFile(np.zeros(SHAPE, np.float32), AFFINE, np.array([0.9, 1.2, 2.5]), None)
LABELS = {0: 0, 1: 1, 2: 2, 3: 3}


@pytest.fixture
def scan(tmp_path):
    SCAN.path = tmp_path / "scan.nrrd"
    return SCAN


def write(path, layers, segments, box=None, **more):
    """Layers (L, *N) cropped to `box`, as Slicer 5 stores them; segments: (name, layer, value)."""
    box = box or tuple(slice(0, side) for side in SHAPE)
    first = [side.start for side in box]
    lps = LPS @ AFFINE
    header = {"space": "left-posterior-superior", "kinds": ["domain"] * 3, "space directions": lps[:3, :3].T,
              "space origin": lps[:3, :3] @ first + lps[:3, 3], "encoding": "gzip",
              "Segmentation_ReferenceImageExtentOffset": " ".join(map(str, first)), "Segmentation_MasterRepresentation":
              "Binary labelmap", "Segmentation_ContainedRepresentationNames": "Binary labelmap|Closed surface|"}
    array = layers[(slice(None), *box)]
    if len(layers) == 1:
        array = array[0]
    else:
        header |= {"kinds": ["list", *["domain"] * 3],
                   "space directions": np.vstack([[np.nan] * 3, header["space directions"]])}
    for number, (name, layer, value) in enumerate(segments):
        header |= {f"Segment{number}_ID": f"Segment_{number + 1}", f"Segment{number}_Name": name,
                   f"Segment{number}_LabelValue": str(value), f"Segment{number}_Layer": str(layer),
                   f"Segment{number}_Extent": "0 1 0 1 0 1", f"Segment{number}_Color": "0.5 0.7 0.4",
                   f"Segment{number}_Tags": "TerminologyEntry:Segmentation category~SCT^85756007^Tissue|"}
    nrrd.write(str(path), np.asfortranarray(array.astype(np.uint8)), header | more)
    return path


def drawn():
    """Class map with three classes, in the inside of the volume."""
    array = np.zeros(SHAPE, np.uint8)
    array[4:9, 5:11, 3:8], array[10:14, 5:9, 6:12], array[10:12, 12:15, 2:4] = 1, 2, 3
    return array


BOX = slice(4, 14), slice(5, 15), slice(2, 12)


@pytest.mark.parametrize("box", [None, BOX])
def test_a_cropped_segmentation_lies_where_it_was_drawn(scan, tmp_path, box):
    path = write(tmp_path / "a.seg.nrrd", drawn()[None], [("atrium", 0, 1), ("ventricle", 0, 2), ("vein", 0, 3)], box)
    np.testing.assert_array_equal(read_label(path, scan, LABELS), drawn())
    np.testing.assert_array_equal(read_label(path, scan, LABELS, same_affine=False), drawn())
    assert values_in(path) == {0, 1, 2, 3}
    header = {key: value for key, value in nrrd.read_header(str(path)).items() if "Offset" not in key}
    nrrd.write(str(path), nrrd.read(str(path))[0], header)      # of a program that does not say what it cut away
    np.testing.assert_array_equal(read_label(path, scan, LABELS), drawn())
    if box:
        with pytest.raises(InputError, match="does not say where in it it lies"):
            read_label(path, scan, LABELS, same_affine=False)


def test_segments_in_layers_share_values_and_are_told_apart(scan, tmp_path):
    layers = np.stack([drawn() == 1, drawn() == 2, drawn() == 3])
    path = write(tmp_path / "a.seg.nrrd", layers, [("a", 0, 1), ("b", 1, 1), ("c", 2, 1)], BOX)
    assert segments(path) == {"a": (0, 1, 1), "b": (1, 1, 2), "c": (2, 1, 3)}
    np.testing.assert_array_equal(read_label(path, scan, LABELS), drawn())


def test_files_before_slicer_4_11_have_a_layer_per_segment_and_no_values(scan, tmp_path):
    layers = np.stack([drawn() == 1, drawn() == 2])
    path = write(tmp_path / "a.seg.nrrd", layers, [])
    header = {"Segment0_Name": "a", "Segment1_Name": "b", "Segment0_ID": "one", "Segment1_ID": "two"}
    write(path, layers, [], **header)
    np.testing.assert_array_equal(read_label(path, scan, LABELS), np.where(drawn() < 3, drawn(), 0))


def test_segments_have_names_in_any_script(scan, tmp_path):
    path = write(tmp_path / "a.seg.nrrd", drawn()[None], [("one", 0, 3), ("two", 0, 2), ("three", 0, 1)])
    for ascii_name, name in {b"one": "左心房", b"two": "右心房", b"three": "Münze"}.items():
        path.write_bytes(path.read_bytes().replace(b"Name:=" + ascii_name, f"Name:={name}".encode()))
    values = {"Münze": 1, "右心房": 2, "左心房": 3}
    np.testing.assert_array_equal(read_label(path, scan, LABELS, segments=values), drawn())


def test_values_by_name_do_not_depend_on_the_files_order(scan, tmp_path):
    one = write(tmp_path / "a.seg.nrrd", drawn()[None], [("x", 0, 1), ("y", 0, 2), ("z", 0, 3)])
    swapped = np.choose(drawn(), [0, 3, 1, 2]).astype(np.uint8)
    two = write(tmp_path / "b.seg.nrrd", swapped[None], [("y", 0, 1), ("z", 0, 2), ("x", 0, 3)], BOX)
    names = {"x": 1, "y": 2, "z": 3}
    for path in (one, two):
        np.testing.assert_array_equal(read_label(path, scan, LABELS, segments=names), drawn())
    with pytest.raises(InputError, match="b.seg.nrrd: the segment .* has the value .*, and .* in a.seg.nrrd"):
        check_segments([one, two])
    check_segments([one, one.with_name("other.nii.gz")])
    with pytest.raises(InputError, match="has the segment z, expected only x, y"):
        read_label(one, scan, LABELS, segments={"x": 1, "y": 2})


def test_one_value_is_one_structure_in_all_files(tmp_path):
    def named(file, *names):
        return write(tmp_path / file, drawn()[None], [(name, 0, value) for value, name in enumerate(names, 1)])

    check_segments([named("a.seg.nrrd", "Liver"), named("b.seg.nrrd", "liver "), named("c.seg.nrrd", "Segment_1")])
    with pytest.raises(InputError, match=r"d.seg.nrrd: the segment spleen has the value 1, as Liver has in a.seg.nrrd; "
                                         "where these are two structures, name the classes"):
        check_segments([tmp_path / "a.seg.nrrd", named("d.seg.nrrd", "spleen")])
    assert check_segments([tmp_path / "a.seg.nrrd"], known={"LIVER": 1}) == {"LIVER": 1, "Liver": 1}
    with pytest.raises(InputError, match="as spleen has in labels taken before"):
        check_segments([tmp_path / "a.seg.nrrd"], known={"spleen": 1})


def test_what_cannot_be_a_class_map_of_the_scan_is_refused(scan, tmp_path):
    def refused(match, layers, names, box=None, **more):
        with pytest.raises(InputError, match=match):
            read_label(write(tmp_path / "a.seg.nrrd", layers, names, box, **more), scan, LABELS)

    both = np.stack([drawn() > 0, drawn() > 1])
    refused(f"the segments whole and part overlap in {(drawn() > 1).sum()} voxels", both,
            [("whole", 0, 1), ("part", 1, 1)])
    refused("two segments called a", drawn()[None], [("a", 0, 1), ("a", 0, 2)])
    refused("are not those of scan.nrrd", drawn()[None] == 1, [("a", 0, 1)], **{"space origin": [1.3, 2, 3]})
    refused("are not those of scan.nrrd", drawn()[None] == 1, [("a", 0, 1)], **{"space directions": np.eye(3)})
    refused("is empty", np.zeros_like(drawn())[None], [("a", 0, 1)])
    refused(f"{(drawn() > 1).sum()} of its voxels have a value that belongs to no segment", drawn()[None],
            [("a", 0, 1)])
    lps = LPS @ AFFINE
    refused("30 of its voxels lie outside scan.nrrd", drawn()[None] == 1, [("a", 0, 1)],
            **{"space origin": lps[:3, :3] @ (12, 0, 0) + lps[:3, 3]})
    refused("cannot be read", drawn()[None], [("a", "first", 1)])
    refused("cannot be read", drawn()[None], [("a", 4, 1)])
    for name in ("b.seg.nrrd", "b.nrrd"):
        with pytest.raises(InputError, match="is a segmentation, expected a scan"):
            read_scan_file(write(tmp_path / name, drawn()[None], [("a", 0, 1)]))


@pytest.mark.parametrize("end", [".seg.nrrd", ".nrrd", ".nhdr"])      # Slicer's menu has these
def test_own_data_drawn_in_slicer_from_files_to_classes(scan, tmp_path, capsys, end):
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    lps = LPS @ AFFINE
    for name in "ab":
        nrrd.write(str(images / f"{name}.nrrd"), drawn().astype(np.int16) * 100 + np.arange(SHAPE[2], dtype=np.int16), {
            "space": "left-posterior-superior", "space directions": lps[:3, :3].T, "space origin": lps[:3, 3]})
    (images / "notes.txt").touch()
    write(labels / "a.seg.nrrd", drawn()[None], [("x", 0, 1), ("y", 0, 2), ("z", 0, 3)], BOX)
    swapped = np.choose(drawn(), [0, 3, 1, 2]).astype(np.uint8)
    write(labels / f"b{end}", swapped[None], [("y", 0, 1), ("z", 0, 2), ("x", 0, 3)], BOX)
    command = ["--images", str(images), "--labels", str(labels), "--output", str(tmp_path / "out"), "--workers", "1"]
    with pytest.raises(SystemExit, match="2"):
        prepare_folder.main(command)
    assert "name the classes (--class-names)" in capsys.readouterr().err
    assert not prepare_folder.main([*command, "--class-names", "x", "y", "z"])
    assert "1 file left aside, which are no scans: 1 .txt such as notes.txt" in capsys.readouterr().out
    for name in "ab":
        with h5py.File(tmp_path / f"out/{name}/mri_norm2.h5") as file:
            turned = np.flip(np.swapaxes(drawn(), 0, 1), 0)      # the axes go forward, left and up
            np.testing.assert_array_equal(file["label"][()], turned)


def folder_of(tmp_path, files):
    """Scans and labels: {case: a class map as NIfTI, or (layers, segments)} -> options of prepare_folder.py."""
    (tmp_path / "masks").mkdir(parents=True)
    (tmp_path / "scans").mkdir()
    for number, (case, content) in enumerate(files.items()):
        image = np.random.default_rng(number).integers(0, 99, SHAPE).astype(np.int16)
        nib.save(nib.Nifti1Image(image, AFFINE), tmp_path / "scans" / f"{case}.nii.gz")
        if isinstance(content, tuple):
            write(tmp_path / "masks" / f"{case}.seg.nrrd", *content)
        else:
            nib.save(nib.Nifti1Image(content, AFFINE), tmp_path / "masks" / f"{case}.nii.gz")
    return ["--images", str(tmp_path / "scans"), "--labels", str(tmp_path / "masks"), "--output", str(tmp_path / "out"),
            "--workers", "1"]


def prepared(tmp_path, case):
    """Its class map, on the scan's own axes."""
    with h5py.File(tmp_path / "out" / case / "mri_norm2.h5") as file:
        label = nib.Nifti1Image(file["label"][()], np.eye(4))
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.io_orientation(AFFINE))
    return np.asarray(label.as_reoriented(turn).dataobj)


OTHERWISE = drawn()[None], [("vein", 0, 3), ("atrium", 0, 1), ("ventricle", 0, 2)]     # as the label maps have them
TURNED = np.choose(drawn(), [0, 3, 1, 2]).astype(np.uint8)[None], [("ventricle", 0, 1), ("vein", 0, 2),
                                                                   ("atrium", 0, 3)]
LATER = np.choose(drawn(), [0, 4, 9, 7]).astype(np.uint8)[None], [("atrium", 0, 4), ("vein", 0, 7),
                                                                  ("ventricle", 0, 9)]
NAMED = ["--class-names", "atrium", "ventricle", "vein"]


@pytest.mark.parametrize("segmentation", [OTHERWISE, TURNED, LATER])
def test_segments_beside_label_maps_of_values_alone_need_the_names_of_the_classes(tmp_path, capsys, segmentation):
    options = folder_of(tmp_path, {"a": drawn(), "b": segmentation})
    with pytest.raises(SystemExit, match="2"):
        prepare_folder.main(options)
    error = capsys.readouterr().err
    assert "--class-names" in error or "--label-map" in error       # 4, 7 and 9 are no classes beside 1, 2 and 3
    assert prepare_folder.main([*options, *NAMED]) == 0
    for case in "ab":
        np.testing.assert_array_equal(prepared(tmp_path, case), drawn())


@pytest.mark.parametrize("segmentation", [TURNED, LATER])
def test_named_segments_may_have_any_values(tmp_path, segmentation):
    assert prepare_folder.main(folder_of(tmp_path / "alone", {"a": segmentation}) + NAMED) == 0
    np.testing.assert_array_equal(prepared(tmp_path / "alone", "a"), drawn())
    values = np.choose(drawn(), [0, 20, 30, 40]).astype(np.uint8)
    options = folder_of(tmp_path / "both", {"a": values, "b": segmentation})
    assert prepare_folder.main([*options, *NAMED, "--label-map", "20:1", "30:2", "40:3"]) == 0
    np.testing.assert_array_equal(prepared(tmp_path / "both", "b"), drawn())
    assert read_preprocessing(tmp_path / "both" / "out").values.tolist() == [0, 20, 30, 40]


def test_a_damaged_segmentation_costs_its_case_alone(tmp_path, capsys):
    options = folder_of(tmp_path, {"a": OTHERWISE, "b": OTHERWISE, "c": OTHERWISE})
    damaged = tmp_path / "masks" / "b.seg.nrrd"
    damaged.write_bytes(damaged.read_bytes()[:40])
    assert prepare_folder.main(options) == 2
    assert "2 prepared" in (told := capsys.readouterr()).out and "bad case b: " in told.err


def test_a_class_that_nobody_has_drawn_yet_is_said(tmp_path, capsys):
    options = folder_of(tmp_path, {"a": np.minimum(drawn(), 2)}) + NAMED
    with pytest.raises(SystemExit, match="2"):
        prepare_folder.main(options)
    assert "3 names, expected 2" in (error := capsys.readouterr().err) and "--num-classes 4 says" in error
    with pytest.raises(SystemExit, match="2"):
        prepare_folder.main([*options[:-3], "vein", "vein"])
    assert "names vein twice" in capsys.readouterr().err
    assert prepare_folder.main([*options, "--num-classes", "4"]) == 0


def test_segments_are_read_again_where_the_names_of_the_classes_are_others(tmp_path, capsys):
    options = folder_of(tmp_path, {"a": TURNED})
    assert prepare_folder.main(options) == 0                # in the file's own order
    assert prepare_folder.main(options + NAMED) == 0
    assert "1 with another label than before, prepared again: a" in capsys.readouterr().out
    np.testing.assert_array_equal(prepared(tmp_path, "a"), drawn())
    assert prepare_folder.main(options + NAMED) == 0 and "0 prepared, 1 skipped" in capsys.readouterr().out


@pytest.mark.parametrize("by", ["plan", "option"])
def test_names_that_come_later_say_which_segment_is_which_class(tmp_path, by):
    """At first the values in the files were the classes."""
    options = folder_of(tmp_path, {"a": TURNED, "b": TURNED})
    assert prepare_folder.main(options) == 0
    assert np.array_equal(prepared(tmp_path, "a"), TURNED[0][0])
    if by == "plan":
        plan = tmp_path / "out/plan.json"
        content = json.loads(plan.read_text(encoding="utf-8"))
        content["plan"]["class_names"]["value"] = NAMED[1:]
        plan.write_text(json.dumps(content), encoding="utf-8")
    assert prepare_folder.main(options + NAMED * (by == "option")) == 0
    assert np.array_equal(prepared(tmp_path, "a"), drawn())
