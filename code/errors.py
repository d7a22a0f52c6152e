"""Errors that a user can mend: one line, no traceback."""
import functools
import sys


class InputError(ValueError):
    """Bad input: the message names the file or option, what was found, what was expected, and the remedy."""


def reported(main):
    """Decorate a script's main: an InputError becomes one line on stderr and exit code 2 (`--debug`: a traceback)."""
    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        debug = "--debug" in sys.argv
        if debug:
            sys.argv.remove("--debug")
        try:
            return main(*args, **kwargs)
        except InputError as error:
            if debug:
                raise
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
    return wrapped


def one_line(error):
    """An error's words on one line."""
    return " ".join(str(error).split())
