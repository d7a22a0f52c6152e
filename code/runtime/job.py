"""What the job that this process belongs to may use: a container's or a scheduler's limits, not the machine's size."""
import os
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")     # which control group this process is in


def cpus():
    """Logical CPUs that this process may use, 1 or more: its affinity and its control group's quota count."""
    try:
        count = len(psutil.Process().cpu_affinity())
    except (AttributeError, OSError, psutil.Error):     # macOS has no affinity
        count = os.cpu_count() or 1
    for folder in _groups("cpu"):
        quota = _numbers(folder / "cpu.max") or _numbers(folder / "cpu.cfs_quota_us") + _numbers(
            folder / "cpu.cfs_period_us")
        if len(quota) == 2 and quota[0] > 0 < quota[1]:
            count = min(count, -(-quota[0] // quota[1]))
    return max(1, count)


def free_memory():
    """Bytes that this process may still take: of the machine, and of its control group."""
    free = psutil.virtual_memory().available
    for folder in _groups("memory"):
        for limit, used, cache in (("memory.max", "memory.current", "inactive_file"),
                                   ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")):
            if (most := _numbers(folder / limit)) and (now := _numbers(folder / used)):
                free = min(free, max(0, most[0] - now[0] + _statistic(folder / "memory.stat", cache)))
    return free


def _groups(controller):
    """The folders of this process's control group and those above it, of version 2 and of version 1."""
    try:
        lines = OWN.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):       # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = CGROUPS / controller if controllers else CGROUPS
        below = Path(path.lstrip("/"))
        yield from (top / folder for folder in (below, *below.parents))


def _numbers(path):
    """The whole numbers in a file of the kernel's; none where it is absent or says `max`."""
    try:
        return [int(word) for word in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError):
        return []


def _statistic(path, name):
    """The number after `name` in memory.stat: file pages that the kernel gives back before it refuses memory."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[:1] == [name])
    except (OSError, ValueError, StopIteration):
        return 0
