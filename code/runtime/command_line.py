"""Command lines by tyro whose mistakes are one line, as every other error."""
import contextlib
import functools
import io
import math
import re

import tyro

from runtime.errors import InputError


def parsed(options, args, cli=tyro.cli, **how):
    """cli(options, args=args, **how); InputError, one line, for an unknown, missing or unreadable option."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return cli(options, args=args, **how)
    except SystemExit as stopped:
        if not stopped.code:        # --help
            raise
        raise InputError(f"{_without_frame(told.getvalue())}; --help shows all options") from None


def check_seed(seed):
    """InputError for a number that no generator takes."""
    if not 0 <= seed < 2 ** 63:
        raise InputError(f"--seed {seed}: must be 0 or more, and below 2^63")


def check_number(option, value, most=math.inf, least=1):
    """InputError for a number outside of what an option takes; None is none."""
    if value is not None and not least <= value <= most:
        raise InputError(f"{option} {value:g}: must be {least:g} or more" + f", up to {most:g}" * (most < math.inf))


def run_command(commands, args, **how):
    """Call one of `commands`, {name: function}, as the command line says; errors as `parsed`."""
    def later(function):        # the function runs when parsing is over, so that its own stderr is shown
        return functools.wraps(function)(lambda *values, **options: functools.partial(function, *values, **options))
    return parsed({name: later(function) for name, function in commands.items()}, args,
                  tyro.extras.subcommand_cli_from_dict, **how)()


def _without_frame(text):
    """What tyro says in its box, drawn or not, between the title and where it repeats the help."""
    lines = [line.strip("│╭╮╰╯─ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    lines = [line for line in lines if line.strip("-")][1:]
    end = next((place for place, line in enumerate(lines) if line.startswith(("For full help", "Argument help"))),
               len(lines))
    return " ".join(lines[:end]).rstrip(".")
