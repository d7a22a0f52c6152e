"""A trained run as it is tested: its weights fit, and no case is tested whose label it was trained on."""
import dataclasses
import json
import shutil
import zlib
from functools import partial
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import test_ACDC
import test_LA
from dataloaders.lists import read_list
from dataloaders.scans import Scan
from evaluation.agreement import agreement
from imaging.record import PUBLISHED, write_preprocessing
from reproduction.results import publish
from reproduction.segmentations import segmented
from runtime.errors import InputError
from runtime.files import ROOT, load_tensors, load_weights, save_tensors
from training import datasets
from training import trained as trained_module
from training.material import Content
from training.trained import load_run, preparation_of


def test_weights_that_do_not_fit_are_named():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    good = {key: torch.randn_like(value) for key, value in model.state_dict().items()}
    load_weights(model, good, "last.pt")
    assert all(torch.equal(good[key], value) for key, value in model.state_dict().items())
    bad = good | {"0.weight": torch.zeros(2, 2), "2.bias": torch.zeros(1)}
    del bad["0.bias"]
    with pytest.raises(InputError) as error:
        load_weights(model, bad, "last.pt")
    for part in ("last.pt", "missing 0.bias", "left over 2.bias", "0.weight is (2, 2), expected (3, 2)"):
        assert part in str(error.value)


def test_many_misfits_are_counted():
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(4)))
    with pytest.raises(InputError, match="and 4 more"):
        load_weights(model, {}, "last.pt")


def test_a_run_is_loaded_with_the_weights_of_the_checkpoint(recipe, runs, shallow):
    own = recipe("ACDC")
    loop = runs.loop(own)
    saved = {key: value.clone() for key, value in loop.method.state_dict().items()}
    save_tensors(own.out / "best.pt", {"method": saved, "step": 3})
    loaded = load_run(own.out, "best", "cpu")
    assert loaded.recipe == own and runs.same_tensors(loaded.method.state_dict(), saved)
    assert load_run(own.out, "best", "cpu", data_dir=own.out).recipe.data_dir == own.out
    with pytest.raises(InputError, match="belongs to ACDC, not to LA"):
        load_run(own.out, "best", "cpu", dataset="LA")
    with pytest.raises(InputError, match=r"last\.pt does not exist: the run has best; choose with --checkpoint"):
        load_run(own.out, "last", "cpu")
    (own.out / "best.pt").unlink()
    with pytest.raises(InputError, match="the run has no weights yet"):
        load_run(own.out, "last", "cpu")


# ---- what was trained on ------------------------------------------------------------------------------------------


