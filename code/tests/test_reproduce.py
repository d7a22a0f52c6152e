"""The README's evidence: what is missing and how it is made, the tables, what is measured of two subnets."""
import json
import shlex
import shutil

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import reproduce
import train_ACDC
import train_LA
from dataloaders.augment import resize_nearest
from evaluation import agreement as subnets
from evaluation import plots, tables
from evaluation.inference import segment
from evaluation.report import write_rows
from reproduce import Run
from runtime.errors import InputError
from runtime.files import ROOT, load_tensors, save_tensors
from training.recipe import command_line

SCRIPTS = {"train_ACDC.py": train_ACDC, "train_LA.py": train_LA}
BASE = [0.5, 0.6, 0.7, 0.4, 0.3]        # Dice of five patients


def write(results, name, seed, gain, views=(), best=0.0, hd95=5.0):
    """A tested run of one class: patient i has Dice BASE[i] + gain(i); the views 0.01 and 0.02 less."""
    run = Run(name, seed)
    run.kept(results).mkdir(parents=True, exist_ok=True)
    for checkpoint in run.protocol.checkpoints:
        rows = []
        for patient, dice in enumerate(BASE):
            values = {"dice": dice + gain(patient) + best * (checkpoint == "best"), "jaccard": 0.5, "hd95": hd95,
                      "asd": 1.0}
            row = {"case": f"patient{patient}_frame01", "class": 1, **values}
            for less, view in enumerate(views):
                row |= {f"{view}_{key}": value - 0.01 * less * (key == "dice") for key, value in values.items()}
            rows.append(row)
        write_rows(run.table(results, checkpoint), rows)


@pytest.fixture
def results(tmp_path):
    """Two seeds of the baseline, three of CML, the third better than all: it has no partner in the baseline."""
    folder = tmp_path / "results"
    for seed, gain in ((1337, 0), (1338, 0.02)):
        write(folder, "ACDC-supervised", seed, lambda _, gain=gain: gain)
    for seed, gain in ((1337, 0.1), (1338, 0.08), (1339, 0.24)):
        write(folder, "ACDC-cml", seed, lambda patient, gain=gain: gain + 0.01 * patient,
              ("fused", "subnet0", "subnet1"), best=0.01)
    return folder


def test_a_row_is_mean_and_deviation_over_seeds_and_is_paired_where_seeds_are_shared(results):
    lines, headings = reproduce.table_lines(results, reproduce.TABLES[0])
    assert [line[0] for line in lines] == ["supervised", "CML"]
    assert {len(line) for line in lines} == {len(headings) + 1}
    supervised, cml = (dict(zip(headings, line[1:], strict=True)) for line in lines)
    assert supervised["seeds"] == "2" and cml["seeds"] == "3"
    assert supervised["Dice (%) ↑"] == "51.00 ± 1.41"       # 50 and 52
    assert cml["Dice (%) ↑"] == "66.00 ± 8.72"              # 62, 60 and 76
    assert cml["95HD (voxel) ↓"] == "5.00 ± 0.00" and cml["empty"] == "0 of 15"
    assert cml["subnet 0: Dice"] == "65.00 ± 8.72" and cml["subnet 1: Dice"] == "64.00 ± 8.72"
    assert supervised["subnet 0: Dice"] == supervised["Δ to supervised (p)"] == "–"
    assert cml["`best`: Dice"] == "67.00 ± 8.72"
    # seeds 1337 and 1338: patient i gains 10 + i and 6 + i points; all five better, p = 2 / 32
    assert cml["Δ to supervised (p)"] == "+10.00 (0.062)" and cml["Δ to CPS (p)"] == "–"


def test_the_terms_table_is_of_one_seed(results):
    write(results, "ACDC-labelled", 1337, lambda patient: 0.001 * (patient + 1), ("fused", "subnet0", "subnet1"))
    lines, _ = reproduce.table_lines(results, reproduce.TABLES[1])
    assert [line[0] for line in lines] == ["labelled term", "CML"]
    assert [line[2] for line in lines] == ["50.30", "62.00"] and lines[1][-1] == "+11.70 (0.062)"


def test_undefined_distances_are_counted_and_show_as_such(results):
    write(results, "ACDC-cfl", 1337, lambda _: 0, hd95=float("nan"))
    lines, _ = reproduce.table_lines(results, reproduce.TABLES[0])
    cfl = next(line for line in lines if line[0] == "CFL")
    assert cfl[4] == "–" and cfl[6] == "5 of 5"


