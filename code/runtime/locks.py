"""One process at a time writes into a folder: a lock of the operating system, which ends with its process, however."""
import errno
import os
import platform
import shlex
import sys
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from runtime.errors import InputError, one_line
from runtime.files import make_folder

LOCK = ".lock"      # file in the locked folder; says who holds it
NO_LOCKS = errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL     # a file system without them


@contextmanager
def locked(folder, option="--out"):
    """Hold `folder`, made where it is not there, until the end of the block; again in the same process is fine.

    InputError, at once, where another process holds it: says which, and that `option` names another folder. A folder
    that was made here and got no file is removed again.
    """
    folder = Path(folder)
    new = not folder.exists()
    make_folder(folder)
    path = folder / LOCK
    if path.exists() and (path.stat().st_nlink > 1 or not path.is_file()) and not path.is_symlink():
        raise InputError(f"{path}: is another name of some file, or no file, and would be written to; remove it, or "
                         f"choose another {option}")
    lock = FileLock(path, blocking=False, is_singleton=True, fallback_to_soft=False, on_acquired=_sign)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{folder}: {_holder(path)} is writing into it; wait until that has ended, or choose another "
                         f"{option}") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise InputError(f"{path}: cannot be written ({error.strerror or error}); fix permissions or choose "
                             f"another {option}") from error
        warnings.warn(f"{folder}: this file system has no locks; let nothing else write into it", stacklevel=3)
    try:
        yield
    finally:
        if lock.lock_counter <= 1:
            with suppress(OSError):
                path.unlink()       # still held: nobody waits for it, and whoever comes makes a new one
        lock.release()
        if new:
            with suppress(OSError):
                folder.rmdir()      # fails where something is in it


def _sign(descriptor):
    """Write who we are into the lock's file."""
    os.ftruncate(descriptor, 0)
    holder = f"process {os.getpid()} on {platform.node()} ({shlex.join(sys.argv)})"
    os.write(descriptor, holder.encode("utf-8", "backslashreplace"))


def _holder(path):
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return one_line(file.read(300)) or "another process"
    except OSError:
        return "another process"
