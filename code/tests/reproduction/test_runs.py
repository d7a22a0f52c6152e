"""What is run, skipped, resumed and reported; how a run is kept."""
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

import reproduce
import train_ACDC
from dataloaders.lists import published_list
from imaging.record import PUBLISHED, write_preprocessing
from methods import ua_mt
from reproduction import runs
from reproduction.experiments import PLACES, Experiment, Place, Row
from runtime.errors import InputError
from runtime.files import ROOT
from runtime.locks import locked

TINY = {"labeled_batch": 2, "unlabeled_batch": 2, "patch_size": (32, 32), "pre_steps": 1, "self_steps": 2,
        "eval_every": 1, "workers": 0}


def tiny(title="CML", method="cml", **changes):
    return Row(title, Experiment("ACDC", method, 2, tuple((TINY | changes).items())))


@pytest.fixture
def place():
    """place(*rows): the only place there is, called tiny, of preset mini."""
    def make(*rows):
        PLACES.clear()
        PLACES["tiny"] = Place("tiny", rows, "mini", "mini")
    there = dict(PLACES)
    yield make
    PLACES.clear()
    PLACES.update(there)        # in their order


@pytest.fixture
def arguments(phantoms, tmp_path):
    """Of `reproduce.py run`, for phantoms and folders of its own."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/ACDC").symlink_to(phantoms("ACDC"))
    return ["run", "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "model"), "--results",
            str(tmp_path / "kept"), "--device", "cpu"]


def listed(capsys, *args):
    capsys.readouterr()
    reproduce.main(["list", *args])
    return [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]


def test_a_run_of_a_script_that_was_edited_is_no_cell_of_the_paper(tmp_path, monkeypatch):
    run = runs.runs_of(["table2"])[-1]
    monkeypatch.setitem(train_ACDC.PRESETS, "paper", replace(train_ACDC.PRESETS["paper"], lambda_dis=0.5))
    runs._recipe.cache_clear()
    config = {"dataset": "ACDC", "recipe": run.recipe.complete().to_json()}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert runs.Kept(tmp_path).unlike(run) == ["lambda_dis is 0.5, not 0.1"]
    config["recipe"]["lambda_dis"] = 0.1
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert runs.Kept(tmp_path).unlike(run) == []
    with pytest.raises(InputError, match=r"^train_ACDC\.py or the file of cml was edited \(lambda_dis is 0\.5, not"):
        runs.carry_out(run, tmp_path, tmp_path)     # before it trains for days
    runs._recipe.cache_clear()


def test_a_run_of_a_methods_file_that_was_edited_is_no_cell_of_the_paper(tmp_path, monkeypatch):
    [run] = [run for run in runs.runs_of(["table1"]) if run.experiment[1:3] == ("ua_mt", 8)]
    edited = replace(ua_mt.UAMT.defaults("LA"), consistency=0.2)
    config = {"dataset": "LA", "recipe": replace(run.recipe, hyper=edited).to_json()}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setattr(ua_mt.UAMT, "defaults", lambda *_: edited)
    runs._recipe.cache_clear()
    assert runs.Kept(tmp_path).unlike(run) == ["hyper.consistency is 0.2, not 0.1"]
    runs._recipe.cache_clear()


def test_the_list_names_every_experiment_and_whether_it_is_there(results, capsys):
    lines = listed(capsys, "--results", str(results))
    assert len(lines) >= sum(len(place.rows) for place in PLACES.values())
    status = {line[1]: line[0] for line in lines}
    assert status["ACDC/cml_7_seed1337_mini"] == "there" and status["ACDC/cps_7_seed1337_mini"] == "missing"
    assert "missing LA/cml_8_seed1337 CML, 8 paper: 90.36 % Dice, 6.06 95HD, 1.68 ASD" in map(" ".join, lines)
    (results / "ACDC/cml_7_seed1337_mini/test_val_best.csv").unlink()
    lines = listed(capsys, "mini_acdc7", "--results", str(results))
    assert ["missing", "ACDC/cml_7_seed1337_mini", "CML"] in lines


@pytest.fixture
def mini_terms(monkeypatch):
    """A place of four runs, CML's among them."""
    monkeypatch.setitem(PLACES, "mini_terms", Place("terms", PLACES["table4"].rows[4:], "mini", "mini"))


