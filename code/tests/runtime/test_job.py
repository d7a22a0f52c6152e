"""A job's limits: CPUs and memory of a container or a scheduler's job, not those of the machine."""
import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from runtime import job, memory
from runtime.errors import InputError


@pytest.fixture
def group(tmp_path, monkeypatch):
    """group(line of /proc/self/cgroup, {file: content}) makes this process a member."""
    monkeypatch.setattr(job, "CGROUPS", tmp_path)
    monkeypatch.setattr(job, "OWN", tmp_path / "own")
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: list(range(16)))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))

    def make(line, files):
        (tmp_path / "own").write_text(f"{line}\n", encoding="utf-8")
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    return make


@pytest.mark.parametrize(("line", "files", "count"), [
    ("0::/", {}, 16), ("0::/", {"cpu.max": "max 100000\n"}, 16), ("0::/", {"cpu.max": "400000 100000\n"}, 4),
    ("0::/a/b", {"a/cpu.max": "250000 100000", "a/b/cpu.max": "max 100000"}, 3),        # 2.5 CPUs; the parent's limit
    ("0::/a", {"a/cpu.max": "50000 100000"}, 1), ("0::/a", {"a/cpu.max": "9900000 100000"}, 16),
    ("3:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"}, 2),     # version 1
    ("3:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 16),
    ("4:memory:/a", {"memory/a/cpu.max": "100000 100000"}, 16)])
def test_cpus_are_those_of_affinity_and_quota(group, line, files, count):
    group(line, files)
    assert job.cpus() == count


def test_affinity_counts(monkeypatch):
    monkeypatch.setattr(job, "OWN", Path("/nowhere"))
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert job.cpus() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert job.cpus() == len(before)


@pytest.mark.parametrize(("files", "free"), [
    ({}, 1000), ({"a/memory.max": "max", "a/memory.current": "300"}, 1000),
    ({"a/memory.max": "800", "a/memory.current": "300"}, 500),
    ({"a/memory.max": "800", "a/memory.current": "700", "a/memory.stat": "anon 5\ninactive_file 150\n"}, 250),
    ({"memory.max": "400", "memory.current": "500", "a/memory.max": "max"}, 0)])
def test_memory_is_what_the_group_leaves(group, files, free):
    group("0::/a", files)
    assert job.free_memory() == free
    memory.check_fits("it needs", memory.FEW - 1, "crop it")
    with pytest.raises(InputError, match="it needs about"):
        memory.check_fits("it needs", memory.FEW, "crop it")
