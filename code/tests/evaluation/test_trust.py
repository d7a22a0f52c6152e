"""Which result to look at first: what is measured, beside which training cases, and what the order is worth."""
import csv
import json
import math
import shutil
from dataclasses import asdict, replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import reproduce
import train_own
from dataloaders.components import largest_component
from dataloaders.folds import write_folds
from dataloaders.own import Own
from evaluation import calibration, evidence, trust
from evaluation.metrics import overlap_metrics
from evaluation.predictions import Predictions
from imaging.preparation import write_case
from imaging.preprocess import Geometry
from imaging.survey import alike_pairs
from method import Method
from runtime.errors import InputError
from runtime.records import write_record
from training.trained import Trained

NAMES = "atrium", "vessel"
CERTAIN = trust.Evidence([0.1, 0.1], 0.1, [0.9, 0.9], [list(np.linspace(-1, 1, 9))])
TRAINING = trust.TrainingCases(
    "ml", {"a": (70.0, 5.0), "b": (124.0, 9.0)}, {"a": (1, 2), "b": (1, 1)},
    {"a": (False, True), "b": (False, False)},
    {name: [list(np.linspace(-1, 1, 9) + shift)] for name, shift in {"a": 0, "b": 0.1, "c": 0.15}.items()},
    {"a": (1.0, 1.0, 2.0), "b": (1.2, 1.2, 2.0)})


def rows_of(found, own=CERTAIN, training=TRAINING, voxel_size=(1, 1, 2)):
    return trust.case_rows("p", NAMES, found, own, training, 0.001, np.array(voxel_size))


GOOD = [(100_000, 1, False), (7_000, 2, True)]


def test_a_case_like_the_labelled_ones_has_no_flags_and_its_uncertainty_for_score():
    rows = rows_of(GOOD)
    assert [row["flags"] for row in rows] == ["", ""]
    assert [row["score"] for row in rows] == pytest.approx([0.1, 0.1])
    assert [row["ml"] for row in rows] == [100, 7] and [row["voxel_size"] for row in rows] == [1, 1]


@pytest.mark.parametrize(("found", "more", "score", "words"), [
    ([(100, 1, False), GOOD[1]], {}, 2.1, "atrium 0.1 ml, labelled cases have 70 to 124"),
    ([(34_000, 1, False), GOOD[1]], {}, 2.1, "atrium 34 ml"),
    ([(36_000, 1, False), GOOD[1]], {}, 0.1, ""),
    ([GOOD[0], (18_100, 1, True)], {}, 2.1, "vessel 18 ml, labelled cases have 5 to 9"),
    ([(100_000, 2, False), GOOD[1]], {}, 0.1, "atrium in 2 parts, labelled cases have 1 at most"),
    ([(100_000, 1, True), GOOD[1]], {}, 1.1, "atrium touches the border"),
    (GOOD, {"own": CERTAIN._replace(quantiles=[list(np.linspace(1, -1, 9))])}, 1.1, "as far from training"),
    (GOOD, {"own": CERTAIN._replace(quantiles=[list(np.linspace(-1, 1, 9) - 0.15)])}, 0.1, ""),
    (GOOD, {"voxel_size": (1, 1, 2.5)}, 1.1, "voxels of 1 x 1 x 2.5 mm, in training 1 to 1.2 x 1 to 1.2 x 2"),
    (GOOD, {"voxel_size": (0.8, 1, 2)}, 1.1, "voxels of 0.8 x 1 x 2 mm"),
    (GOOD, {"voxel_size": (1.3, 1.1, 2.1)}, 0.1, ""),
    (GOOD, {"own": CERTAIN._replace(agreement=[0.5, 0.9])}, 1.2, "views agree on atrium by 50 %"),
    (GOOD, {"own": CERTAIN._replace(entropy=[0.1, 0.7])}, 1.25, "entropy of vessel 0.70")])
def test_each_fault_has_its_flag_and_no_other(found, more, score, words):
    rows = rows_of(found, **more)
    flags = {flag for row in rows for flag in row["flags"].split("; ") if flag}
    assert len(flags) == bool(words) and all(words in flag for flag in flags)
    assert rows[0]["score"] == pytest.approx(score, abs=1e-6)


