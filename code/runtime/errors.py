"""Errors that a user can mend: one line, no traceback."""
import functools
import os
import sys
import traceback

INTERRUPTED = "interrupted: the same command starts again"
WORDS = "out of memory", "can't allocate memory", "not enough memory", "unable to allocate", "cannot allocate memory"
DEBUG = "With --debug, errors come with a traceback."       # for the scripts' --help


class InputError(ValueError):
    """Bad input: the message names the file or option, what was found, what was expected, and the remedy."""


def reported(main):
    """Decorate a script's main(args=None): bad input becomes one line on stderr and exit code 2, and so does what the
    file system refuses, what does not fit into memory, and a loader process that was killed; Ctrl-C 130. With `--debug`
    among the arguments there is a traceback, too. What a terminal cannot show is escaped.
    """
    @functools.wraps(main)
    def wrapped(args=None):
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):      # not what a notebook puts there
                stream.reconfigure(errors="backslashreplace")
        args = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in args
        try:
            result = main([arg for arg in args if arg != "--debug"])
            sys.stdout.flush()              # here: a closed pipe is met below, not at the interpreter's exit
            return result
        except InputError as error:
            caught, message = error, one_line(error)
        except BrokenPipeError:         # the reader had enough: `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except OSError as error:
            caught, message = error, (f"{error.filename or 'a file'}: {error.strerror or error}; free space or mend "
                                      "permissions, and start the same command again")
        except KeyboardInterrupt:
            print(INTERRUPTED, file=sys.stderr)
            sys.exit(130)
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                message = (f"out of memory ({one_line(error)[:200]}): close other programs, or ask for less: smaller "
                           "batches or patches, fewer --workers; what is finished is kept")
            elif "DataLoader worker" in str(error):
                message = ("a loader process was killed, for want of memory perhaps: the same command goes on from the "
                           "last checkpoint; --workers 0 does without such processes")
            else:
                raise
            caught = error
        if debug:
            traceback.print_exception(caught)
        print(printable(f"error: {message}"), file=sys.stderr)
        sys.exit(2)
    return wrapped


def is_out_of_memory(error):
    """Whether an exception is Python's, NumPy's or PyTorch's way to say so."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError) and any(word in str(error).lower() for word in WORDS))


def printable(text):
    """Text whose control characters and line breaks, of file names, say, are escaped."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def one_line(error):
    """An error's words on one line, or its name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
