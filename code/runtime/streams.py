"""Standard streams that never stop the work: some are closed from the start (`2>&-`, daemons), some break later."""
import io
import os
import sys
from contextlib import suppress


def open_closed_ones():
    """Put something where a standard stream is closed: /dev/null, and for what was to go to stderr, stdout.

    A file opened later would else get its number, and be written to by every library that warns or fails.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)      # takes the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = sys.stdout


class Lasting:
    """A text stream whose first failed write is its last: what comes later is dropped, and the work goes on.

    `failure` is the error of that write, or None: the reader of a pipe left, the disk is full, the terminal is gone.
    """

    def __init__(self, stream):
        self.stream, self.failure = stream, None
        if hasattr(stream, "reconfigure"):      # not what a notebook puts there
            stream.reconfigure(errors="backslashreplace")

    def write(self, text):
        self._try(self.stream.write, text)
        return len(text)

    def flush(self):
        self._try(self.stream.flush)

    def _try(self, call, *args):
        if self.failure:
            return
        try:
            call(*args)
        except OSError as error:
            self.failure = error
            with suppress(OSError, io.UnsupportedOperation):    # what is buffered goes nowhere at the interpreter's end
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.stream.fileno())
                os.close(null)

    def __getattr__(self, name):
        return getattr(self.stream, name)
