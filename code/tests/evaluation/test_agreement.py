"""What is measured of two subnets after training."""
import dataclasses
import json
import shutil

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import reproduce
from dataloaders.augment import resize_nearest
from evaluation import agreement as subnets
from evaluation import measurements
from evaluation.inference import segment
from evaluation.metrics import of_classes_there, overlap_of_classes
from methods import registry
from runtime.csv_table import Table
from runtime.errors import InputError
from runtime.files import load_tensors, save_tensors
from training.trained import load_run


def pseudo_labels(run):
    paths = subnets.snapshots(run)
    return subnets.pseudo_labels(load_run(run, f"snapshots/{paths[0].stem}", "cpu"), paths)


@pytest.fixture
def untrained(recipe, runs, shallow):
    """untrained(dataset, **changes) -> its recipe and loop; last.pt: large random weights, which see every class."""
    def make(dataset="ACDC", **changes):
        own = recipe(dataset, **changes)
        loop = runs.loop(own)
        for parameter in loop.method.parameters():
            torch.nn.init.normal_(parameter)
        save_tensors(own.out / "last.pt", {"method": loop.method.state_dict(), "step": 0})
        return own, loop
    return make


def test_one_network_twice_agrees_with_itself(untrained):
    own, _ = untrained(network="released")
    for row in subnets.agreement(load_run(own.out, device="cpu"), "val"):
        assert row["dice"] == 1 and row["cosine"] == pytest.approx(1)


def test_agreement_is_that_of_label_maps_and_features_in_evaluation_mode(untrained, runs):
    own, loop = untrained()
    data = runs.data(own)
    reproduce.main(["agreement", str(own.out), "--split", "val", "--device", "cpu"])
    *_, row = measurements.read_rows(own.out / "agreement_val_last.csv", ("dice", "cosine"))
    *_, scan = data.cases(data.split().val)
    with torch.no_grad():
        views = loop.method.eval().networks(resize_nearest(scan.image.transpose(0, 1), own.patch_size))
    (logits0, feature0), (logits1, feature1) = views
    cosine = F.cosine_similarity(feature0, feature1, dim=1).mean().item()
    assert row["case"] == scan.name and row["cosine"] == pytest.approx(cosine, abs=1e-5) and abs(cosine) < 0.999
    maps = [resize_nearest(logits.argmax(1), scan.image.shape[2:]) for logits in (logits0, logits1)]
    assert all((labels == label).any() for labels in maps for label in (1, 2, 3))
    dice = [2 * ((maps[0] == label) & (maps[1] == label)).sum() / ((maps[0] == label).sum() + (maps[1] == label).sum())
            for label in (1, 2, 3)]
    assert row["dice"] == pytest.approx(np.mean(dice), abs=1e-6) and 0 < row["dice"] < 1


def test_the_cosine_of_cml_plus_is_of_the_average_that_is_tested(untrained, runs):
    own, loop = untrained(method="cml_plus")
    [row, *_] = subnets.agreement(load_run(own.out, device="cpu"), "val")
    [scan] = runs.data(own).cases(runs.data(own).split().val[:1])
    x = resize_nearest(scan.image.transpose(0, 1), own.patch_size)
    tested, last = (F.cosine_similarity(*(feature for _, feature in networks.eval()(x)), dim=1).mean().item()
                    for networks in (loop.method.average, loop.method.networks))
    assert row["cosine"] == pytest.approx(tested, abs=1e-5) and abs(tested - last) > 1e-3


@pytest.mark.parametrize("dataset", ("ACDC", "LA"))
def test_patches_that_fill_a_batch_do_not_count(untrained, monkeypatch, dataset):
    own, _ = untrained(dataset)
    plain = subnets.agreement(load_run(own.out, device="cpu"), "test")
    monkeypatch.setattr("evaluation.inference.FILLED", {"cpu"})
    monkeypatch.setattr("evaluation.inference.AT_ONCE", {"cpu": {2: 7, 3: 7}})
    for row, filled in zip(plain, subnets.agreement(load_run(own.out, device="cpu"), "test"), strict=True):
        assert filled["cosine"] == pytest.approx(row["cosine"], abs=1e-5) and filled["dice"] == row["dice"]


def test_a_method_with_one_network_has_no_agreement(untrained):
    own, _ = untrained(method="supervised")
    with pytest.raises(InputError, match="method is supervised, expected one with two views to compare"):
        subnets.agreement(load_run(own.out, device="cpu"), "val")