def test_the_uncertainty_never_outweighs_a_flag():
    blind = trust.Evidence([0.49, math.nan], 0.49, [0.7, 0.7], CERTAIN.quantiles)
    assert 0.3 < rows_of(GOOD, blind)[0]["score"] < 1 < rows_of([(100_000, 1, True), GOOD[1]])[0]["score"]
    alone = CERTAIN._replace(agreement=None, entropy=[math.nan, math.nan])
    assert rows_of(GOOD, alone)[0]["score"] == 0 and math.isnan(rows_of(GOOD, alone)[0]["agreement"])


def test_scans_of_one_patient_do_not_make_training_scans_look_alike():
    shifts = {"a_1": 0, "a_2": 0.01, "b_1": 0.2, "b_2": 0.21}
    own = [list(np.linspace(-1, 1, 9) + 0.35)]
    record = {name: [list(np.linspace(-1, 1, 9) + shift)] for name, shift in shifts.items()}
    alone, known = (trust.TrainingCases(quantiles=record, patients=patients)
                    for patients in ({}, {name: name[0] for name in shifts}))
    assert alone.distance(own) == pytest.approx(0.14 / 0.01) and known.distance(own) == pytest.approx(0.14 / 0.2)
    assert math.isnan(trust.TrainingCases(quantiles=record, patients=dict.fromkeys(shifts, "a")).distance(own))


def test_without_a_record_nothing_is_compared():
    rows = trust.case_rows("p", NAMES, [(1, 9, True), (0, 0, False)], CERTAIN)
    assert [row["flags"] for row in rows] == ["", ""] and math.isnan(rows[0]["ml"] + rows[0]["intensities"])


# ---- what is measured ------------------------------------------------------------------------------------------


def test_a_label_map_is_measured_class_by_class():
    labels = np.zeros((20, 20, 1), np.uint8)
    labels[2:12, 2:12] = 1
    labels[15, 15] = 1              # a speck: less than a hundredth
    labels[14:18, 18:20] = 3
    labels[14:16, 2:4] = 3
    assert trust.measured(labels, 5) == [(101, 1, False), (0, 0, False), (12, 2, True), (0, 0, False)]


@pytest.mark.parametrize("mirrored", [None, 0, 1, 2])
def test_a_pair_of_organs_that_lies_the_other_way_round_is_flagged(mirrored):
    def kidneys(seed, count=2):
        rng, labels = np.random.default_rng(seed), np.zeros((40, 24, 20), np.uint8)
        for label, start in list(enumerate((4, 26), 1))[:count]:
            x, y, z = np.array((start, 8, 5)) + rng.integers(-2, 3, 3)
            labels[x:x + 8, y:y + 7, z:z + 10] = label
        return labels

    def flags(labels, cases):
        record = trust.TrainingCases(volumes={str(n): (560.0, 560.0) for n in range(cases)}, pairs={
            str(n): [[*pair, *order] for pair, order in alike_pairs(kidneys(n)).items()] for n in range(cases)})
        return trust.flags_of(trust.case_rows("p", NAMES, [(560, 1, False)] * 2, CERTAIN, record,
                                              places=trust.middles(labels, 3)))

    labels = kidneys(9) if mirrored is None else np.flip(kidneys(9), mirrored)
    assert flags(labels, 3) == ["atrium and vessel have changed sides compared with all labelled cases"] * (
        mirrored == 0)
    assert not flags(np.flip(kidneys(9), 0), 2) and not flags(kidneys(9, count=1), 3)   # two may be so by chance


def test_large_parts_that_post_processing_took_away_are_flagged():
    for size, flagged in ((3, False), (4, True)):
        decided = np.zeros((20, 20, 4), np.uint8)
        decided[2:8, 2:8], decided[12:17, 12:17] = 1, 2
        decided[10:10 + size, 2:2 + size] = 1
        kept = largest_component(decided, (1,))
        taken = trust.taken_away(decided, kept, 3)
        assert taken == [4 * size ** 2, 0]
        rows = trust.case_rows("p", NAMES, trust.measured(kept, 3), CERTAIN, taken=taken)
        words = ["other parts of atrium, 44 % of the largest one, were removed"] if flagged else []
        assert trust.flags_of(rows) == words


