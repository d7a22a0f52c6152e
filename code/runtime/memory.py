"""What fits into memory, looked at before it is asked for."""
import psutil

from runtime.errors import InputError

GIB = 2 ** 30


def check_fits(what, needed, remedy):
    """InputError unless `needed` bytes are free; `what` needs them, and `remedy` ends the sentence."""
    available = psutil.virtual_memory().available
    if needed > available:
        raise InputError(f"{what} about {needed / GIB:.1f} GiB of memory and {available / GIB:.1f} GiB are free: "
                         f"{remedy}")