def test_measurements_of_the_subnets_are_collected(results):
    for seed, dice, cosine in ((1337, 0.9, 0.25), (1338, 0.8, -0.25)):
        write_rows(Run("ACDC-cml", seed).agreement(results), [
            {"case": "a", "dice": dice, "cosine": cosine}, {"case": "b", "dice": dice - 0.1, "cosine": cosine - 0.1}])
    assert reproduce.agreement_lines(results) == [["ACDC, CML", "2", "80.00 ± 7.07", "-0.050 ± 0.354"]]
    write_rows(Run("ACDC-cml", 1338).kept(results, "pseudo_labels.csv"), [
        {"step": 200, "fused": 0.5, "subnet0": 0.4, "subnet1": 0.3, "between": 0.2}])
    assert reproduce.pseudo_label_lines(results) == [["CML, seed 1338", "200", "40.00", "30.00", "50.00", "20.00"]]
    assert "| CML, seed 1338 | 200 |" in reproduce.block(results) and "-0.050 ± 0.354" in reproduce.block(results)


# ---- README ------------------------------------------------------------------------------------------------------


def test_the_readme_shows_what_the_committed_files_say():
    assert reproduce.parts_of(ROOT / "README.md")[1] == reproduce.block(), "run python code/reproduce.py collect"
    for picture in ("figure2_mini.png", "figure6_mini.png"):
        assert (ROOT / "docs" / picture).stat().st_size < 100_000


def test_a_changed_result_changes_the_text(tmp_path):
    kept = tmp_path / "results"
    shutil.copytree(reproduce.RESULTS / "ACDC", kept / "ACDC")
    before = reproduce.block(kept)
    table = Run("ACDC-cml", 1337).table(kept, "last")
    rows = tables.read_rows(table)
    rows[0]["dice"] += 0.1
    write_rows(table, rows)
    assert reproduce.block(kept) != before


def test_collect_writes_between_the_markers_and_draws(results, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.update({path.name: figure}))
    kept = Run("ACDC-cml", 1337).kept(results)
    (kept / "log.csv").write_text("stage,step\npre,1\npre,2\nself,1\nself,2\n")
    (kept / "val.csv").write_text("stage,step,split,fused,subnet0,subnet1\npre,2,val,0.1,0.1,0.1\n"
                                  "self,1,val,0.5,0.4,0.3\nself,2,val,0.7,0.6,0.5\n")
    shutil.copytree(kept, Run("ACDC-cps", 1337).kept(results))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{reproduce.MARKERS[0]}\nold\n{reproduce.MARKERS[1]}\nafter\n")
    reproduce.main(["collect", "--results", str(results), "--readme", str(readme)])
    once = readme.read_text()
    assert once.startswith("before\n") and once.endswith("\nafter\n") and "old" not in once
    assert reproduce.block(results) in once and "(docs/figure2_mini.png)" in once
    reproduce.main(["collect", "--results", str(results), "--readme", str(readme)])
    assert readme.read_text() == once
    panels = drawn["figure2_mini.png"].axes
    assert [axes.get_title() for axes in panels] == ["CPS", "CML"]
    curves = {line.get_label(): line.get_xydata().tolist() for line in panels[1].lines}
    assert curves == {"fused": [[3, 50], [4, 70]], "subnet0": [[3, 40], [4, 60]], "subnet1": [[3, 30], [4, 50]]}
    [axes] = drawn["figure6_mini.png"].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["supervised", "CPS", "CML"]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([51, 62, 66])


def test_pictures_are_files(tmp_path):
    (tmp_path / "log.csv").write_text("stage,step\nself,1\n")
    (tmp_path / "val.csv").write_text("stage,step,split,student,teacher\nself,1,val,0.5,0.4\n")
    plots.training_processes(tmp_path / "a.png", {"mean teacher": tmp_path})
    plots.bars(tmp_path / "b.png", {"ACDC": {"CPS": [70.0, 72.0]}, "LA": {"CML": [30.0]}})
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("a.png", "b.png"))


def test_a_readme_without_markers_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("nothing\n")
    with pytest.raises(InputError, match=r"README\.md lacks the lines .*put them"):
        reproduce.parts_of(tmp_path / "README.md")


# ---- runs --------------------------------------------------------------------------------------------------------