def network(x, lean=0.0):
    """Two views that decide by the intensity, the second with a threshold of its own."""
    views = {name: torch.stack([torch.zeros_like(x[:, 0]), 4 * (x[:, 0] - at), 4 * (x[:, 0] - 1)], 1).softmax(1)
             for name, at in (("one", 0.5), ("two", 0.7))}
    return {"fused": (views["one"] + views["two"]) / 2, **views}


network.pair = "one", "two"
RECIPE = SimpleNamespace(patch_size=(16, 16, 16), stride=(8, 8, 8), normalise="stored", half_resolution=False,
                         num_classes=3, window_weights="uniform")


@pytest.mark.parametrize(("change", "shape"), [
    ({}, (16, 16, 16)), ({"stride": (16, 16, 16)}, (32, 16, 16)),
    ({"patch_size": (16, 16), "stride": (16, 16)}, (5, 32, 16)),
    ({"patch_size": (16, 16), "stride": None}, (40, 16, 16))])
def test_agreement_is_the_dice_of_the_views_and_nothing_of_them_is_held(change, shape):
    recipe = SimpleNamespace(**vars(RECIPE) | change)
    image = torch.randn(1, *shape)
    views, own = evidence.examined(network, image, recipe, views=())
    assert list(views) == ["fused"]
    one, two = (network(image[None])[name][0].argmax(0).numpy() for name in network.pair)
    expected = [overlap_metrics(one == label, two == label)["dice"] for label in (1, 2)]
    assert own.agreement == pytest.approx(expected) and min(expected) < 1
    both, _ = evidence.examined(network, image, recipe, views=("one",))
    assert list(both) == ["fused", "one"] and torch.equal(both["fused"], views["fused"])


def test_agreement_of_overlapping_weighted_windows_and_of_three_views():
    image = torch.randn(1, 40, 16, 16)
    _, own = evidence.examined(network, image, RECIPE, views=(), weights="gaussian")
    _, other = evidence.examined(network, image, RECIPE, views=())
    assert own.agreement != other.agreement and np.allclose(own.agreement, other.agreement, atol=0.1)
    watch = evidence.Agreement("abc", 2)
    one, two = torch.tensor([[[0.9, 0.2], [0.1, 0.8]]]), torch.tensor([[[0.2, 0.2], [0.8, 0.8]]])
    watch.note({"a": one, "b": one, "c": two})
    assert watch.dice == pytest.approx([2 * (1 + 1 + 1) / (2 + 3 + 3)])
    assert evidence.Agreement("ab", 3).dice == [1, 1]


def test_entropy_is_the_mean_where_a_class_is_the_likeliest(monkeypatch):
    probs = torch.randn(4, 7, 5, 3).mul(2)[:, :]
    probs[3] = -9
    probs = probs.softmax(0)
    whole = -(probs * probs.log()).sum(0).numpy() / math.log(4)
    labels = probs.argmax(0).numpy()
    expected = [whole[labels == label].mean() for label in (1, 2)]
    for slab in (1, 30, 2 ** 20):
        monkeypatch.setattr(evidence, "SLAB", slab)
        (first, second, none), mean = evidence.entropies(probs)
        assert [first, second] == pytest.approx(expected, rel=1e-5) and math.isnan(none)
        assert mean == pytest.approx(whole[labels > 0].mean(), rel=1e-5)
    even, _ = evidence.entropies(torch.full((2, 3, 3, 3), 0.5) + torch.tensor([-1e-6, 1e-6]).view(2, 1, 1, 1))
    assert even == pytest.approx([1])


# ---- the record of training ------------------------------------------------------------------------------------


def stored(data, name):
    with h5py.File(data.path_of(name)) as file:
        return file["image"][()], file["label"][()]


def test_slices_of_one_name_and_several_sizes_are_no_volume(recipe, runs):
    own = recipe("ACDC")
    data = runs.data(own)
    split = data.split()
    scans, others = data.train_scans(split.labelled, True), data.train_scans(split.unlabelled, False)
    scans[0] = replace(scans[0], image=scans[0].image[..., 1:], label=scans[0].label[..., 1:])
    record, volumes = trust.training_cases(data, own, scans, others), set(map(data.volume_of, split.labelled))
    assert set(record.volumes) == volumes - {data.volume_of(scans[0].name)} and volumes < set(record.quantiles)


@pytest.mark.parametrize(("dataset", "changes"), [("LA", {}), ("LA", {"half_resolution": True}), ("ACDC", {}),
                                                  ("ACDC", {"normalise": "zscore"})])