def test_hidden_labels_are_those_of_unlabelled_slices_that_have_some(untrained, runs, tmp_path, monkeypatch, phantoms):
    folder = shutil.copytree(phantoms("ACDC"), tmp_path / "data")
    own, _ = untrained(data_dir=folder)
    data = runs.data(own)
    names = data.split().unlabelled
    for name in names[1:]:
        with h5py.File(data.path_of(name), "a") as file:
            del file["label"]
    images, labels = subnets.hidden_labels(own, data)
    [scan] = data.train_scans(names[:1], labelled=True)
    assert torch.equal(images[:, 0], resize_nearest(scan.image, own.patch_size))
    assert np.array_equal(labels, resize_nearest(scan.label.numpy(), own.patch_size)[None])
    with h5py.File(data.path_of(names[0]), "a") as file:
        del file["label"]
    with pytest.raises(InputError, match="no unlabelled slice has a label on disk"):
        subnets.hidden_labels(own, data)


def test_hidden_labels_are_a_seeded_subset(untrained, runs, monkeypatch):
    own, _ = untrained()
    everything = subnets.hidden_labels(own, runs.data(own))[0]
    monkeypatch.setattr(subnets, "SAMPLED", 2)
    some, again = (subnets.hidden_labels(own, runs.data(own))[0] for _ in range(2))
    assert some.shape[1] == 2 < everything.shape[1] and torch.equal(some, again)


def test_pseudo_labels_are_measured_step_by_step(untrained, runs, monkeypatch):
    """Against what subnet 0 itself says at the second snapshot: it is perfect there, not so at the first."""
    own, loop = untrained()
    (own.out / "snapshots").mkdir()
    state = {"method": loop.method.state_dict(), "stage": 1, "step": 3}
    save_tensors(own.out / "snapshots/a.pt", state)
    torch.manual_seed(1)
    earlier = {key: torch.randn_like(value) if value.is_floating_point() and "running" not in key else value
               for key, value in state["method"].items()}
    save_tensors(own.out / "snapshots/b.pt", {"method": earlier, "stage": 0, "step": 2})
    images, _ = subnets.hidden_labels(own, runs.data(own))
    views = segment(loop.method, images, own)
    said = {view: probs.argmax(0).numpy() for view, probs in views.items()}
    monkeypatch.setattr(subnets, "hidden_labels", lambda recipe, data: (images, said["subnet0"]))
    reproduce.main(["pseudo-labels", str(own.out), "--device", "cpu"])
    first, second = measurements.read_rows(own.out / "pseudo_labels.csv", ("step", "fused"))
    assert list(second) == ["step", "fused", "subnet0", "subnet1", "between"]
    assert [first["step"], second["step"]] == [2, own.pre_steps + 3]
    assert second["subnet0"] == 1 > first["subnet0"]
    assert second["subnet1"] == second["between"] < 1
    assert second["fused"] == pytest.approx(np.mean(
        overlap_of_classes(said["fused"], said["subnet0"], 4)), abs=1e-6)


def test_a_snapshot_that_is_no_checkpoint_of_the_run_is_refused(untrained):
    """Such as a copy of last.pt."""
    own, loop = untrained()
    (own.out / "snapshots").mkdir()
    for progress, words in (
            ({}, "has no stage"), ({"stage": 1}, "it has no step"),
            ({"stage": "self", "step": 1}, "stands at step 1 of stage"), ({"stage": 1, "step": None}, "step None"),
            ({"stage": 9, "step": 1}, "of stage 9, which this run does not have"),
            ({"stage": 0, "step": 10 ** 6}, "step 1000000 of stage 0"), ({"stage": True, "step": 0}, "stage True")):
        save_tensors(own.out / "snapshots/a.pt", {"method": loop.method.state_dict(), **progress})
        with pytest.raises(InputError, match=words):
            pseudo_labels(own.out)


def test_a_run_without_snapshots_says_how_to_have_some(untrained):
    own, _ = untrained()
    with pytest.raises(InputError, match=r"snapshots has no \*\.pt: copy checkpoint\.pt there"):
        pseudo_labels(own.out)


def test_pseudo_labels_come_from_the_checkpoints_that_training_writes(recipe, runs, shallow, no_curves):
    own = recipe("ACDC", pre_steps=1, self_steps=2, checkpoint_steps=1)
    runs.train(own)
    (own.out / "snapshots").mkdir()
    for name in ("checkpoint.pt", "checkpoint_prev.pt"):
        shutil.copy(own.out / name, own.out / "snapshots" / name)
    rows = pseudo_labels(own.out)
    states = [load_tensors(path) for path in (own.out / "snapshots").glob("*.pt")]
    assert rows[-1]["step"] == own.pre_steps + own.self_steps
    assert {row["step"] for row in rows} == {sum((own.pre_steps, own.self_steps)[:s["stage"]]) + s["step"]
                                             for s in states}