@pytest.fixture
def run_on(phantoms, recipe, runs, shallow, no_curves, tmp_path):
    """run_on(dataset) -> (a short run, a copy of its data, which it knows as its own)."""
    def make(dataset):
        data = shutil.copytree(phantoms(dataset), tmp_path / "data")
        run = runs.trained(recipe(dataset, pre_steps=1, self_steps=1))
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        config["recipe"]["data_dir"] = str(data)
        (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return run, data
    return make


@pytest.fixture
def swap(run_on):
    """swap(dataset, place) -> the same, and the test list names the train list's case at `place`."""
    def make(dataset, place):
        run, data = run_on(dataset)
        train, test = ((data / name).read_text(encoding="utf-8").split() for name in ("train.list", "test.list"))
        train[place], test[0] = test[0], train[place]
        for name, names in (("train.list", train), ("test.list", test)):
            (data / name).write_text("\n".join(names), encoding="utf-8")
        return run, data
    return make


def test_a_case_whose_label_was_trained_on_is_refused_wherever_it_would_be_measured(swap, capsys):
    run, _ = swap("LA", 0)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        test_LA.main(["--run", str(run), "--device", "cpu"])
    error = capsys.readouterr().err
    assert "was trained on the labels of 1 of these 2 cases" in error and error.count("\n") == 1
    assert not list(run.glob("test_*"))
    trained = load_run(run, device="cpu")
    with pytest.raises(InputError, match="was trained on the labels of 1"):
        agreement(trained, "test")
    with pytest.raises(InputError, match="was trained on the labels of 1"):
        list(segmented(run, trained.data.split().test, "cpu"))


def test_an_unlabelled_case_of_training_is_tested_and_said(swap, capsys):
    run, _ = swap("LA", -1)
    assert test_LA.main(["--run", str(run), "--device", "cpu"])
    assert "1 of the 2 cases were unlabelled scans of training" in capsys.readouterr().out


def test_a_case_is_known_by_its_voxels_under_another_name(run_on, capsys):
    """A copy of a labelled scan beside it, and a volume of labelled slices."""
    run, data = run_on("LA")
    names = (data / "train.list").read_text(encoding="utf-8").split()
    folder = data / "2018LA_Seg_Training Set"
    shutil.copytree(folder / names[0], folder / "copy")
    (data / "test.list").write_text("copy\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        test_LA.main(["--run", str(run), "--device", "cpu"])
    assert "was trained on the labels of 1 of these 1 case, copy" in capsys.readouterr().err


def test_the_volume_of_a_labelled_patient_is_refused(run_on, capsys):
    run, data = run_on("ACDC")
    slices = (data / "train_slices.list").read_text(encoding="utf-8").split()
    volume = slices[0].split("_slice")[0]
    (data / "train_slices.list").write_text("\n".join(name for name in slices if volume.split("_")[0] not in name),
                                            encoding="utf-8")
    for name in (volume, "anyone_frame01"):     # by its patient, and by its slices' voxels
        if name != volume:
            shutil.copy(data / f"data/{volume}.h5", data / f"data/{name}.h5")
        (data / "test.list").write_text(f"{name}\n", encoding="utf-8")
        with pytest.raises(SystemExit, match="2"):
            test_ACDC.main(["--run", str(run), "--device", "cpu"])
        assert f"was trained on the labels of 1 of these 1 case, {name}" in capsys.readouterr().err


def test_a_run_without_a_record_of_its_data_is_tested_and_it_is_said(swap, capsys):
    run, _ = swap("LA", 0)
    (run / "data.json").unlink()
    assert test_LA.main(["--run", str(run), "--device", "cpu"])
    assert f"{run} has no data.json: whether it was trained on these cases is not known" in capsys.readouterr().out


def test_weights_that_another_run_wrote_are_said_to_be_such(run_on, capsys):
    """As a copy that was put back into the wrong folder; of earlier versions nobody knows."""
    run, _ = run_on("ACDC")
    state = load_tensors(run / "last.pt")
    for change, words in (({}, ""), ({"seed": 7, "method": "cps"}, "(method was cps, is cml; seed was 7, is 1337)")):
        save_tensors(run / "last.pt", state | {"fields": state["fields"] | change})
        capsys.readouterr()
        load_run(run, device="cpu")
        said = capsys.readouterr().out
        assert words in said and ("was written by another run" in said) == bool(words)
    save_tensors(run / "last.pt", {"method": state["method"]})
    load_run(run, device="cpu")
    assert "another run" not in capsys.readouterr().out


def test_weights_that_were_trained_on_other_cases_than_the_folder_says_are_refused(run_on, recipe, runs, phantoms,
                                                                                   tmp_path):
    """Of a run of the same recipe on other lists; to be tested, and to start from."""
    run, data = run_on("LA")
    names = (data / "train.list").read_text(encoding="utf-8").split()
    (data / "train.list").write_text("\n".join(names[::-1]), encoding="utf-8")
    other = runs.train(recipe("LA", pre_steps=1, self_steps=1, data_dir=data, out=tmp_path / "other"))
    load_run(other, device="cpu")
    shutil.copy(other / "last.pt", run / "last.pt")
    with pytest.raises(InputError, match="last.pt: was trained on other cases than data.json beside it says"):
        load_run(run, device="cpu")
    with pytest.raises(InputError, match="last.pt: was trained on other cases than data.json beside it says"):
        runs.loop(recipe("LA", init_from=run, out=tmp_path / "second"))


def test_a_label_of_training_under_another_name_and_image_is_said(run_on, capsys):
    """Of a copy whose intensities were rounded or shifted, say."""
    run, data = run_on("LA")
    names = (data / "train.list").read_text(encoding="utf-8").split()
    folder = data / "2018LA_Seg_Training Set"
    shutil.copytree(folder / names[0], folder / "copy")
    with h5py.File(folder / "copy" / "mri_norm2.h5", "a") as file:
        file["image"][...] = np.round(file["image"][()], 2)
    (data / "test.list").write_text(f"copy\n{names[-1]}\n", encoding="utf-8")
    (data / "train.list").write_text("\n".join(names[:-1]), encoding="utf-8")
    capsys.readouterr()
    test_LA.main(["--run", str(run), "--device", "cpu"])
    said = capsys.readouterr().out
    assert f"copy: has the label of {names[0]}, voxel by voxel" in said and said.count("voxel by voxel") == 1


def test_validation_never_runs_on_the_voxels_of_a_labelled_case(phantoms, recipe, runs, shallow, tmp_path):
    data = shutil.copytree(phantoms("LA"), tmp_path / "data")
    names = (data / "train.list").read_text(encoding="utf-8").split()
    folder = data / "2018LA_Seg_Training Set"
    shutil.rmtree(folder / names[-1])
    shutil.copytree(folder / names[0], folder / names[-1])
    with pytest.raises(InputError, match=f"val case {names[-1]}: has the voxels of a labelled case"):
        runs.train(recipe("LA", data_dir=data, holdout_val=1))


def test_roles_of_scans_by_name_and_by_voxels():
    image = torch.arange(24.0).view(1, 2, 3, 4)
    scan = Scan("p1_frame02", image, None, ((1, 2, 3, 4), 7, None))
    for cases, role in (({"labelled": {"p1_frame01": ((1, 2, 3, 4), 5, 1)}}, "labelled"),
                        ({"labelled": {"p2": ((1, 2, 3, 4), 7, 1)}}, "labelled"),
                        ({"labelled": {"p2": ((1, 4, 3, 2), 7, 1)}}, None),
                        ({"labelled": {"p2": ((1, 2, 3, 4), 5, 1)}, "unlabelled": {"q": ((1, 2, 3, 4), 7, None)}},
                         "unlabelled"), ({}, None)):
        assert Content(None, cases).finder(lambda name: name.split("_")[0])(scan) == role


def test_an_empty_slice_makes_no_scan_another():
    """Ends of scans that were filled up are the same voxels in many."""
    image = torch.arange(24.0).view(1, 2, 3, 4)
    image[0, 1] = 0
    full, empty = (((1, 3, 4), zlib.crc32(cut.numpy()), 1) for cut in image[0])
    scan = Scan("p1_frame02", image, None, ((1, 2, 3, 4), 7, None))
    assert Content(None, {"labelled": {"p2_slice_1": empty}}).finder()(scan) is None
    assert Content(None, {"labelled": {"p2_slice_1": empty, "p2_slice_2": full}}).finder()(scan) == "labelled"


def test_classes_that_no_label_has_are_said(recipe, runs, shallow, capsys):
    runs.loop(recipe("LA", num_classes=4, holdout_val=1))
    said = capsys.readouterr().out
    assert "no labelled case has class 2, 3 of 1 to 3" in said and "no val case has class 2, 3 of 1 to 3" in said
    runs.loop(recipe("ACDC", out=recipe().out.with_name("other")))
    assert "case has class" not in capsys.readouterr().out


def test_a_folder_with_scans_to_test_alone_needs_their_list_alone(phantoms, recipe, runs, shallow, no_curves, tmp_path,
                                                                  capsys, monkeypatch):
    run = runs.trained(recipe("LA", pre_steps=1, self_steps=1))
    trained, elsewhere = load_run(run, device="cpu"), tmp_path / "elsewhere"
    [name, _] = names = (phantoms("LA") / "test.list").read_text(encoding="utf-8").split()
    assert trained.names("test") == names
    shutil.copytree(phantoms("LA") / f"2018LA_Seg_Training Set/{name}", elsewhere / name)
    args = ["--run", str(run), "--device", "cpu", "--data-dir", str(elsewhere)]
    with pytest.raises(SystemExit, match="2"):
        test_LA.main([*args[:-1], str(tmp_path / "gone")])
    assert "gone: is no longer there; --data-dir names the folder where" in capsys.readouterr().err
    monkeypatch.setattr(trained_module, "published_list", lambda *_: [])        # as of own data
    with pytest.raises(SystemExit, match="2"):
        test_LA.main(args)
    assert "elsewhere/test.list: does not exist; name the cases to test in it" in capsys.readouterr().err
    (elsewhere / "test.list").write_text(name, encoding="utf-8")
    assert [row["case"] for row in test_LA.main(args)] == [name]
    (elsewhere / "train.list").write_text("some_other\n", encoding="utf-8")     # fewer than were labelled in training
    assert trained.recipe.labeled > 1 and [row["case"] for row in test_LA.main(args)] == [name]


@pytest.fixture
def with_record(run_on):
    """A run on LA's phantoms with a record of their preparation, and their folder."""
    run, data = run_on("LA")
    write_preprocessing(data, PUBLISHED["LA"])
    trained = load_run(run, device="cpu")
    content = dataclasses.replace(trained.content, preprocessing=PUBLISHED["LA"].to_dict())
    return trained._replace(content=content), data


@pytest.mark.parametrize(("change", "words"), [
    ({"normalise": "minmax"}, "normalise was zscore, is minmax"), ({"spacing": (1, 1, 1)}, "spacing was None"),
    ({"orientation": "RAS"}, "orientation was LPS, is RAS"), ({"labels": {0: 0, 2: 1}}, "labels was"),
    ({"modalities": ("t2",)}, "modalities was"), ({"dataset": "folder"}, "dataset was LA, is folder")])
def test_scans_that_were_prepared_in_another_way_are_not_tested(with_record, change, words):
    trained, data = with_record
    names = trained.names("test")
    trained.check_cases(names)
    write_preprocessing(data, dataclasses.replace(PUBLISHED["LA"], **change))
    with pytest.raises(InputError, match=f"data: these scans were prepared in another way than those that .*{words}"):
        trained.check_cases(names)
    with pytest.raises(InputError, match="prepared in another way"):
        agreement(trained, "test")
    assert not trained._replace(content=trained.content and dataclasses.replace(
        trained.content, preprocessing=dataclasses.replace(PUBLISHED["LA"], **change).to_dict())).has_papers_data()


def test_another_crop_is_said_and_what_changes_no_scan_is_not(with_record, capsys):
    trained, data = with_record
    for change, said in (({"crop": "none"}, "crop was label, is none"), ({"geometry": "sform"}, ""), ({"seed": 3}, ""),
                         ({"ignore": 7}, "ignore was not said, is 7")):
        write_preprocessing(data, dataclasses.replace(PUBLISHED["LA"], **change))
        capsys.readouterr()
        trained.check_cases(trained.names("test"))
        told = capsys.readouterr().out
        assert f"in another way than the scans of training: {said}" in told if said else "another way" not in told
    (data / "preprocessing.json").unlink()      # the published files have no record
    trained.check_cases(trained.names("test"))


def test_the_papers_row_stands_beside_the_papers_cases_and_preparation_alone(with_record):
    trained, _ = with_record
    published = read_list(ROOT / "data" / "LA" / "train.list")
    names, others = published[:trained.recipe.labeled], published[trained.recipe.labeled:]
    made = PUBLISHED["LA"].to_dict()

    def of(preprocessing, cases, unlabelled=()):
        return trained._replace(content=Content(preprocessing, {
            "labelled": dict.fromkeys(cases), "unlabelled": dict.fromkeys(unlabelled)})).has_papers_data()
    assert of(made, names) and of(None, names) and of(made | {"seed": 4, "geometry": "sform"}, names)
    assert of(made, names, others[::-1]) and not of(made, names, others[:4])
    assert not of(made | {"crop": "none"}, names) and not of(made, names[::-1]) and not of(made, names[1:])
    assert not trained.has_papers_data()        # phantoms


# ---- how its scans were prepared -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["own", "LA"])
def test_a_run_without_its_preprocessing_json_knows_from_its_data_json(tmp_path, dataset):
    """As of a folder of which config.json and weights alone were copied, or with data.json."""
    record = dataclasses.replace(PUBLISHED["LA"], spacing=(1.0, 1.0, 2.0))
    (tmp_path / "config.json").write_text(json.dumps({"dataset": dataset, "recipe": {}}), encoding="utf-8")
    if dataset == "LA":
        assert preparation_of(tmp_path) is None         # the published files
    else:
        with pytest.raises(InputError, match=r"preprocessing\.json: does not exist.*copy it from the run's own"):
            preparation_of(tmp_path)
    content = Content(record.to_dict(), {"labelled": {}})
    (tmp_path / "data.json").write_text(json.dumps(dataclasses.asdict(content)), encoding="utf-8")
    assert preparation_of(tmp_path) == record
    write_preprocessing(tmp_path, PUBLISHED["LA"])
    assert preparation_of(tmp_path) == PUBLISHED["LA"]


def test_a_run_without_its_data_json_is_not_taken_for_one_on_the_published_scans(tmp_path):
    unknown = trained_module.Trained(tmp_path, None, None, SimpleNamespace(dataset="LA"), None)
    assert unknown.has_papers_data()        # as runs of earlier versions, which have no record of any kind
    write_preprocessing(tmp_path, dataclasses.replace(PUBLISHED["LA"], crop="none"))
    assert not unknown.has_papers_data()


@pytest.mark.parametrize("use", [datasets.of_run, load_run, partial(load_run, dataset="LA"),
                                 lambda run: publish(run, run.parent / "kept")])
def test_a_file_of_a_run_is_no_run(tmp_path, use):
    (tmp_path / "config.json").write_text(json.dumps({"dataset": "LA", "recipe": {}}), encoding="utf-8")
    with pytest.raises(InputError, match=rf"config\.json: is a file; give the folder that it is in, {tmp_path}"):
        use(tmp_path / "config.json")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