def test_a_run_records_what_its_labelled_cases_have(recipe, runs, dataset, changes):
    own = recipe(dataset, **changes)
    data = runs.data(own)
    split = data.split()
    record = trust.training_cases(data, own, data.train_scans(split.labelled, True),
                                  data.train_scans(split.unlabelled, False))
    volumes = list(dict.fromkeys(map(data.volume_of, split.labelled)))
    assert record.unit == "voxels" and list(record.volumes) == list(record.components) == volumes
    assert set(record.quantiles) == {*volumes, *map(data.volume_of, split.unlabelled)} and not record.voxel_sizes
    assert record.patients == {name: name.split("_")[0] if dataset == "ACDC" else name for name in record.quantiles}
    for name in volumes:
        parts = [part for part in split.labelled if data.volume_of(part) == name]
        label = np.stack([stored(data, part)[1] for part in sorted(parts, key=lambda part: (len(part), part))])
        counts = [np.count_nonzero(label == value) for value in range(1, own.num_classes)]
        assert record.volumes[name] == pytest.approx(counts, rel=0.2 if own.half_resolution else 0)
        if dataset == "ACDC":
            for value, count in enumerate(counts, 1):
                largest = largest_component((label == value).astype(np.uint8)).sum()
                assert record.components[name][value - 1] == 1 or largest < 0.99 * count or not count
    assert trust.TrainingCases(**vars(record)).distance(record.quantiles[volumes[0]]) == 0


def test_the_record_is_read_as_it_was_written_and_says_what_is_wrong_with_another(tmp_path):
    write_record(tmp_path / trust.TRAINING, TRAINING)
    own = SimpleNamespace(num_classes=len(next(iter(TRAINING.volumes.values()))) + 1, in_channels=1)
    again = trust.read_training_cases(tmp_path, own)
    assert again.volumes == TRAINING.volumes and again.distance(CERTAIN.quantiles) == 0
    assert trust.read_training_cases(tmp_path / "nowhere", own) is None
    for text in ("[]", '{"unit": "litres"}', '{"volumes": {"a": ["much"]}}', '{"more": 1}'):
        (tmp_path / trust.TRAINING).write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=trust.TRAINING):
            trust.read_training_cases(tmp_path, own)


# ---- what the order is worth -----------------------------------------------------------------------------------


def with_weights(*runs):
    for run in runs:
        run.mkdir(parents=True)
        for checkpoint in ("last", "best"):
            (run / f"{checkpoint}.pt").write_bytes(run.name.encode())
    return [*runs]


def test_the_calibrated_dice_never_rises_with_the_score_and_is_the_mean_of_what_it_pools(tmp_path):
    points = calibration.calibrate([0, 1, 2, 2, 3], [0.9, 0.6, 0.8, 0.9, 0.1])
    assert points == ([0, 1, 2, 3], pytest.approx([0.9, 2.3 / 3, 2.3 / 3, 0.1]))
    assert calibration.estimated(points, [-5, 0.5, 2.5, 9]) == pytest.approx(
        [0.9, (0.9 + 2.3 / 3) / 2, (0.1 + 2.3 / 3) / 2, 0.1])
    runs = with_weights(tmp_path / "folds/one")
    assert calibration.read_calibration(runs) is None
    calibration.write_calibration(runs, [0, 1, 2, 2, 3], [0.9, 0.6, 0.8, 0.9, 0.1])
    assert calibration.read_calibration(runs) == (tuple(points[0]), pytest.approx(points[1]))
    for scores in ([0, 1], [3, 2, 1, 0], []):
        (tmp_path / "folds/calibration.json").write_text(json.dumps({"cases": 4, "scores": scores, "dice": [1.0] * 4}),
                                                         encoding="utf-8")
        with pytest.raises(InputError, match="calibration.json"):
            calibration.read_calibration(runs)


