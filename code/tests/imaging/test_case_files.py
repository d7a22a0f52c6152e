"""Which files are scans to segment, which belong together, and that nothing is left aside without a word."""
import time

import numpy as np
import pytest

from imaging.case_files import contents, files_below, grouped, role_of, told
from imaging.new_scans import scans_to_segment
from runtime.errors import InputError


def touched(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(folder, *modalities):
    """(cases, bad cases, names left aside)"""
    cases, bad, aside = scans_to_segment(folder, modalities)
    cases = {name: [path.name for path in paths] for name, paths in cases.items()}
    return cases, set(bad), {path.name for path in aside}


@pytest.mark.parametrize(("name", "roles", "expected"), [
    ("case_flair", ("flair",), ("case", "flair")), ("case-t2f", ("flair",), ("case", "flair")),
    ("case.FLAIR", ("flair",), ("case", "flair")), ("flair", ("flair",), ("", "flair")), ("flaired", ("flair",), None),
    ("BraTS-GLI-00001-000-t1c", ("t1", "t1ce"), ("BraTS-GLI-00001-000", "t1ce")),
    ("BraTS-GLI-00001-000-t1n", ("t1", "t1ce"), ("BraTS-GLI-00001-000", "t1")),
    ("case_t1", ("t1", "t1ce"), ("case", "t1")), ("case_t1ce", ("t1",), None), ("a_0001", ("0001",), ("a", "0001")),
    ("case_t2", ("flair",), None), ("a_0001", ("0000",), None)])
def test_roles_of_names(name, roles, expected):
    assert role_of(name, roles) == expected


BRATS = {"2018": ("_flair", "_t1", "_t1ce", "_t2", "_seg"), "2023": ("-t2f", "-t1n", "-t1c", "-t2w", "-seg")}


@pytest.mark.parametrize("ends", BRATS.values(), ids=BRATS)
@pytest.mark.parametrize("is_nested", [True, False])
def test_brats_names_of_every_year(tmp_path, ends, is_nested):
    for case in ("BraTS-1", "BraTS-2"):
        touched(tmp_path / (case if is_nested else ""), *(f"{case}{end}.nii.gz" for end in ends))
    flair = found(tmp_path, "flair")
    assert flair[0] == {case: [f"{case}{ends[0]}.nii.gz"] for case in ("BraTS-1", "BraTS-2")} and not flair[1]
    assert len(flair[2]) == 8
    assert found(tmp_path, "flair", "t1ce")[0]["BraTS-1"] == [f"BraTS-1{ends[0]}.nii.gz", f"BraTS-1{ends[2]}.nii.gz"]
    only = tmp_path / ("BraTS-1" if is_nested else "") / f"BraTS-1{ends[0]}.nii.gz"
    assert found(only, "flair", "t1ce")[0] == {"BraTS-1": [f"BraTS-1{ends[0]}.nii.gz", f"BraTS-1{ends[2]}.nii.gz"]}
    only.with_name(f"BraTS-1{ends[2]}.nii.gz").unlink()
    cases, bad, _ = scans_to_segment(tmp_path, ("flair", "t1ce"))
    missing = only.with_name(f"BraTS-1{ends[0][0]}t1ce.nii.gz")
    assert list(cases) == ["BraTS-2"] and bad["BraTS-1"].startswith(f"{missing}: is missing")


def test_other_challenges_folders(tmp_path):
    touched(tmp_path / "LA", "A/lgemri.nrrd", "A/laendo.nrrd", "B/lgemri.nrrd", "B/laendo.nrrd")
    assert found(tmp_path / "LA", "lgemri") == ({"A": ["lgemri.nrrd"], "B": ["lgemri.nrrd"]}, set(), {"laendo.nrrd"})
    assert set(found(tmp_path / "LA", "image")[0]) == {"A", "B"}
    touched(tmp_path / "ACDC", *(f"patient001/patient001{end}" for end in (
        "_frame01.nii.gz", "_frame01_gt.nii.gz", "_frame12.nii.gz", "_frame12_gt.nii.gz", "_4d.nii.gz")),
        "patient001/Info.cfg")
    cases, bad, aside = found(tmp_path / "ACDC", "cine")
    assert set(cases) == {"patient001_frame01", "patient001_frame12"} and not bad
    assert aside == {"patient001_frame01_gt.nii.gz", "patient001_frame12_gt.nii.gz", "patient001_4d.nii.gz", "Info.cfg"}


@pytest.mark.parametrize(("names", "modality", "cases"), [
    (("case_0005", "case_0006", "case_0011"), "image", {"case_0005", "case_0006", "case_0011"}),
    (("case_0000", "case_0001"), "image", set()), (("a_0000", "b_0000"), "image", {"a_0000", "b_0000"}),
    (tuple(f"case_{k:04d}" for k in range(20)), "cine", {f"case_{k:04d}" for k in range(20)}),
    (("a_0000", "a_0001", "b_0000", "b_0001"), "0000", {"a", "b"}), (("a_0001", "b_0001"), "0000", set()),
    (("a_t1", "b_t1"), "image", {"a_t1", "b_t1"}), (("a_t1", "a_t2", "b_t1"), "image", {"b_t1"}),
    (("a_t1", "b_t1"), "flair", set()), (("a", "a_seg", "a-mask", "b.gt"), "image", {"a"}),
    (("sub-01_T1w", "sub-02_FLAIR", "sub-02_dseg"), "flair", {"sub-02"}), (("sub-01_T1w",), "flair", set()),
    (("s_dwi", "s_adc", "s_msk"), "flair", set()), (("P1__PT", "P1__CT"), "image", set()),
    (("a_t1c", "a_gtv", "a_aseg"), "image", {"a_t1c"}),
    (("volume-0", "segmentation-0", "volume-1"), "image", {"volume-0", "volume-1"}),
    (("img0001", "label0001", "label0002"), "image", {"img0001", "label0002"}),
    (("ct1", "mr1", "label1"), "image", {"ct1", "mr1"}),
    (("a", "b"), "flair", {"a", "b"}), (("seg_1", "gt1"), "image", {"seg_1", "gt1"}),
    (("a", "b_image"), "image", {"a", "b_image"})])
def test_roles_come_from_the_training_sets_record(tmp_path, names, modality, cases):
    touched(tmp_path, *(f"{name}.nii.gz" for name in names))
    assert set(found(tmp_path, modality)[0]) == cases


@pytest.mark.parametrize(("names", "trained", "cases"), [
    (("a_seg", "b_seg"), ["p_seg"], {"a_seg", "b_seg"}), (("a_seg", "a", "b_seg"), ["p_seg"], {"a", "b_seg"}),
    (("a_seg", "b"), ["p_mask"], {"b"}), (("a_4d",), ["p_4d", "q"], {"a_4d"}),
    (("a_t1", "a_t2"), ["p_t1", "p_t2"], {"a_t1", "a_t2"}), (("a_t1", "a_t2"), ["p_t1", "q"], set()),
    (("a_T1w", "a_FLAIR", "b"), ["p_T1w", "q_T1w"], {"a_T1w", "b"}), (("a_FLAIR",), ["p_T1w"], set()),
    (("a_0000", "a_0001"), ["p_0000", "p_0001"], {"a_0000", "a_0001"}), (("a_0000", "a_0001"), ["p"], set())])
def test_what_the_training_set_was_called_is_a_scan(tmp_path, names, trained, cases):
    """Scans x_seg whose label maps are called alike, in another folder, are prepared and trained on."""
    touched(tmp_path, *(f"{name}.nii.gz" for name in names))
    assert set(scans_to_segment(tmp_path, ("image",), names=trained)[0]) == cases


def test_files_that_are_no_scans_are_left_aside_with_a_word(tmp_path):
    touched(tmp_path, "a.nrrd", "a.seg.nrrd", "b.mhd", "b.raw", "c.hdr", "c.img", "notes.txt", "d.png", ".hidden",
            "e.doc")
    cases, bad, aside = found(tmp_path, "image")
    assert set(cases) == {"a", "b", "c"} and not bad
    assert aside == {"a.seg.nrrd", "notes.txt", "d.png", "e.doc"}
    assert told([tmp_path / "b.DCM", tmp_path / "a.dcm", tmp_path / "LICENSE"]) == (
        "2 .dcm such as b.DCM, 1 without an ending such as LICENSE")


def test_folders_beside_scans_are_left_aside_with_a_word(tmp_path):
    touched(tmp_path, "a.nrrd", "p1/b.nrrd", "p2/IM0001.dcm", ".hidden/c.nrrd")
    cases, bad, aside = scans_to_segment(tmp_path, ("image",))
    assert set(cases) == {"a"} and not bad
    assert told(aside) == "2 folders, not looked into since there are scans beside them, such as p1"


@pytest.mark.parametrize("start", [(8, 0), (2, 0), (8, 5), (8, 8), (8, 22)])
@pytest.mark.parametrize(("header", "voxels"), [("a.nhdr", "a.raw"), ("a.mhd", "a.zraw"), ("a.hdr", "a.img"),
                                                ("a.nhdr", "a.raw.gz")])
def test_voxels_beside_their_header_are_no_dicom_whatever_they_begin_with(tmp_path, start, header, voxels):
    touched(tmp_path, header)
    (tmp_path / voxels).write_bytes(np.array([*start, 0, 0] * 40, "<i2").tobytes())
    assert found(tmp_path, "image") == ({"a": [header]}, set(), set())


def test_a_folder_without_scans_says_what_it_holds(tmp_path):
    touched(tmp_path, *(f"series/IM{k}.doc" for k in range(3)), "x/y/readme.txt")
    with pytest.raises(InputError, match="no scan; it holds 3 .doc such as IM0.doc, 1 .txt such as readme.txt; "
                                         "taken are .nii.gz, .nii, .nrrd"):
        scans_to_segment(tmp_path, ("image",))
    assert contents(touched(tmp_path / "empty", "z/.hidden")).startswith("it holds no files")
    with pytest.raises(InputError, match="has no scan by its name"):
        scans_to_segment(tmp_path / "series" / "IM0.doc", ("image",))


def test_one_name_in_several_folders_is_told_apart_by_them(tmp_path):
    touched(tmp_path, "p1/image.nii.gz", "p2/image.nii.gz", "p3/other.nii.gz")
    assert set(found(tmp_path, "image")[0]) == {"p1", "p2", "other"}
    assert set(found(tmp_path, "T1")[0]) == {"p1", "p2", "other"}
    touched(tmp_path, "q/p1/image.nii.gz")
    assert found(tmp_path, "T1")[1] == {"p1"}


def test_thousands_of_channel_files_are_grouped_in_no_time(tmp_path):
    channels = "0000", "0001", "0002", "0003"
    files = [tmp_path / f"case{k:05d}_{channel}.nii.gz" for k in range(4000) for channel in channels]
    start = time.process_time()
    cases, bad, rest = grouped(files, channels)
    assert len(cases) == 4000 and not bad and not rest
    assert time.process_time() - start < 3


def test_folders_behind_links_are_looked_into_once(tmp_path):
    """Also where a link leads back."""
    touched(tmp_path / "store", "p1/scan.nii", "p2/deep/scan.nii")
    scans = tmp_path / "scans"
    scans.mkdir()
    for name, to in (("a", "store/p1"), ("b", "store/p2"), ("c", "store/p1"), ("up", "scans")):
        (scans / name).symlink_to(tmp_path / to)
    there = sorted(path.relative_to(scans).as_posix() for path in files_below(scans))
    assert there == ["a/scan.nii", "b/deep/scan.nii"]
    assert found(scans, "image")[0].keys() == {"a", "deep"}


@pytest.mark.parametrize("names", [("imagesTr/a.nii", "imagesTs/b.nii", "labelsTr/a.nii"), ("imagesTr/a_0000.nii",)])
@pytest.mark.parametrize("channels", [("image",), ("0000",)])
def test_of_a_whole_data_set_the_folder_of_scans_is_asked_for(tmp_path, names, channels):
    folder = touched(tmp_path / "Task02", "dataset.json", *names)
    with pytest.raises(InputError, match=f"holds a whole data set.*such as .*Task02/{names[len(names) > 1][:8]}$"):
        scans_to_segment(folder, channels)
    with pytest.raises(InputError, match="^--images "):     # as label_next.py calls it
        scans_to_segment(folder, channels, trained=False)
