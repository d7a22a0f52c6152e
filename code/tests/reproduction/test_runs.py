"""What is run, skipped, resumed and reported; how a run is kept."""
import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import reproduce
import train_ACDC
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
def place(monkeypatch):
    """place(*rows): the only place there is, called tiny, of preset mini."""
    def make(*rows):
        for name in list(PLACES):
            monkeypatch.delitem(PLACES, name)
        monkeypatch.setitem(PLACES, "tiny", Place("tiny", rows, "mini", "mini"))
    return make


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


def test_the_list_names_every_experiment_and_whether_it_is_there(results, capsys):
    lines = listed(capsys, "--results", str(results))
    assert len(lines) >= sum(len(place.rows) for place in PLACES.values())
    status = {line[1]: line[0] for line in lines}
    assert status["ACDC/cml_7_seed1338_mini"] == "there" and status["ACDC/cps_7_seed1338_mini"] == "missing"
    (results / "ACDC/cml_7_seed1338_mini/test_val_best.csv").unlink()
    lines = listed(capsys, "mini_acdc7", "--results", str(results))
    assert ["missing", "ACDC/cml_7_seed1338_mini", "CML"] in lines


def test_a_plan_has_the_missing_commands_and_their_hours(results, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "MODEL", tmp_path)
    folder = results / "ACDC/cml_7_seed1337_mini"
    (folder / "config.json").write_text(json.dumps({"dataset": "ACDC", "recipe": {
        "method": "cml", "patch_size": [128, 128], "labeled_batch": 6, "unlabeled_batch": 6}}))
    (folder / "log.csv").write_text("stage,step,seconds\npre,1,0.9\npre,2,0.9\nself,1,1.8\nself,2,1.8\n")
    capsys.readouterr()
    reproduce.main(["plan", "mini_terms", "--results", str(results)])
    lines = capsys.readouterr().out.splitlines()
    # 400 steps at 0.9 s and 1,200 at 1.8 s: 0.7 h a run
    assert lines[0] == ("python code/train_ACDC.py mini --method cml --labeled 7 --seed 1337 --lambda-unsup 0.0 "
                        "--lambda-dis 0.0    # 0.7 h")
    assert lines[-1] == "3 runs, 2.1 hours of training by runs that are there"
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
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_an_experiment_runs_from_the_scans_to_its_kept_tables(place, arguments, narrow, no_curves, tmp_path, capsys,
                                                              monkeypatch):
    place(tiny())
    reproduce.main(arguments)
    [folder] = (tmp_path / "kept/ACDC").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        "agreement_val_last.csv", "config.json", "log.csv", "test_val_best.csv", "test_val_last.csv", "val.csv"]
    config = json.loads((folder / "config.json").read_text())
    assert config["recipe"]["seed"] == 1337 and str(tmp_path) not in json.dumps(config)
    monkeypatch.setattr(train_ACDC, "main", None)
    capsys.readouterr()
    reproduce.main(arguments)
    assert "is there" in capsys.readouterr().out


def test_a_failure_is_reported_at_the_end_and_the_others_go_on(place, arguments, narrow, no_curves, tmp_path, capsys,
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
    assert message == "error: 2 runs are not done, see above; the same command tries them again"
    assert refused.startswith("not done: ACDC/cml_2_") and "so both must be even" in refused
    assert broken.startswith("not done: ACDC/cml_2_") and broken.endswith("RuntimeError: out of luck")
    assert len(list((tmp_path / "kept/ACDC").iterdir())) == 1


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
    script.write_text(DRIVER.format(path=[str(ROOT / "code"), os.path.dirname(__file__)]))

    def start():
        return subprocess.Popen([sys.executable, script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    process = start()
    end = time.monotonic() + 120
    while not list((tmp_path / "model").glob("ACDC/*/checkpoint_prev.pt")):
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    [folder] = (tmp_path / "model/ACDC").iterdir()
    assert not (folder / "last.pt").exists()
    before = (folder / "log.csv").read_text()
    with locked(folder):
        process = start()
        _, message = process.communicate()
    assert process.returncode == 2 and f"process {os.getpid()} on " in message and "is writing into it" in message
    assert (folder / "log.csv").read_text() == before
    process = start()
    assert (process.communicate(), process.returncode)[1] == 0
    with open(folder / "log.csv", newline="") as file:
        steps = [(row["stage"], int(row["step"])) for row in csv.DictReader(file)]
    assert steps == [("pre", 1), *(("self", step) for step in range(1, 41))]
    assert (tmp_path / "kept/ACDC" / folder.name / "test_val_last.csv").exists()


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


def test_an_unknown_place_is_named():
    with pytest.raises(InputError, match="'tabel1' is unknown: choose of table1, "):
        reproduce.show(("tabel1",))
