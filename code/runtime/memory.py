"""What fits into memory, looked at before it is asked for, and what was used."""
import sys

import psutil

from runtime import job
from runtime.errors import InputError

try:
    import resource
except ImportError:     # Windows
    resource = None

GIB = 2 ** 30
FEW = 2 ** 23       # bytes that are there: of a slice, say, of which there are thousands to look at


def check_fits(what, needed, remedy):
    """InputError unless `needed` bytes are free; `what` needs them, and `remedy` ends the sentence."""
    if needed < FEW:
        return
    available = job.free_memory()
    if needed > available:
        raise InputError(f"{what} about {needed / GIB:.1f} GiB of memory and {available / GIB:.1f} GiB are free: "
                         f"{remedy}")


def peak():
    """GiB: this process's largest resident size so far."""
    if resource is None:
        return psutil.Process().memory_info().peak_wset / GIB
    unit = 1 if sys.platform == "darwin" else 2 ** 10       # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
