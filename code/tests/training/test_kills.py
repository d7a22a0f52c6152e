"""Nothing lost: a train script is killed at seeded moments, some inside a save, and resumed to the same bits."""
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import train_ACDC
from runtime.files import load_tensors
from training import fit

CODE = Path(fit.__file__).parents[1]
PRE, SELF = 6, 12
ARGS = ["mini", "--labeled", "2", "--labeled-batch", "2", "--unlabeled-batch", "2", "--patch-size", "32", "32",
        "--pre-steps", str(PRE), "--self-steps", str(SELF), "--eval-every", "3", "--checkpoint-steps", "2",
        "--device", "cpu"]

# Runs a train script until the moment {"after": steps done, or "resume"; "kind": ...}, then SIGKILLs itself.
# kind "call": the count-th Python call from there; "write", "fsync", "replace": that part of the save of "file",
# its count-th one, "write" with half of the content on disk; "group": SIGTERM to the process group instead, as
# schedulers send it.
DRIVER = '''
import builtins, json, os, re, signal, sys
from pathlib import Path
from networks import unet
unet.WIDTHS = (2, 4, 8, 16, 32)
import torch, train_ACDC
from training import checkpoints, fit
from evaluation import plots
from runtime import files
torch.set_num_threads(1)
plots.curves = lambda run: None
moment = json.loads(sys.argv.pop(1))
state = {"armed": False, "calls": 0, "saving": "nothing"}
replace, fsync = os.replace, os.fsync

def die(what):
    frame, names = sys._getframe(1), []
    while frame:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    place = state["saving"] if "write_aside" in names or "_save_checkpoint" in names else "nothing"
    os.write(2, f"KILLED at {what}, saving {place}\\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)

def meets(kind, name):
    if not state["armed"] or moment["kind"] != kind or moment["file"] != name:
        return False
    moment["count"] -= 1
    return moment["count"] == 0

def counted(frame, event, argument):
    if event == "call":
        state["calls"] += 1
        if state["calls"] == moment["count"]:
            sys.setprofile(None)
            die(f"call {moment['count']}, {frame.f_code.co_name}")

def arm():
    if not state["armed"]:
        state["armed"] = True
        if moment["kind"] == "group":
            os.killpg(0, signal.SIGTERM)
        if moment["kind"] == "call":
            sys.setprofile(counted)

class Halved:
    def __init__(self, file, name):
        self.file, self.name = file, name
    def __enter__(self):
        return self
    def __exit__(self, *error):
        self.file.close()
    def __getattr__(self, key):
        return getattr(self.file, key)
    def write(self, content):
        if meets("write", self.name):
            self.file.write(content[:len(content) // 2])
            self.file.flush()
            die("write")
        return self.file.write(content)

def opened(path, mode):
    state["saving"] = re.sub(r"[.][0-9a-f]{8}-[0-9]+[.]tmp$", "", Path(path).name[1:])
    return Halved(builtins.open(path, mode), state["saving"])

def synced(descriptor):
    if meets("fsync", state["saving"]):
        die("fsync")
    fsync(descriptor)

def replaced(source, target):
    name = Path(target).name
    if meets("replace", name):
        state["saving"] = name
        die("replace")
    replace(source, target)

def arming(function, due):
    def called(self, *rest):
        if due(self):
            arm()
        return function(self, *rest)
    return called

files.open, os.fsync, os.replace = opened, synced, replaced
after = moment.get("after")
checkpoints.Checkpoints.load = arming(checkpoints.Checkpoints.load, lambda self: after == "resume")
fit.Fit.take_step = arming(fit.Fit.take_step, lambda self: isinstance(after, int) and self.total_steps >= after)
train_ACDC.main(sys.argv[1:])
'''


def saves(after, kind, file, count=1):
    return {"after": after, "kind": kind, "file": file, "count": count}


SAVES = [
    saves(1, "write", "checkpoint_new.pt"), saves(2, "write", "val.csv"), saves(2, "fsync", "pretrained.pt"),
    saves("resume", "write", "log.csv"),            # cut back to the checkpoint
    saves(3, "replace", "checkpoint.pt"),           # when there is checkpoint_prev.pt alone
    saves(PRE - 1, "replace", "checkpoint.pt", 2),  # the same, between the stages
    saves(PRE, "write", "log.csv"),                 # the columns of self-training join
    saves(PRE + 2, "write", "best.pt"), saves(PRE + 4, "replace", "checkpoint_prev.pt"),
    saves(PRE + SELF - 1, "write", "last.pt")]