def listed(capsys, results):
    reproduce.main(["list", "--results", str(results)])
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith(("missing", "there"))]


def test_each_missing_run_is_listed_with_the_command_that_makes_it(tmp_path, capsys):
    folders = []
    for line in listed(capsys, tmp_path):
        python, script, *options = shlex.split(line.split(maxsplit=2)[2])
        script = SCRIPTS[script.removeprefix("code/")]
        recipe = command_line(script.PRESETS, "", options)
        assert python == "python" and recipe.preset == "mini"
        folders.append(recipe.folder(script.PRESETS).name)
    assert len(set(folders)) == len(folders) == 21
    assert folders == [run.kept(tmp_path).name for run in reproduce.runs_of()]
    assert {"supervised_7_seed1339_mini", "cml_7_seed1337_mini_lambda_unsup0_lambda_dis0", "cfl_8_seed1337_mini",
            "cml_7_seed1337_mini_fusionlogits_networkreleased"} <= set(folders)


def test_what_is_there_is_not_missing_unless_a_table_lacks(results, capsys):
    def lines():
        return [line.split(maxsplit=2) for line in listed(capsys, results) if "ACDC-cml " in line]
    assert [status for status, *_ in lines()] == ["there", "missing"] * 3
    folder = "model/ACDC/cml_7_seed1337_mini"
    assert lines()[1][2] == (f"python code/reproduce.py agreement {folder} --split val && "
                             f"python code/reproduce.py publish {folder}")
    Run("ACDC-cml", 1338).table(results, "best").unlink()
    command = next(text for status, _, text in lines() if "train_ACDC" in text)
    assert command.endswith("--seed 1338")
    assert "Not run yet: ACDC-supervised 1339; " in reproduce.block(results)
    assert "ACDC-cml 1338; " in reproduce.block(results)


def test_an_unknown_experiment_is_named():
    with pytest.raises(InputError, match="'CML' is unknown: choose of ACDC-supervised"):
        reproduce.runs_of(["CML"])


def test_a_published_run_tells_no_path_of_its_machine(tmp_path):
    run = tmp_path / "cml_run"
    run.mkdir()
    config = {"dataset": "ACDC", "recipe": {"data_dir": "/mnt/me/ACDC", "out": str(ROOT / "model/x"), "beta": 0.5},
              "command": f"python {ROOT}/code/train_ACDC.py --data-dir /mnt/me/ACDC --out={tmp_path} --beta 1/2"}
    (run / "config.json").write_text(json.dumps(config))
    (run / "log.csv").write_text("stage,step\n")
    reproduce.main(["publish", str(run), "--results", str(tmp_path / "kept")])
    kept = tmp_path / "kept/ACDC/cml_run"
    assert sorted(path.name for path in kept.iterdir()) == ["config.json", "log.csv"]
    assert json.loads((kept / "config.json").read_text()) == {
        "dataset": "ACDC", "recipe": {"data_dir": "ACDC", "out": "model/x", "beta": 0.5},
        "command": f"python code/train_ACDC.py --data-dir ACDC --out={tmp_path.name} --beta 1/2"}


def test_an_experiment_runs_from_the_scans_to_its_kept_tables(phantoms, tmp_path, narrow, no_curves, monkeypatch,
                                                             capsys):
    options = (f"--labeled 2 --labeled-batch 2 --unlabeled-batch 2 --patch-size 32 32 --pre-steps 1 --self-steps 2 "
               f"--eval-every 1 --workers 0 --device cpu --data-dir {phantoms('ACDC')} --out {tmp_path / 'tiny'}")
    monkeypatch.setattr(reproduce, "EXPERIMENTS", {"ACDC-tiny": reproduce.Experiment("tiny", options, (7,))})
    command = ["run", "ACDC-tiny", "--seeds", "7", "--results", str(tmp_path / "kept")]
    reproduce.main(command)
    kept = tmp_path / "kept/ACDC/tiny"
    assert sorted(path.name for path in kept.iterdir()) == [
        "agreement_val_last.csv", "config.json", "log.csv", "test_val_best.csv", "test_val_last.csv", "val.csv"]
    assert json.loads((kept / "config.json").read_text())["recipe"]["seed"] == 7
    monkeypatch.setattr(train_ACDC, "main", None)
    capsys.readouterr()
    reproduce.main(command)
    assert "is there" in capsys.readouterr().out


# ---- two subnets -------------------------------------------------------------------------------------------------


