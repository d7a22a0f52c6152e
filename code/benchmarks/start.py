"""How soon scripts answer, beside another revision: --help, the first line of train, test and predict, the demo."""
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from benchmarks.targets import verdict
from dataloaders.phantom import draw_ACDC, write_phantoms
from runtime.errors import InputError, one_line
from runtime.files import ROOT

HELP, FIRST_LINE, DEMO = 0.35, 0.6, 0.25        # targets: of the other revision's time
TINY = ("mini", "--labeled", "1", "--pre-steps", "1", "--self-steps", "1", "--patch-size", "32", "32",
        "--labeled-batch", "2", "--unlabeled-batch", "2", "--workers", "0", "--device", "cpu")


def lines(against, repeat, quick):
    """A line per command, as it is measured: seconds of CPU time (user) then and now, the least of `repeat`."""
    if not hasattr(os, "wait4"):
        raise InputError("start: this system does not tell what CPU time a process has taken; use Linux or macOS")
    with TemporaryDirectory() as folder, checked_out(against, Path(folder) / "then") as then:
        codes = {"then": then / "code", "now": ROOT / "code"}
        for path in sorted(codes["now"].glob("*.py")):
            if path.stem not in ("cml", "method") and (codes["then"] / path.name).exists():
                yield line(f"{path.name} --help", {when: partial(seconds_of_help, code / path.name)
                                                   for when, code in codes.items()}, HELP, repeat, quick)
        commands = {when: first_commands(code, Path(folder), when) for when, code in codes.items()}
        for name in commands["now"]:
            yield line(f"{name}, first line", {when: partial(seconds_to_first_line, commands[when][name])
                                               for when in codes}, FIRST_LINE, repeat, quick)


def line(what, calls, most, repeat, quick):
    """One command of both revisions, in turns."""
    turns = [[call() for call in calls.values()] for _ in range(repeat)]
    then, now = np.min(turns, 0)
    return [what, f"{then:.2f}", f"{now:.2f}", f"{now / then:.2f}", f"≤ {most}",
            verdict(now <= most * then, quick)]


def demo_lines(against, quick):
    """Seconds of demo.py for each data set, both revisions one after the other."""
    with TemporaryDirectory() as folder, checked_out(against, Path(folder) / "then") as then:
        codes = {"then": then / "code", "now": ROOT / "code"}
        for name in ("ACDC",) if quick else ("ACDC", "LA", "BraTS"):
            yield line(f"demo.py --dataset {name}", {
                when: partial(seconds_of_demo, code, name, Path(folder) / f"{when} {name}")
                for when, code in codes.items()}, DEMO, 1, quick)


def seconds_of_demo(code, name, out):
    begun = time.perf_counter()
    if started([code / "demo.py", "--dataset", name, "--out", out], subprocess.DEVNULL).wait():
        raise InputError(f"{code / 'demo.py'} --dataset {name}: did not run to its end")
    return time.perf_counter() - begun


@contextmanager
def checked_out(revision, folder):
    """A working tree of a revision of this repository, in `folder` until the end; InputError where git has none."""
    git = partial(subprocess.run, cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace")
    try:
        made = git(["git", "worktree", "add", "--detach", str(folder), revision])
    except OSError as error:
        raise InputError(f"--against {revision}: git cannot be run ({error.strerror}): install it") from error
    if made.returncode:
        raise InputError(f"--against {revision}: {one_line(made.stderr)[-200:]}; name a revision that `git log` shows")
    try:
        yield folder
    finally:
        git(["git", "worktree", "remove", "--force", str(folder)])


def seconds_of_help(script):
    """CPU time of `SCRIPT --help`."""
    process = started([script, "--help"], subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"{script} --help ended with exit code {process.returncode}: that revision does not run here")
    return usage.ru_utime


def seconds_to_first_line(command):
    """CPU time until a command prints its first line."""
    with started(command, subprocess.PIPE) as process:
        try:
            if not process.stdout.readline():
                raise InputError(f"{' '.join(map(str, command))}: printed nothing: that revision does not run here")
            return psutil.Process(process.pid).cpu_times().user
        finally:
            process.kill()


def started(command, stdout):
    return subprocess.Popen([sys.executable, *map(str, command)], stdout=stdout, stderr=subprocess.DEVNULL, cwd=ROOT,
                            env={**os.environ, "PYTHONUNBUFFERED": "1"})


def first_commands(code, folder, when):
    """{script: its command line} on phantoms; each revision tests and predicts with a run of its own."""
    import nibabel  # here: --help of benchmark.py does without
    data, scan, run = folder / "ACDC", folder / "scan.nii.gz", folder / f"{when} run"
    if not scan.exists():
        write_phantoms(data, "ACDC", train=3, val=1, test=1, size=32)
        image, _ = draw_ACDC(np.random.default_rng(0), (4, 32, 32))
        nibabel.save(nibabel.Nifti1Image(np.moveaxis(image, 0, -1), np.diag([1, 1, 5, 1])), scan)
    train = [code / "train_ACDC.py", *TINY, "--data-dir", data, "--out"]
    done = subprocess.run([sys.executable, *map(str, train), str(run)], cwd=ROOT, capture_output=True,
                          encoding="utf-8", errors="replace")
    if done.returncode:
        raise InputError(f"{code / 'train_ACDC.py'}: {one_line(done.stderr)[-200:]}; name a later revision")
    return {"train_ACDC.py": [*train, folder / f"{when} again"],
            "test_ACDC.py": [code / "test_ACDC.py", "--run", run, "--device", "cpu"],
            "predict.py": [code / "predict.py", "--run", run, "--input", scan, "--output", folder / f"{when} maps",
                           "--device", "cpu"]}