def test_a_plan_has_the_missing_commands_and_their_hours(results, capsys, monkeypatch, tmp_path, mini_terms):
    monkeypatch.setattr(runs, "MODEL", tmp_path)
    folder = results / "ACDC/cml_7_seed1337_mini"
    (folder / "log.csv").write_bytes(b"stage,step,seconds\npre,1,0.9\npre,2,0.9\nself,1,1.8\nself,2,1.8\n")
    capsys.readouterr()
    reproduce.main(["plan", "mini_terms", "--results", str(results)])
    lines = capsys.readouterr().out.splitlines()
    # 400 steps at 0.9 s and 1,200 at 1.8 s: 0.7 h a run
    assert lines[0] == ("python code/train_ACDC.py mini --method cml --labeled 7 --seed 1337 --lambda-unsup 0.0 "
                        "--lambda-dis 0.0    # 0.7 h")
    assert lines[-1] == "3 runs, 2.1 hours of training, estimated from finished runs"
    run = next(run for run in runs.runs_of(["mini_acdc7"]) if run.experiment.method == "cps")
    assert runs.hours(run, (results,), tmp_path) == (pytest.approx(0.7), False)


def test_a_job_array_has_a_task_a_run_that_resumes(results, capsys):
    capsys.readouterr()
    reproduce.main(["plan", "table1", "table2", "--slurm", "--results", str(results), "--data-dir", "my scans"])
    script = capsys.readouterr().out
    names = [line.strip() for line in script.splitlines() if line.startswith("    ") and "/" in line.split()[0]]
    assert f"--array=0-{len(names) - 1}\n" in script and "LA/cml_8_seed1337" in names
    assert """run "${RUNS[$SLURM_ARRAY_TASK_ID]}" --data-dir 'my scans'\n""" in script
    for name in names[:2]:
        assert runs.named(name).name == name
    assert subprocess.run(["bash", "-n"], input=script, encoding="utf-8").returncode == 0


def test_an_experiment_runs_from_the_scans_to_its_kept_tables(place, arguments, shallow, no_curves, tmp_path, capsys,
                                                              monkeypatch):
    place(tiny())
    reproduce.main(arguments)
    [folder] = (tmp_path / "kept/ACDC").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        "agreement_val_last.csv", "config.json", "log.csv", "test_val_best.csv", "test_val_last.csv", "val.csv"]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["recipe"]["seed"] == 1337 and str(tmp_path) not in json.dumps(config)
    monkeypatch.setattr(train_ACDC, "main", None)
    capsys.readouterr()
    reproduce.main(arguments)
    assert "is there" in capsys.readouterr().out


def test_a_failure_is_reported_at_the_end_and_the_others_go_on(place, arguments, shallow, no_curves, tmp_path, capsys,
                                                                monkeypatch):
    place(tiny("refused", labeled_batch=3), tiny("broken", self_steps=3), tiny())
    train = train_ACDC.main.__wrapped__

    def main(args):
        if "3" in args[args.index("--self-steps"):][:2]:
            raise RuntimeError("out of luck")
        return train(args)
    main.__wrapped__ = main
    monkeypatch.setattr(train_ACDC, "main", main)
    with pytest.raises(SystemExit) as left:
        reproduce.main(arguments)
    assert left.value.code == 2
    refused, broken, message = capsys.readouterr().err.splitlines()[-3:]
    assert message == "error: 2 runs not done, see above; the same command tries them again"
    assert refused.startswith("not done: ACDC/cml_2_") and "so both must be even" in refused
    assert broken.startswith("not done: ACDC/cml_2_") and broken.endswith("RuntimeError: out of luck")
    assert len(list((tmp_path / "kept/ACDC").iterdir())) == 1


def test_a_test_of_weights_that_were_not_the_final_ones_is_made_again(place, arguments, shallow, no_curves, tmp_path,
                                                                      monkeypatch):
    place(tiny())
    [run] = runs.runs_of(["tiny"])
    reproduce.main(arguments)
    folder = tmp_path / "model" / run.name
    made = {path: path.read_bytes() for path in folder.glob("test_*.csv")}
    early = next(folder.glob("test_*_best.csv"), None) or next(folder.glob("test_*_last.csv"))
    early.write_text(early.read_text(encoding="utf-8").replace("0.", "0.9"), encoding="utf-8")
    os.utime(early, (0, 0))
    shutil.rmtree(tmp_path / "kept")
    reproduce.main(arguments)
    assert {path: path.read_bytes() for path in folder.glob("test_*.csv")} == made