@pytest.fixture
def untrained(recipe, runs, narrow):
    """untrained(**changes) -> its recipe and loop; last.pt holds large random weights, which see every class."""
    def make(**changes):
        own = recipe("ACDC", **changes)
        loop = runs.loop(own)
        for parameter in loop.method.parameters():
            torch.nn.init.normal_(parameter)
        save_tensors(own.out / "last.pt", {"method": loop.method.state_dict(), "step": 0})
        return own, loop
    return make


def test_one_network_twice_agrees_with_itself(untrained):
    own, _ = untrained(network="released")
    for row in subnets.agreement(own.out, "val", "last", "cpu"):
        assert row["dice"] == 1 and row["cosine"] == pytest.approx(1)


def test_agreement_is_that_of_label_maps_and_features_in_evaluation_mode(untrained, runs):
    own, loop = untrained()
    data = runs.data(own)
    reproduce.main(["agreement", str(own.out), "--split", "val", "--device", "cpu"])
    *_, row = tables.read_rows(own.out / "agreement_val_last.csv", ("dice", "cosine"))
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


def test_a_method_with_one_network_has_no_agreement(untrained):
    own, _ = untrained(method="supervised")
    with pytest.raises(InputError, match="method is supervised, expected one with two subnets"):
        subnets.agreement(own.out, "val", "last", "cpu")


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
    monkeypatch.setattr(subnets, "SLICES", 2)
    some, again = (subnets.hidden_labels(own, runs.data(own))[0] for _ in range(2))
    assert some.shape[1] == 2 < everything.shape[1] and torch.equal(some, again)


def test_pseudo_labels_are_measured_step_by_step(untrained, runs, monkeypatch):
    """Against what subnet 0 itself says at the second snapshot: it is perfect there, not so at the first."""
    own, loop = untrained()
    (own.out / "snapshots").mkdir()
    loop.stage, loop.step = 1, 3
    loop.folder.save_checkpoint(state := {"method": loop.method.state_dict(), "stage": 1, "step": 3})
    shutil.copy(own.out / "checkpoint.pt", own.out / "snapshots/a.pt")
    torch.manual_seed(1)
    earlier = {key: torch.randn_like(value) if value.is_floating_point() and "running" not in key else value
               for key, value in state["method"].items()}
    save_tensors(own.out / "snapshots/b.pt", {"method": earlier, "stage": 0, "step": 2})
    images, _ = subnets.hidden_labels(own, runs.data(own))
    views = segment(loop.method, images, own)
    said = {view: probs.argmax(0).numpy() for view, probs in views.items()}
    monkeypatch.setattr(subnets, "hidden_labels", lambda recipe, data: (images, said["subnet0"]))
    reproduce.main(["pseudo-labels", str(own.out), "--device", "cpu"])
    first, second = tables.read_rows(own.out / "pseudo_labels.csv", ("step", "fused"))
    assert list(second) == ["step", "fused", "subnet0", "subnet1", "between"]
    assert [first["step"], second["step"]] == [2, own.pre_steps + 3]
    assert second["subnet0"] == 1 > first["subnet0"]
    assert second["subnet1"] == second["between"] < 1
    assert second["fused"] == pytest.approx(subnets.mean_overlap(said["fused"], said["subnet0"], 4), abs=1e-6)


def test_a_run_without_snapshots_says_how_to_have_some(untrained):
    own, _ = untrained()
    with pytest.raises(InputError, match=r"snapshots has no \*\.pt: copy checkpoint\.pt there"):
        subnets.pseudo_labels(own.out, "cpu")


def test_pseudo_labels_come_from_the_checkpoints_that_training_writes(recipe, runs, narrow, no_curves):
    own = recipe("ACDC", pre_steps=1, self_steps=2, checkpoint_steps=1)
    runs.train(own)
    (own.out / "snapshots").mkdir()
    for name in ("checkpoint.pt", "checkpoint_prev.pt"):
        shutil.copy(own.out / name, own.out / "snapshots" / name)
    rows = subnets.pseudo_labels(own.out, "cpu")
    states = [load_tensors(path) for path in (own.out / "snapshots").glob("*.pt")]
    assert rows[-1]["step"] == own.pre_steps + own.self_steps
    assert {row["step"] for row in rows} == {sum((own.pre_steps, own.self_steps)[:s["stage"]]) + s["step"]
                                             for s in states}