def test_what_is_left_when_the_worst_are_set_aside():
    dice = [0.1, 0.2, *[0.9] * 8]
    perfect, blind, wrong = range(10, 0, -1), [1] * 10, range(10)
    assert calibration.set_aside(perfect, dice) == pytest.approx([7.4 / 9, 0.9, 0.9])
    assert calibration.set_aside(blind, dice) == pytest.approx([0.75] * 3)
    assert calibration.set_aside(wrong, dice) == pytest.approx([6.6 / 9, 5.7 / 8, 4.8 / 7])
    assert calibration.set_aside([1, 0], [0.5, 1]) == [1, 1, 1]
    found = calibration.worth(perfect, blind, sorted(np.random.default_rng(0).random(10)))
    assert found["score"][0] == pytest.approx(-1) and found["score"][1] < 0.01
    assert math.isnan(found["entropy"][0]) and len(set(found["random"][2])) == 1


# ---- predictions.csv -------------------------------------------------------------------------------------------


def noted(folder, number, case, score, mark="m"):
    (folder / f"{case}.nii.gz").touch()
    table = Predictions(folder, number)
    table.note([{"case": case, "class": label, "flags": "odd; odder" if score > 1 else "", "score": score}
                for label in (1, 2)], f"{case}.nii.gz", mark)
    return table


def test_the_table_has_the_cases_of_all_processes_and_of_killed_ones(tmp_path):
    first = Predictions(tmp_path)
    for number, case, score in ((0, "a", 0.5), (1, "b", 3.0), (2, "c", 2.0), (1, "d", 0.7)):
        noted(tmp_path, number, case, score)
    with (tmp_path / ".predictions_2.csv").open("a", encoding="utf-8") as file:
        file.write("e,1,,4.0,e.nii.gz,m\nf,1")      # killed between two rows, and within one
    (tmp_path / "e.nii.gz").touch()
    again = Predictions(tmp_path)
    assert all(again.has(case, "m", 2) for case in "abcd") and not again.has("a", "n", 2) and not again.has("e", "m", 2)
    (tmp_path / "d.nii.gz").unlink()
    rows = first.finish(([0, 4], [1.0, 0.0]))
    assert list(rows) == [*"ebca"] and [row["look"] for row in rows["b"]] == [2, 2]
    assert rows["b"][0]["estimated_dice"] == "0.25" and not list(tmp_path.glob(".*"))
    assert first.told({*"abc"}) == ["look at b: odd; odder", "look at c: odd; odder",
                                   f"{tmp_path / 'predictions.csv'} has all cases ranked"]
    assert first.told({"a"}) == [f"no case is flagged; {tmp_path / 'predictions.csv'} has them ranked"]
    assert first.told(set()) == []      # all were bad
    assert Predictions(tmp_path).finish() and "estimated_dice" not in Predictions(tmp_path).cases["a"][0]


def test_cases_are_still_known_when_a_spreadsheet_has_made_numbers_of_their_names(tmp_path):
    for case in ("001", "02_03", "p1"):
        noted(tmp_path, 0, case, 0.5)
    Predictions(tmp_path).finish()
    path = tmp_path / "predictions.csv"
    text = path.read_text(encoding="utf-8").replace(",001,", ",1,").replace(",02_03,", ",203,")
    assert ",1,1," in text and ",203,1," in text
    path.write_text(text.replace(",p1.nii.gz", ",p1_rtstruct.dcm"), encoding="utf-8")
    (tmp_path / "p1_rtstruct.dcm").touch()
    table = Predictions(tmp_path)
    assert all(table.has(case, "m", 2) for case in ("001", "02_03", "p1"))
    noted(tmp_path, 0, "001", 2.0)
    assert list(Predictions(tmp_path).finish()) == ["001", "02_03", "p1"]


# ---- planted failures ------------------------------------------------------------------------------------------


class Threshold(Method):
    """A network that takes what is bright for the organ, in two views that differ a little."""

    pair = "one", "two"

    def predict(self, x):
        views = {name: (20 * torch.stack([at - x[:, 0], x[:, 0] - at], 1)).softmax(1)
                 for name, at in (("one", 1.0), ("two", 1.1))}
        return {"fused": (views["one"] + views["two"]) / 2, **views}


def organ(seed, sides=(1.0, 1.0, 1.0), shown=True, scanner=lambda image: image):
    """Prepared scan of a bright ball of 3 cm in a 4 cm field, its label, and how it lies on its own grid."""
    rng = np.random.default_rng(seed)
    shape = [round(40 / side) for side in sides]
    space = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    label = sum((x / r) ** 2 for x, r in zip(space, rng.uniform(0.6, 0.7, 3), strict=True)) < 1
    image = scanner(np.where(label & shown, 2.0, 0.0) + rng.normal(0, 0.1, shape)).astype(np.float32)
    affine = np.diag([*sides, 1.0])
    geometry = Geometry(shape, affine.tolist(), [[0, 1], [1, 1], [2, 1]], shape, [[0, n] for n in shape], list(sides))
    return image, label.astype(np.uint8), geometry


