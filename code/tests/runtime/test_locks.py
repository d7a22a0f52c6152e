"""One writer a folder: the second one is told who the first is; a kill leaves nothing to clear away."""
import errno
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from runtime import locks
from runtime.errors import InputError
from runtime.locks import LOCK, locked

CODE = Path(locks.__file__).parents[1]
HOLDER = """
import sys, time
from runtime.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path / "run"."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], cwd=CODE, encoding="utf-8",
                               stdout=subprocess.PIPE)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path, holder):
    with pytest.raises(InputError, match=rf"run: process {holder.pid} on .*run\) is writing into it.*--output"):
        with locked(tmp_path / "run", "--output"):
            pass
    assert (tmp_path / "run" / LOCK).exists()


def test_a_killed_holder_leaves_the_folder_free(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "a").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a"]


def test_the_same_process_may_hold_it_twice(tmp_path):
    with locked(tmp_path):
        with locked(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_without_files_goes_again_if_it_was_made_here(tmp_path, made):
    folder = tmp_path / "run"
    if not made:
        folder.mkdir()
    with pytest.raises(ZeroDivisionError), locked(folder):
        raise ZeroDivisionError
    assert folder.exists() != made


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine", encoding="utf-8")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(precious)
    with pytest.raises(InputError, match=r"\.lock: cannot be written"), locked(tmp_path / "run"):
        pass
    assert precious.read_text(encoding="utf-8") == "mine"


def test_a_file_system_without_locks_is_worked_on_with_a_warning(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")
    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    with pytest.warns(UserWarning, match="has no locks"), locked(tmp_path):
        (tmp_path / "a").touch()
    assert (tmp_path / "a").exists()
