"""How scripts end: with one line that says what to do, whatever happened, and whatever the terminal can show."""
import errno
import os
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from runtime.script import INTERRUPTED, reported

import psutil
import pytest

import train_LA
from runtime import script
from runtime.errors import InputError
from runtime.files import load_tensors
from training.fit import Fit

CODE = Path(script.__file__).parents[1]
SCRIPTS = sorted(path.name for path in CODE.glob("*.py") if "reported" in path.read_text(encoding="utf-8"))


def ending(error):
    @reported
    def main(args):
        raise error
    with pytest.raises(SystemExit) as stopped:
        main([])
    return stopped.value.code


@pytest.mark.parametrize(("error", "code", "words"), [
    (OSError(errno.ENOSPC, "No space left on device", "tb/events"), 2, "error: tb/events: No space left on device"),
    (KeyboardInterrupt(), 130, INTERRUPTED),
    (MemoryError(), 2, "error: out of memory (MemoryError): close other programs"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), 2, "error: out of memory ("),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."), 2, "error: out of memory"),
    (RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"), 2, "error: out of memory (CUDA"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), 2, "error: a loader process was killed"),
    (RuntimeError("DataLoader timed out after 600 seconds"), 2, "error: a loader process was killed or hangs"),
    (BrokenProcessPool("A process in the pool was terminated abruptly"), 2, "error: a worker process was killed, for"),
    (OSError(), 2, "error: a file: OSError; "), (InputError("a\u2028b\x1b[2J"), 2, "error: a b\\x1b[2J")])
def test_what_no_reader_foresees_is_one_line_too(capsys, error, code, words):
    assert ending(error) == code
    shown = capsys.readouterr().err
    assert shown.startswith(words) and shown.count("\n") == 1


@pytest.mark.parametrize("error", [KeyError("ours"), RuntimeError("mat1 and mat2 shapes cannot be multiplied")])
def test_our_own_mistakes_keep_their_traceback(error):
    @reported
    def main(args):
        raise error
    with pytest.raises(type(error)):
        main([])


def python(code, *args, **environment):
    return subprocess.run([sys.executable, "-c", code, *args], cwd=CODE, capture_output=True, timeout=120,
                          env={**os.environ, "OMP_NUM_THREADS": "1", **environment})


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_cannot_show_a_sign_gets_it_escaped(encoding):
    done = python("from runtime.script import reported\n@reported\ndef main(args):\n"
                  "    print('80.1 \u00b1 2 \u2191 caf\\udce9')\nmain([])", PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and b"80.1 " in done.stdout and b"caf\\udce9" in done.stdout, done.stderr


INTERRUPTED_IMPORT = """
import os, runpy, signal, sys

class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == "tyro":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)    # it may be ignored, as in a job in the background
sys.meta_path.insert(0, Interrupting())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


OFTEN = "train_LA.py", "predict.py"     # it rests on the order of the imports, at which ruff looks in every script


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow)
                                  for name in SCRIPTS])
def test_ctrl_c_while_a_script_loads_is_one_line(name):
    done = python(INTERRUPTED_IMPORT, name, "--help")
    assert done.returncode == -signal.SIGINT and done.stderr.decode() == INTERRUPTED + "\n"


def test_a_killed_loader_process_is_one_line_and_the_same_command_goes_on(recipe, phantoms, narrow, no_curves, tmp_path,
                                                                         monkeypatch, capsys):
    args = ["--labeled", "2", "--labeled-batch", "2", "--unlabeled-batch", "2", "--patch-size", "16", "16", "32",
            "--stride", "16", "16", "32", "--pre-steps", "2", "--self-steps", "8", "--checkpoint-steps", "1",
            "--workers", "1", "--device", "cpu", "--data-dir", str(phantoms("LA")), "--out", str(tmp_path / "run")]
    take_step = Fit.take_step

    def killing(self, streams, arrays):
        if self.total_steps == 4:
            for child in psutil.Process().children():
                child.kill()
        return take_step(self, streams, arrays)
    with monkeypatch.context() as patch:
        patch.setattr(Fit, "take_step", killing)
        with pytest.raises(SystemExit) as stopped:
            train_LA.main(args)
    shown = capsys.readouterr()
    errors = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and "Traceback" not in shown.err
    assert len(errors) == 1 and "a loader process was killed" in errors[0] and "the same command goes on" in errors[0]
    assert load_tensors(tmp_path / "run" / "checkpoint.pt")["step"] >= 1
    train_LA.main(args)
    assert "resuming after step" in capsys.readouterr().out and (tmp_path / "run" / "last.pt").exists()
