"""Scripts whose standard streams are closed, or break on the way: the work is done, or they say what is wrong."""
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from runtime import script

CODE = Path(script.__file__).parents[1]
SCRIPT = """
import sys, time
from pathlib import Path
from runtime.script import reported
from runtime.errors import InputError
from tqdm import tqdm

@reported
def main(args):
    time.sleep(0.2)     # until the reader of a pipe is gone
    for line in tqdm(range(3)):
        print("line", line, flush=True)
    done = Path(args[0]).open("w", encoding="utf-8")    # takes the first number that is free
    print("warning", file=sys.__stderr__ or sys.stderr, flush=True)
    done.write("done")
    done.close()
    if args[1:]:
        raise InputError("bad input")

main()
"""


def shell(redirections, *args):
    """The script above, its streams redirected by a shell -> (exit code, stdout, stderr)."""
    done = subprocess.run(["bash", "-c", f'set -o pipefail; "$@" {redirections}', "bash", sys.executable, "-c", SCRIPT,
                           *map(str, args)], cwd=CODE, capture_output=True, encoding="utf-8", timeout=60)
    return done.returncode, done.stdout, done.stderr


LOST = "error: standard output: No space left on device"


@pytest.mark.parametrize(("redirections", "code", "out", "err"), [
    ("2>&-", 0, "line 2", ""), (">&-", 0, "", "3/3"), (">&- 2>&-", 0, "", ""), ("<&- >&- 2>&-", 0, "", ""),
    ("2>/dev/full", 0, "line 2", ""), ("| true", 141, "", "3/3"), (">/dev/full", 2, "", LOST),
    (">/dev/full 2>&1", 2, "", ""), ("2>&1 >/dev/null | true", 0, "", "")])
def test_work_is_done_whatever_becomes_of_the_streams(tmp_path, redirections, code, out, err):
    shown = shell(redirections, tmp_path / "done")
    assert shown[0] == code and out in shown[1] and err in shown[2], shown
    assert (tmp_path / "done").read_text(encoding="utf-8") == "done"


@pytest.mark.parametrize(("redirections", "code", "stream"), [("", 2, 2), ("2>&-", 2, 1), (">&-", 2, 2),
                                                              (">/dev/full", 2, 2), ("2>&- | cat", 2, 1)])
def test_bad_input_is_told_on_the_stream_that_is_left(tmp_path, redirections, code, stream):
    shown = shell(redirections, tmp_path / "done", "bad")
    assert shown[0] == code and "error: bad input" in shown[stream]


@pytest.mark.slow
def test_a_run_is_trained_tested_and_used_without_streams(phantoms, tmp_path):
    """As a daemon would start the scripts: exit code 0, and the files of each are there."""
    run, scan, maps = (tmp_path / name for name in ("run", "scan.nii", "maps"))
    nib.save(nib.Nifti1Image(np.random.default_rng(0).integers(0, 99, (20, 20, 3)).astype(np.int16), np.eye(4)), scan)
    train = ["train_ACDC.py", "mini", "--method", "supervised", "--labeled", "2", "--labeled-batch", "2",
             "--patch-size", "32", "32", "--pre-steps", "1", "--self-steps", "1", "--workers", "0", "--data-dir",
             phantoms("ACDC"), "--out", run]
    predict = ["predict.py", "--run", run, "--input", scan, "--output", maps]
    for args in (train, ["test_ACDC.py", "--run", run], predict):
        done = subprocess.run(["bash", "-c", '"$@" >&- 2>&-', "bash", sys.executable, *map(str, args)], cwd=CODE,
                              env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
        assert done.returncode == 0, args
    assert (run / "test_test_last.csv").exists() and list(maps.glob("scan*.nii*"))