def calls(number, seed):
    """Seeded moments, from the run's second step to its last but two."""
    draw = random.Random(seed)
    return [{"after": draw.randint(1, PRE + SELF - 3), "kind": "call", "count": int(10 ** draw.uniform(0, 4.5))}
            for _ in range(number)]


def in_order(moments):
    """By the step they wait for; where a run resumes does not matter, so that goes after the third."""
    steps = sorted((moment for moment in moments if moment["after"] != "resume"), key=lambda moment: moment["after"])
    return [*steps[:3], *(moment for moment in moments if moment["after"] == "resume"), *steps[3:]]


def start(moment, args, **options):
    return subprocess.Popen([sys.executable, "-c", DRIVER, json.dumps(moment), *args], cwd=CODE, encoding="utf-8",
                            env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            **options)


@pytest.fixture(scope="module")
def _finished(tmp_path_factory):
    return tmp_path_factory.mktemp("reference") / "run"


@pytest.fixture
def reference(_finished, phantoms, narrow, no_curves):
    """The same run, never stopped; it is trained once."""
    if not _finished.exists():
        train_ACDC.main([*ARGS, "--workers", "0", "--data-dir", str(phantoms("ACDC")), "--out", str(_finished)])
    return _finished


@pytest.mark.slow
def test_a_run_killed_at_any_moment_resumes_to_the_same_bits(reference, runs, phantoms, tmp_path, capsys):
    moments, run = [*SAVES, *calls(10, seed=20)], tmp_path / "run"
    args = [*ARGS, "--workers", "0", "--data-dir", str(phantoms("ACDC")), "--out", str(run)]
    places = []
    for number, moment in enumerate(in_order(moments), 1):
        process = start(moment, args)
        out, error = process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, (moment, out[-500:], error[-2000:])
        what, place = re.search(r"KILLED at (.*), saving (.*)", error).groups()
        places.append(place)
        resumed = re.search(r"resuming after step .*", out)
        rows = runs.rows(run)
        with capsys.disabled():
            print(f"\nattempt {number}: {resumed[0] if resumed else 'from the start'}; SIGKILL at {what}, saving "
                  f"{place}; last row {rows[-1]['stage']} {rows[-1]['step']}, loss {rows[-1]['loss']}", end="")
        usable = [name for name in ("checkpoint.pt", "checkpoint_prev.pt") if (run / name).exists()]
        assert all(load_tensors(run / name, ["method", "optimizer"]) for name in usable)
    train_ACDC.main(args)
    saved = [place for place in places if place != "nothing"]
    with capsys.disabled():
        print(f"\n{len(places)} kills, {len(saved)} inside a save ({', '.join(saved)}); final loss "
              f"{runs.rows(run)[-1]['loss']}, uninterrupted {runs.rows(reference)[-1]['loss']}")
    assert len(saved) >= sum(moment["kind"] != "call" for moment in moments)
    runs.assert_same(reference, run)
    for name in ("pretrained.pt", "best.pt"):
        assert runs.same_tensors(runs.weights(reference, name), runs.weights(run, name))
    assert [(row["stage"], int(row["step"])) for row in runs.rows(run)] == [
        *(("pre", step + 1) for step in range(PRE)), *(("self", step + 1) for step in range(SELF))]
    assert {path.name for path in run.iterdir()} == {path.name for path in reference.iterdir()}


@pytest.mark.slow
def test_a_signal_to_the_process_group_lets_the_workers_finish_the_step(reference, runs, phantoms, tmp_path):
    args = [*ARGS, "--workers", "1", "--data-dir", str(phantoms("ACDC")), "--out", str(tmp_path / "run")]
    process = start({"after": PRE + 1, "kind": "group"}, args, start_new_session=True)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in error, error[-2000:]
    assert "SIGTERM: saved after step 2 of stage self; go on with" in out and f"--out {tmp_path / 'run'}" in out
    runs.assert_same(reference, train_ACDC.main(args))
