"""Signals that end a run politely: noted, and heeded when its step is done and saved."""
import os
import signal
import threading
import time
from contextlib import contextmanager, suppress

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")      # Ctrl-C, schedulers, a terminal ...
           if hasattr(signal, name)]                                              # ... that closes, not on Windows
TWICE = 1       # seconds after which another Ctrl-C is one: `timeout -s INT` and torchrun send each signal twice
AGAIN = (b"\nSIGINT: the run stops when this step is done and saved; Ctrl-C again stops it at once, and the same "
         b"command goes on from the last checkpoint\n")


@contextmanager
def noting(note, alone=True):
    """Call note(number) at each signal instead of ending; a second Ctrl-C raises KeyboardInterrupt where this process
    is `alone` in its run: a step may take minutes, or wait for what never comes.
    """
    if threading.current_thread() is not threading.main_thread():      # a notebook's worker, say
        yield
        return
    interrupted = []        # when

    def handle(number, _):
        note(number)
        if number == signal.SIGINT and alone:
            interrupted.append(time.monotonic())
            if interrupted[-1] > interrupted[0] + TWICE:
                raise KeyboardInterrupt
            with suppress(OSError):
                os.write(2, AGAIN * (len(interrupted) == 1))     # print may be at work itself
    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
