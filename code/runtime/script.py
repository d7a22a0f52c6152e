"""How every script ends: well, or with one line. Imported before the packages that take seconds to load."""
import errno
import functools
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout

from runtime.errors import InputError, is_out_of_memory, one_line, printable
from runtime.streams import Lasting, open_closed_ones

NO_NAME = errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENOTDIR, errno.EISDIR     # of a path, whoever asks
INTERRUPTED = "interrupted: the same command starts again"


def reported(main):
    """Decorate a script's main(args=None): bad input becomes one line on stderr and exit code 2, and so does what the
    file system refuses, what does not fit into memory, and a loader process that was killed; Ctrl-C 130. With `--debug`
    among the arguments there is a traceback, too. What a terminal cannot show is escaped. Work goes on without an
    output that breaks; in the end, the exit code is 141 where the reader had enough (`| head`), else 2.
    """
    @functools.wraps(main)
    def wrapped(args=None):
        out, err = Lasting(sys.stdout), Lasting(sys.stderr)
        with redirect_stdout(out), redirect_stderr(err):
            result = _ended(main, list(sys.argv[1:] if args is None else args))
            out.flush()
            if isinstance(out.failure, BrokenPipeError):
                sys.exit(141)
            if out.failure:
                print(f"error: standard output: {out.failure.strerror or out.failure}: what was printed after that is "
                      "lost; what was written to files is whole", file=sys.stderr)
                sys.exit(2)
            return result
    return wrapped


def _ended(main, args):
    """main's result, or the end of the process by what went wrong."""
    try:
        return main([arg for arg in args if arg != "--debug"])
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = _message(error)
        if message is None:         # ours, not the user's
            raise
        if "--debug" in args:
            traceback.print_exception(error)
    print(printable(f"error: {message}"), file=sys.stderr)
    sys.exit(2)


def _message(error):
    """What a user can do about an error; None for one that is nobody's fault but ours."""
    from concurrent.futures import BrokenExecutor  # here: scripts start without it
    if isinstance(error, InputError):
        return one_line(error)
    if is_out_of_memory(error):
        return (f"out of memory ({one_line(error)[:200]}): close other programs, or ask for less: smaller batches or "
                "patches, fewer --workers; what is finished is kept")
    if isinstance(error, OSError):
        remedy = ("name another path" if error.errno in NO_NAME else
                  "free space or fix permissions, and start the same command again")
        return f"{error.filename or 'a file'}: {error.strerror or one_line(error)}; {remedy}"
    if isinstance(error, BrokenExecutor):
        return ("a worker process was killed, for want of memory perhaps: close other programs, and start the same "
                "command again")
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader "):
        return ("a loader process was killed or hangs, for want of memory or of shared memory (/dev/shm) perhaps: the "
                "same command goes on from the last checkpoint; --workers 0 does without such processes")
    return None


def _while_loading(kind, error, trace):
    """Ctrl-C before a script's main has begun."""
    if issubclass(kind, KeyboardInterrupt):
        print(INTERRUPTED, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


open_closed_ones()
sys.excepthook = _while_loading
