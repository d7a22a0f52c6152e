"""The active-learning table: which patients are labelled in each round, what is kept, and what the table shows."""
from types import SimpleNamespace

import numpy as np
import pytest

import reproduce
from dataloaders.acdc import ACDC
from evaluation import evidence, trust
from reproduction import active, document
from reproduction.active import NAME, ActiveRun
from runtime.csv_table import Table
from runtime.errors import InputError
from training import fit
from training.run_folder import read_content

TINY = ("--patch-size", "32", "32", "--labeled-batch", "2", "--unlabeled-batch", "2", "--pre-steps", "1",
        "--self-steps", "1", "--workers", "0")


@pytest.fixture
def small(monkeypatch):
    """One patient at first, one more in each of two rounds, one draw, one seed."""
    for name, value in {"START": 1, "STEP": 1, "DRAWS": 1, "REPEATS": 1,
                        "TRAIN_OPTIONS": (*active.TRAIN_OPTIONS, *TINY)}.items():
        monkeypatch.setattr(active, name, value)


@pytest.mark.slow
def test_rounds_add_to_the_patients_that_are_labelled_and_go_on(small, shallow, no_curves, phantoms, tmp_path,
                                                                monkeypatch, capsys):
    scans, results, model = tmp_path / "scans", tmp_path / "results", tmp_path / "model"
    scans.mkdir()
    (scans / "ACDC").symlink_to(phantoms("ACDC"))
    before = {path: path.stat().st_mtime_ns for path in phantoms("ACDC").rglob("*")}

    def run():
        reproduce.main(["run", NAME, "--data-dir", str(scans), "--results", str(results), "--out", str(model),
                        "--device", "cpu"])
        return active.there([results])
    kept = run()
    assert list(kept) == active.cells() and len(kept) == 7
    first = kept[ActiveRun(1337, "start", 0, 0)][0]
    everybody = {path.stem.split("_frame")[0] for path in (phantoms("ACDC") / "data/slices").iterdir()}
    for cell, (patients, dice) in kept.items():
        assert patients[:1] == first and len(set(patients)) == len(patients) == 1 + cell.number
        assert set(patients) <= everybody and 0 <= dice <= 100
        if cell.number == 2:
            assert patients[:2] == kept[cell._replace(number=1)][0]
        content = read_content(model / "ACDC" / NAME / cell.folder / "run")
        assert {ACDC.patient_of(name) for name in content.cases["labelled"]} == set(patients)
    assert {path: path.stat().st_mtime_ns for path in phantoms("ACDC").rglob("*")} == before
    row = active.rounds_table([results]).splitlines()[2]
    assert row.startswith("| look | ") and f"{kept[ActiveRun(1337, 'look', 0, 2)][1]:.2f}" in row

    table = Table(results / f"{NAME}.csv")      # rows that a kill lost come back from the runs
    table.write(table.rows()[:4])
    monkeypatch.setattr(fit.Fit, "run", None)   # nothing is trained again
    assert run() == kept
    capsys.readouterr()
    reproduce.main(["list", NAME, "--results", str(results)])
    assert "7 of 7 runs are there" in capsys.readouterr().out
    reproduce.main(["plan", NAME, "--results", str(results)])
    assert f"run {NAME}" not in capsys.readouterr().out


