"""Errors that a user can mend: one line, no traceback."""
import functools
import os
import sys
import traceback

DEBUG = "With --debug, errors come with a traceback."       # for the scripts' --help


class InputError(ValueError):
    """Bad input: the message names the file or option, what was found, what was expected, and the remedy."""


def reported(main):
    """Decorate a script's main(args=None): bad input becomes one line on stderr and exit code 2, and so does what the
    file system refuses; Ctrl-C 130. With `--debug` among the arguments there is a traceback instead.
    """
    @functools.wraps(main)
    def wrapped(args=None):
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
            print("interrupted: the same command starts again", file=sys.stderr)
            sys.exit(130)
        if debug:
            traceback.print_exception(caught)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    return wrapped


def one_line(error):
    """An error's words on one line."""
    return " ".join(str(error).split())