CASES = {**{f"train{number}": {} for number in range(5)}, "good0": {}, "good1": {}, "good2": {},
         "good3": {}, "empty": {"shown": False}, "scanner": {"scanner": lambda image: 0.7 * image + 0.4},
         "voxels": {"sides": (1.0, 1.0, 2.5)}}


@pytest.fixture
def planted(tmp_path):
    """A run whose test cases have planted failures."""
    for seed, (name, how) in enumerate(CASES.items()):
        image, label, geometry = organ(seed, **how)
        (tmp_path / "data" / name).mkdir(parents=True)
        write_case(tmp_path / "data" / name / "mri_norm2.h5", image, label,
                   attributes={"geometry": json.dumps(asdict(geometry))})
    for role in ("train", "test"):
        names = [name for name in CASES if name.startswith("train") == (role == "train")]
        (tmp_path / f"data/{role}.list").write_text("\n".join(names), encoding="utf-8")
    recipe = train_own.OwnRecipe(data_dir=tmp_path / "data", labeled=5, patch_size=(32, 32, 32), stride=(16, 16, 16),
                                 keep_largest=(1,))
    data = Own(recipe)
    (tmp_path / "run").mkdir()
    write_record(tmp_path / "run" / trust.TRAINING, trust.training_cases(
        data, recipe, data.train_scans(data.split().labelled, True), []))
    return Trained(tmp_path / "run", recipe, Threshold(torch.nn.Identity()), data, None)


def test_planted_failures_come_first_and_nothing_else_is_flagged(planted):
    rows = {row["case"]: row for row in evidence.examined_cases({"run": planted}, "test")["run"]}
    assert list(rows)[0] == "empty" and set(list(rows)[:3]) == {"empty", "scanner", "voxels"}
    assert rows["empty"]["flags"].startswith("class 1 0 ml, labelled cases have ") and rows["empty"]["dice"] == 0
    assert "as far from training" in rows["scanner"]["flags"] and "voxels of 1 x 1 x 2.5 mm, in training 1 x 1 x 1" in (
        rows["voxels"]["flags"])
    assert all(row["flags"] == "" and row["dice"] > 0.95 for name, row in rows.items() if name.startswith("good"))
    record = trust.read_training_cases(planted.run, planted.recipe)
    assert record.unit == "ml" and all(5 < volume < 15 for volume, in record.volumes.values())


def write_config(run, **recipe):
    (run / "config.json").write_text(json.dumps({"dataset": "own", "recipe": recipe}), encoding="utf-8")