@pytest.mark.parametrize(("by", "expected"), [("look", {"p6", "p3"}), ("spread", {"p3", "p7"})])
def test_a_network_chooses_among_those_without_a_label(monkeypatch, by, expected):
    """By look those with the highest score of any volume; by spread the farthest of the half that look ranks first."""
    scores = {"p2": (0, 1), "p3": (0, 8), "p4": (2, 0), "p5": (3, 3), "p6": (9, 0), "p7": (4, 4)}      # of two volumes
    places = {"p0": 0, "p1": 1, "p2": 90, "p3": 10, "p4": 80, "p5": 70, "p6": 5, "p7": 40}     # of the bottleneck

    def volumes(data, patients=None):
        return {name: [(name, (name, number)) for number in range(2)] for name in patients or scores}
    monkeypatch.setattr(active, "load_run", lambda run, device: SimpleNamespace(
        run=run, data=SimpleNamespace(path_of=str), method=None, recipe=None))
    monkeypatch.setattr(active, "volumes_of", volumes)
    monkeypatch.setattr(active, "read_geometry", lambda path: None)
    monkeypatch.setattr(trust, "read_training_cases", lambda run, recipe: None)
    monkeypatch.setattr(evidence, "judged", lambda one, image, *_: ([{"score": scores[image[0]][image[1]]}],))
    monkeypatch.setattr(active, "bottleneck", lambda method, image, recipe: np.array([float(places[image[0]])]))
    chosen = active.more_patients(ActiveRun(1337, by, 0, 1), None, list(places), ["p0", "p1"], "cpu")
    assert set(chosen) == expected


def test_scans_that_moved_are_linked_anew(tmp_path):
    data, scans = tmp_path / "data", tmp_path / "scans"
    (scans / "data").mkdir(parents=True)
    (scans / "train_slices.list").write_text("patient001_frame01_slice_1\n", encoding="utf-8")
    data.mkdir()
    for place in (scans, scans, tmp_path / "moved"):
        if not place.exists():
            scans.rename(place)
        active.link_scans(data, place)
        assert [path.name for path in data.iterdir()] == ["data"] and (data / "data").resolve() == place / "data"


def test_random_choices_are_seeded_and_differ_from_draw_to_draw():
    everybody = [f"p{number}" for number in range(60)]
    first, other = (active.more_patients(ActiveRun(1337, "random", draw, 1), None, everybody, everybody[:3], "cpu")
                    for draw in (0, 1))
    assert first != other and len(set(first)) == active.STEP and not set(first) & set(everybody[:3])
    assert first == active.more_patients(ActiveRun(1337, "random", 0, 1), None, everybody, everybody[:3], "cpu")


def write(results, rows):
    results.mkdir(exist_ok=True)
    Table(results / f"{NAME}.csv").write([{"seed": seed, "by": by, "draw": draw, "round": number, "patients": "a b",
                                           "dice": dice} for (seed, by, draw, number), dice in rows.items()],
                                         ["seed", "by", "draw", "round", "patients", "dice"])


def test_the_table_is_the_mean_over_draws_then_seeds(tmp_path):
    assert active.rounds_table([tmp_path]) == ""
    rows = {(seed, "start", 0, 0): 60 + seed - 1337 for seed in (1337, 1338)}
    rows |= {(1337, "random", draw, 1): 70 + draw for draw in range(5)}
    rows |= {(1338, "random", draw, 1): 74 for draw in range(4)}
    rows |= {(seed, "look", 0, 1): 70 + 2 * (seed - 1337) for seed in (1337, 1338, 1339)}
    write(tmp_path, rows)
    look, spread, random = (line.split(" | ") for line in active.rounds_table([tmp_path]).splitlines()[2:])
    assert [cell.strip(" |") for cell in look] == ["look", "60.50 ± 0.71 (2 of 3 seeds)", "72.00 ± 2.00", "–"]
    assert spread[2].strip() == "–" and random[2].strip() == "72.00 (1 of 3 seeds)"    # of 1338 a draw is missing
    text = f"<!-- collect: rounds {NAME} -->\nold\n<!-- collected -->"
    assert "72.00 ± 2.00" in document.filled(text, "docs/x.md", [tmp_path])


def test_a_damaged_table_is_one_line(tmp_path):
    (tmp_path / f"{NAME}.csv").write_text("seed,by\n1,look\n", encoding="utf-8")
    with pytest.raises(InputError, match=f"{NAME}.csv in .* is none that"):
        active.there([tmp_path])