def test_classes_that_nobody_has_count_in_no_mean():
    """Two classes of which one is nowhere, another in one of two cases."""
    one, other = np.array([[0, 1, 1, 2], [0, 1, 1, 0]]), np.array([[0, 1, 0, 2], [0, 1, 1, 0]])
    found = [overlap_of_classes(*pair, 5) for pair in zip(one, other, strict=True)]
    assert np.array_equal(found, [[2 / 3, 1, np.nan, np.nan], [1, np.nan, np.nan, np.nan]], equal_nan=True)
    assert np.array_equal(of_classes_there(found), [[2 / 3, 1], [1, 1]])
    assert np.isnan(of_classes_there([[np.nan, np.nan]])).all()


@pytest.mark.parametrize(("silent", "words"), [
    (1, "0.00 %, cosine of their features {}; without 1 case in which neither subnet finds anything, {} the first"),
    (2, "undefined, cosine of their features {}; without 2 cases in which neither subnet finds anything, {} the first"),
])
def test_subnets_that_find_nothing_do_not_agree(untrained, monkeypatch, capsys, silent, words):
    """Of the others one finds a class that the second one does not: 0."""
    own, _ = untrained("LA")
    maps = iter([{"subnet0": np.full(3, int(case >= silent)), "subnet1": np.zeros(3, int)} for case in range(2)])
    monkeypatch.setattr(subnets, "label_maps", lambda *_: next(maps))
    reproduce.main(["agreement", str(own.out), "--device", "cpu"])
    rows = measurements.read_rows(own.out / "agreement_test_last.csv", ("dice", "cosine"))
    cosine = f"{np.mean([row['cosine'] for row in rows]):.3f}"
    assert f"Dice between the subnets {words.format(cosine, rows[0]['case'])}\n" in capsys.readouterr().out
    assert np.array_equal([row["dice"] for row in rows], [*[np.nan] * silent, *[0] * (2 - silent)], equal_nan=True)


def test_trust_has_nothing_to_compare_with_where_no_case_has_a_class(untrained, monkeypatch, capsys):
    own, _ = untrained()
    (own.out / "training_cases.json").write_text(json.dumps({"unit": "voxels"}), encoding="utf-8")
    monkeypatch.setattr("evaluation.evidence.overlap_of_classes", lambda *_: [np.nan] * 3)
    with pytest.raises(SystemExit, match="2"):
        reproduce.main(["trust", str(own.out), "--device", "cpu"])
    assert "neither a label nor a prediction of its 2 cases has a class" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "column"), [("agreement", "cosine"), ("trust", "score")])
def test_the_result_of_other_cases_is_not_replaced(untrained, capsys, command, column):
    own, _ = untrained()
    path = own.out / f"{command}_val_last.csv"
    path.write_text(f"case,dice,{column},flags\nelsewhere,0.5,0.5,few parts\n", encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="2"):
        reproduce.main([command, str(own.out), "--split", "val", "--device", "cpu"])
    assert "is the result of 1 other case, and these are" in capsys.readouterr().err and path.read_bytes() == before
    path.write_text("case;dice\n", encoding="utf-8")
    (path.parent / "training_cases.json").write_text(json.dumps({"unit": "voxels"}), encoding="utf-8")
    reproduce.main([command, str(own.out), "--split", "val", "--device", "cpu", "--force"])
    assert "elsewhere" not in path.read_text(encoding="utf-8") and column in path.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("command", ("agreement", "trust"))
def test_a_run_with_classes_that_nobody_has_is_measured_by_those_that_are_there(
        recipe, runs, shallow, no_curves, phantoms, command, tmp_path):
    """The same network and data with a second class that neither labels nor predictions have."""
    run = runs.train(own := recipe("LA", pre_steps=1, self_steps=1))
    more = shutil.copytree(run, tmp_path / "more")
    state = load_tensors(run / "last.pt")
    for name, wider in registry.build(dataclasses.replace(own, num_classes=3)).state_dict().items():
        if wider.shape != (value := state["method"][name]).shape:
            never = torch.zeros_like(value[:1]) - (1e3 if value.ndim == 1 else 0)
            state["method"][name] = torch.cat([value, never])
    save_tensors(more / "last.pt", state)
    config = json.loads((more / "config.json").read_text(encoding="utf-8"))
    config["recipe"]["num_classes"] = 3
    (more / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (more / "training_cases.json").write_text(json.dumps({"unit": "voxels"}), encoding="utf-8")
    found = []
    for folder in (run, more):
        reproduce.main([command, str(folder), "--device", "cpu"])
        found.append({row["case"]: float(row["dice"]) for row in Table(folder / f"{command}_test_last.csv").rows()})
    assert found[0] == pytest.approx(found[1], abs=1e-6) and max(found[0].values()) < 1