def test_reproduce_says_what_the_order_is_worth_and_calibrates_on_folds(planted, tmp_path, monkeypatch, capsys):
    folds, lr = tmp_path / "mine_folds", {"fold1": 0.01, "fold2": 0.01}
    write_folds(tmp_path / "data", {"good1": 1}, 2)
    for number in (1, 2):
        run = shutil.copytree(planted.run, folds / f"fold{number}")
        (run / "last.pt").touch()
        write_config(run, fold=f"{number}/2")
    monkeypatch.setattr(reproduce, "load_run", lambda run, *_: planted._replace(
        run=run, recipe=replace(planted.recipe, lr=lr.get(run.name, 0.01))))
    reproduce.main(["trust", str(folds)])
    told = capsys.readouterr().out
    assert "mine_folds: 14 cases, Dice " in told and "by random" in told and "Spearman with Dice -0." in told
    with (folds / "fold2/trust_test_last.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 and rows[0]["case"] == "empty" and float(rows[0]["dice"]) == 0
    scores, dice = calibration.read_calibration([folds / "fold1"])
    assert dice[-1] == pytest.approx(0) and dice[0] > 0.95 and list(dice) == sorted(dice, reverse=True)

    def refused(*args):
        with pytest.raises(SystemExit, match="2"):
            reproduce.main(["trust", *map(str, args)])
        return capsys.readouterr().err
    assert "--split val: of folds, the cases of each fold are tested: leave --split out" in refused(
        folds, "--split", "val")
    lr["fold2"] = 0.5
    assert "fold2 and fold1 are runs of different recipes (lr)" in refused(folds)
    write_config(planted.run)
    (planted.run / trust.TRAINING).unlink()
    assert "training_cases.json: is not there" in refused(planted.run)


def test_runs_that_are_no_folds_are_not_calibrated_together(planted, tmp_path, capsys):
    for name, recipe in (("cml_8", {"fold": None}), ("cps_8", {}), ("fold_of_paper", {"fold": "1/2"})):
        write_config(shutil.copytree(planted.run, tmp_path / "model" / name), **recipe)
    for folder, words in ((tmp_path / "model", "no run of a fold"), (tmp_path, "config.json does not exist")):
        if folder.name == "model":
            (folder / "cml_8").rename(folder / "folds_old")
        with pytest.raises(SystemExit, match="2"):
            reproduce.main(["trust", str(folder)])
        assert words in capsys.readouterr().err
    assert not list(tmp_path.rglob(calibration.CALIBRATION))


def test_an_order_that_is_no_better_than_random_is_called_so():
    rng = np.random.default_rng(1)
    rows = [{"score": score, "entropy": math.nan, "dice": dice} for score, dice in rng.random((12, 2))]
    lines = calibration.told(rows)
    assert "no better than random" in lines[1] and "one value for all" in lines[2] and len(lines) == 4


def test_cases_of_other_weights_keep_what_their_calibration_said(tmp_path):
    for case, mark in (("a", "00000001" * 2), ("b", "00000002" * 2)):
        noted(tmp_path, 0, case, 2.0, mark)
        Predictions(tmp_path).finish(([0, 4], [1.0, 0.0]) if case == "a" else ([0, 4], [0.4, 0.2]), mark[:8])
    rows = Predictions(tmp_path).cases
    assert {case: own[0]["estimated_dice"] for case, own in rows.items()} == {"a": "0.5", "b": "0.3"}
    rows = Predictions(tmp_path).finish(None, "00000002")
    assert rows["a"][0]["estimated_dice"] == "0.5" and not rows["b"][0].get("estimated_dice")


def test_a_calibration_is_of_the_weights_it_was_made_with(tmp_path):
    runs = with_weights(tmp_path / "fold1", tmp_path / "fold2")
    calibration.write_calibration(runs, [0, 1], [0.9, 0.6], "best")
    assert calibration.read_calibration(runs) is None
    assert calibration.read_calibration(runs, "best") == ((0, 1), (0.9, 0.6))
    (runs[1] / "best.pt").write_bytes(b"trained again")
    assert calibration.read_calibration(runs, "best") is None
    assert calibration.read_calibration(runs[:1], "best") == ((0, 1), (0.9, 0.6))


def test_dice_of_folds_is_over_the_classes_that_any_of_them_has(monkeypatch):
    """Class 2 is in the cases of the first fold alone, and found there in one of two."""
    found = [([{"case": case, "score": score} for case, score in zip(cases, (1, 2), strict=True)], overlaps)
             for cases, overlaps in (("ab", [[0.8, 0.6], [0.8, 0]]), ("cd", [[0.9, math.nan], [0.5, math.nan]]))]
    monkeypatch.setattr(evidence, "_examined", lambda place, split: found[place])
    rows = evidence.examined_cases({"fold1": 0, "fold2": 1}, "test")
    assert {fold: [(row["case"], row["dice"]) for row in own] for fold, own in rows.items()} == {
        "fold1": [("b", 0.4), ("a", 0.7)], "fold2": [("d", 0.75), ("c", 0.95)]}


def test_the_p_of_an_order_is_exact_where_cases_are_few():
    """Of n! orders the worst one alone is as good as a perfect one."""
    for count in (2, 3, 4, 6):
        assert calibration.spearman(range(count), range(count)[::-1]) == pytest.approx(
            (-1, 1 / math.factorial(count)))
        assert calibration.spearman(range(count), range(count)) == pytest.approx((1, 1))
    assert calibration.spearman([0, 0, 1, 1], [1, 1, 0, 0]) == pytest.approx((-1, 1 / 6))     # ties: 4 of 24 orders
    many = np.arange(40), -np.arange(40) % 7
    assert calibration.spearman(*many) == pytest.approx(spearmanr(*many, alternative="less"))