def test_the_active_rounds_are_one_run_among_others(place, arguments, shallow, no_curves, tmp_path, capsys,
                                                    monkeypatch):
    def held(*_):
        raise InputError("active_acdc: another process holds it")
    monkeypatch.setattr(reproduce.active, "make_missing", held)
    place(tiny())
    [run] = runs.runs_of(["tiny"])
    with pytest.raises(SystemExit, match="2"):
        reproduce.main([*arguments, "active_acdc", "tiny"])
    assert "not done: active_acdc: active_acdc: another process holds it" in capsys.readouterr().err
    assert (tmp_path / "kept" / run.name / "config.json").exists()


DRIVER = """
import sys
sys.path[:0] = {path!r}
from networks import unet
unet.WIDTHS = (2, 4, 8, 16, 32)
from evaluation import plots
plots.curves = lambda run: None
from test_runs import PLACES, Place, tiny
import reproduce
PLACES.clear()
PLACES["tiny"] = Place("tiny", (tiny(self_steps=40, eval_every=40, checkpoint_steps=5),), "mini", "mini")
reproduce.main()
"""


@pytest.mark.slow
def test_a_kill_and_a_double_start_lose_nothing(arguments, tmp_path):
    """Killed while it trains; refused while another process holds the run, and by name; then it goes on to the end."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(path=[str(ROOT / "code"), os.path.dirname(__file__)]), encoding="utf-8")

    def start():
        return subprocess.Popen([sys.executable, script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                encoding="utf-8", env=os.environ | {"OMP_NUM_THREADS": "1"})

    process = start()
    end = time.monotonic() + 120
    while not list((tmp_path / "model").glob("ACDC/*/checkpoint_prev.pt")):
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    [folder] = (tmp_path / "model/ACDC").iterdir()
    assert not (folder / "last.pt").exists()
    before = (folder / "log.csv").read_text(encoding="utf-8")
    with locked(folder):
        process = start()
        _, message = process.communicate()
    assert process.returncode == 2 and f"process {os.getpid()} on " in message and "is writing into it" in message
    assert (folder / "log.csv").read_text(encoding="utf-8") == before
    process = start()
    assert (process.communicate(), process.returncode)[1] == 0
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        steps = [(row["stage"], int(row["step"])) for row in csv.DictReader(file)]
    assert steps == [("pre", 1), *(("self", step) for step in range(1, 41))]
    assert (tmp_path / "kept/ACDC" / folder.name / "test_val_last.csv").exists()


def test_a_published_run_tells_no_path_of_its_machine(tmp_path):
    run = tmp_path / "cml_run"
    run.mkdir()
    config = {"dataset": "ACDC", "recipe": {"data_dir": "/mnt/me/ACDC", "out": str(ROOT / "model/x"), "beta": 0.5},
              "command": f"python {ROOT}/code/train_ACDC.py --data-dir /mnt/me/ACDC --out={tmp_path} --beta 1/2"}
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (run / "log.csv").write_text("stage,step\n", encoding="utf-8")
    reproduce.main(["publish", str(run), "--results", str(tmp_path / "kept")])
    kept = tmp_path / "kept/ACDC/cml_run"
    assert sorted(path.name for path in kept.iterdir()) == ["config.json", "log.csv"]
    assert json.loads((kept / "config.json").read_text(encoding="utf-8")) == {
        "dataset": "ACDC", "recipe": {"data_dir": "ACDC", "out": "model/x", "beta": 0.5},
        "command": f"python code/train_ACDC.py --data-dir ACDC --out={tmp_path.name} --beta 1/2"}


# ---- a kept run is what its config.json says -----------------------------------------------------------------------


def shown(results, name):
    return runs.kept(runs.named(name), (results,))


@pytest.mark.parametrize(("moved_to", "words"), [
    ("cml_7_seed1340_mini", "seed is 1337, not 1340"), ("cps_7_seed1337_mini", "method is cml, not cps"),
    ("cml_7_seed1337_mini_lambda_dis0", "lambda_dis is 0.1, not 0.0"),
    ("cml_7_seed1337_mini_beta0.6667", "beta is 0.5, not 0.666")])
def test_a_copied_folder_is_not_the_run_of_its_new_name(results, moved_to, words, capsys):
    shutil.copytree(results / "ACDC/cml_7_seed1337_mini", results / "ACDC" / moved_to)
    assert shown(results, "ACDC/cml_7_seed1337_mini") and shown(results, f"ACDC/{moved_to}") is None
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith(f"not counted: {results / 'ACDC' / moved_to} is not the run") and words in line
    assert shown(results, f"ACDC/{moved_to}") is None and not capsys.readouterr().err      # said once


@pytest.mark.parametrize(("change", "words"), [
    ({"labeled": 2}, "labeled is 2, not 7"), ({"self_steps": 6}, "self_steps is 6, not 1200"),
    ({"patch_size": [64, 64]}, "patch_size is (64, 64), not (128, 128)"),
    ({"labeled_draw": 1}, "labeled_draw is 1, not 0"),
    ({"lr": "high"}, "lr is \"high\""), ({"unheard": 1}, "unknown fields unheard")])
def test_a_run_of_another_recipe_is_not_counted(results, change, words, capsys):
    path = results / "ACDC/cml_7_seed1337_mini/config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"recipe": config["recipe"] | change}), encoding="utf-8")
    assert shown(results, "ACDC/cml_7_seed1337_mini") is None
    assert words in capsys.readouterr().err
    path.write_text(json.dumps(config | {"dataset": "LA"}), encoding="utf-8")
    assert shown(results, "ACDC/cml_7_seed1337_mini") is None
    assert "the data set is LA, not ACDC" in capsys.readouterr().err
    path.unlink()
    assert shown(results, "ACDC/cml_7_seed1337_mini") is None
    assert "config.json does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("where", ("model", "kept"))
def test_a_finished_run_of_another_recipe_is_refused_before_work(place, arguments, tmp_path, where, capsys,
                                                                 monkeypatch):
    """Six steps with another number of labels, under the name of the run that is asked for."""
    place(tiny())
    monkeypatch.setattr(train_ACDC, "main", None)
    [run] = runs.runs_of(["tiny"])
    folder = tmp_path / where / run.name
    folder.mkdir(parents=True)
    recipe = replace(run.recipe, labeled=1, self_steps=6)
    (folder / "config.json").write_text(json.dumps({"dataset": "ACDC", "recipe": recipe.to_json()}), encoding="utf-8")
    (folder / "last.pt").write_bytes(b"weights")
    with pytest.raises(SystemExit):
        reproduce.main(arguments)
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("not done: "))
    assert str(folder) in line and "labeled is 1, not 2; self_steps is 6, not 2" in line


def test_scans_that_were_prepared_in_another_way_make_no_table(place, arguments, tmp_path, capsys, monkeypatch):
    place(tiny())
    monkeypatch.setattr(train_ACDC, "main", None)
    (tmp_path / "data/ACDC").unlink()
    (tmp_path / "data/ACDC").mkdir()
    write_preprocessing(tmp_path / "data/ACDC", replace(PUBLISHED["ACDC"], normalise="zscore"))
    with pytest.raises(SystemExit):
        reproduce.main([*arguments, "tiny", "active_acdc"])
    words = "in another way than the published ones (normalise is zscore, not minmax)"
    assert capsys.readouterr().err.count(words) == 2


@pytest.mark.parametrize(("file", "change", "refused"), [
    ("train_slices.list", lambda names: names[32:] + names[:32], True), ("test.list", lambda names: names[:-1], True),
    ("test.list", lambda names: names[::-1], False)])
def test_the_papers_recipe_on_other_cases_is_refused_before_it_trains(tmp_path, monkeypatch, file, change, refused):
    """Their result would stand beside the paper's numbers; where a list names the same cases, order is that of labels.
    """
    run = runs.runs_of(["table2"])[-1]
    (tmp_path / "data/ACDC").mkdir(parents=True)
    names = change(published_list("ACDC", file))
    (tmp_path / "data/ACDC" / file).write_text("\n".join(names), encoding="utf-8")
    monkeypatch.setattr(train_ACDC, "main", None)
    with pytest.raises(InputError if refused else AttributeError, match=rf"{file}: names other" if refused else None):
        runs.carry_out(run, tmp_path / "kept", tmp_path / "model", tmp_path / "data")


# ---- publish -------------------------------------------------------------------------------------------------------


TABLE = "case,class,dice,jaccard,hd95,asd\n"        # heading of a test's


@pytest.fixture
def finished(tmp_path):
    """finished(folder, seconds=1, **config) -> a folder with config.json, a log and a test table."""
    def make(name="model/ACDC/cml_7_seed1337", seconds=1, steps=2, tested=True, **config):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(
            {"dataset": "ACDC", "recipe": {"data_dir": "/mnt/ACDC", "seed": 1337}, "commit": "abc"} | config),
            encoding="utf-8")
        (folder / "log.csv").write_text("stage,step,seconds\n" + "".join(
            f"self,{step},{seconds}\n" for step in range(1, steps + 1)), encoding="utf-8")
        if tested:
            (folder / "test_test_last.csv").write_text(TABLE + "a,1,0.5,0.3,1,1\n", encoding="utf-8")
        return folder
    return make


def kept_files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_is_published_again_where_only_more_was_measured(finished, tmp_path):
    folder, kept = finished(), tmp_path / "kept"
    runs.publish(folder, kept)
    for name in ("agreement_test_last", "trust_val_best"):
        (folder / f"{name}.csv").write_text("case,dice\na,1\n", encoding="utf-8")
    (folder / "log.csv").open("a", encoding="utf-8").write("self,3,1\n")
    target = runs.publish(folder, kept)
    assert sorted(path.name for path in target.iterdir()) == [
        "agreement_test_last.csv", "config.json", "log.csv", "test_test_last.csv", "trust_val_best.csv"]
    assert "self,3,1" in (target / "log.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(("other", "words"), [
    ({"recipe": {"data_dir": "/mnt/mine", "seed": 1337}}, "another data_dir"),
    ({"recipe": {"data_dir": "/mnt/ACDC", "seed": 1338}}, "another seed"), ({"commit": "def"}, "another commit"),
    ({"seconds": 1.5}, "its log.csv has other rows"), ({"steps": 1, "tested": False}, "other rows, or more of them"),
    ({"steps": 0, "tested": False}, "other rows, or more of them")])
def test_another_runs_results_are_not_overwritten(finished, tmp_path, other, words):
    kept = tmp_path / "kept"
    runs.publish(finished(), kept)
    before = kept_files(kept)
    with pytest.raises(InputError, match=f"keeps another run of this name .*{words}"):
        runs.publish(finished("elsewhere/ACDC/cml_7_seed1337", **other), kept)
    assert kept_files(kept) == before


def test_a_kept_test_is_not_replaced_by_one_on_fewer_cases(finished, tmp_path):
    folder, kept = finished(), tmp_path / "kept"
    table = folder / "test_test_last.csv"
    table.write_text(TABLE + "a,1,0.5,0.3,1,1\nb,1,0.5,0.3,1,1\n", encoding="utf-8")
    runs.publish(folder, kept)
    before = kept_files(kept)
    table.write_text(TABLE + "b,1,0.5,0.3,1,1\n", encoding="utf-8")
    with pytest.raises(InputError, match="its test_test_last.csv is of other cases"):
        runs.publish(folder, kept)
    assert kept_files(kept) == before


def test_a_test_whose_copy_was_cut_short_is_not_published(finished, tmp_path):
    folder = finished()
    (folder / "test_test_last.csv").write_text(TABLE + "a,1,0.5,0.3,1,1\na,2,0.5,0.3,1,1\nb,1,0.5,0.3,1,1\n",
                                               encoding="utf-8")
    with pytest.raises(InputError, match="test_test_last.csv is not a test script's CSV .3 rows of 2 cases and 2 cl"):
        runs.publish(folder, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_damaged_weights_are_made_again_from_the_checkpoint(place, arguments, shallow, no_curves, tmp_path):
    place(tiny())
    [run] = runs.runs_of(["tiny"])
    reproduce.main(arguments)
    weights = tmp_path / "model" / run.name / "last.pt"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    shutil.rmtree(tmp_path / "kept")
    with pytest.warns(UserWarning, match="it is made again now, from the last checkpoint"):
        reproduce.main(arguments)
    assert weights.read_bytes() == whole and (tmp_path / "kept" / run.name).exists()


@pytest.mark.parametrize("dataset", ("../outside", "/tmp/outside", "a/b", "", ".."))
def test_a_data_set_that_leads_out_of_the_results_is_refused(finished, tmp_path, dataset):
    with pytest.raises(InputError, match="cannot name a folder of results"):
        runs.publish(finished(dataset=dataset), tmp_path / "kept")
    assert not (tmp_path / "kept").exists() and not (tmp_path / "outside").exists()


def test_a_run_is_published_from_where_one_stands_and_under_its_links_name(finished, tmp_path, monkeypatch):
    folder = finished()
    monkeypatch.chdir(folder)
    assert runs.publish(".", tmp_path / "kept") == tmp_path / "kept/ACDC/cml_7_seed1337"
    (tmp_path / "cml_7_seed7").symlink_to(folder)
    assert runs.publish(tmp_path / "cml_7_seed7", tmp_path / "kept") == tmp_path / "kept/ACDC/cml_7_seed7"


def test_links_and_foreign_tables_are_left_aside(finished, tmp_path, capsys):
    folder = finished()
    (tmp_path / "secret.csv").write_text("name\n", encoding="utf-8")
    (folder / "val.csv").symlink_to(tmp_path / "secret.csv")
    for name in ("patients.csv", "test_notes.csv", "log_old.csv"):
        (folder / name).write_text("name\n", encoding="utf-8")
    target = runs.publish(folder, tmp_path / "kept")
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "log.csv", "test_test_last.csv"]
    assert capsys.readouterr().out.count("left aside: ") == 4


def test_results_that_are_a_link_to_elsewhere_are_not_written(finished, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "kept/ACDC").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="leads out of"):
        runs.publish(finished(), tmp_path / "kept")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", ("log.csv", "test_test_last.csv"))
def test_a_table_in_latin_1_is_one_line(finished, tmp_path, name, capsys):
    folder = finished()
    (folder / name).write_bytes("stage,step\nété,1\n".encode("latin-1"))
    with pytest.raises(SystemExit):
        reproduce.main(["publish", str(folder), "--results", str(tmp_path / "kept")])
    [line] = capsys.readouterr().err.splitlines()
    assert f"{name}: cannot be read as UTF-8" in line


# ---- plan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("log", "config"), [
    ("stage;step\nself;1\n", {}), ("stage,step,seconds\nself,1,0,5\n", {}), ("stage,step,seconds\nself,1,fast\n", {}),
    ("stage,step,seconds\nself,1,1\n", {"recipe": 1}), (b"stage,step,seconds\n\xe9,1,1\n", {})])
def test_foreign_logs_are_left_out_of_the_hours(results, tmp_path, log, config, capsys, monkeypatch, mini_terms):
    monkeypatch.setattr(runs, "MODEL", tmp_path)
    for name, text in (("cml_7_seed1337_mini", "stage,step,seconds\npre,1,0.9\nself,1,1.8\n"), ("mine", log)):
        folder = results / "ACDC" / name
        folder.mkdir(exist_ok=True)
        (folder / "log.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    good = json.loads((results / "ACDC/cml_7_seed1337_mini/config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(good | config), encoding="utf-8")
    reproduce.main(["plan", "mini_terms", "--results", str(results)])
    said = capsys.readouterr()
    assert "2.1 hours of training" in said.out and said.err.count("left out: ") == 1 and str(folder) in said.err


def test_hours_come_from_the_runs_with_the_nearest_options(results, tmp_path):
    base = results / "ACDC/cml_7_seed1337_mini"
    (base / "log.csv").write_text("stage,step,seconds\npre,1,1\nself,1,2\n", encoding="utf-8")
    other = shutil.copytree(base, results / "ACDC/other")
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    (other / "config.json").write_text(json.dumps(config | {"recipe": config["recipe"] | {"lambda_unsup": 0.0}}),
                                       encoding="utf-8")
    (other / "log.csv").write_text("stage,step,seconds\npre,1,1\nself,1,1\n", encoding="utf-8")
    full, labelled = (runs.named(f"ACDC/cml_7_seed1399_mini{tag}") for tag in ("", "_lambda_unsup0"))
    assert runs.hours(full, (results,), tmp_path) == (pytest.approx((400 + 2400) / 3600), True)
    assert runs.hours(labelled, (results,), tmp_path) == (pytest.approx((400 + 1200) / 3600), True)


def test_an_unknown_place_is_named():
    with pytest.raises(InputError, match="'tabel1' is unknown: choose of table1, "):
        reproduce.list_runs(("tabel1",))
