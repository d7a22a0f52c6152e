"""Worker processes end with their parent, however it ended."""
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from runtime import workers

CODE = Path(workers.__file__).parents[1]
PARENT = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from runtime.workers import end_with_parent

if __name__ == "__main__":
    pool = ProcessPoolExecutor(2, get_context(sys.argv[1]), end_with_parent)
    for _ in range(2):
        pool.submit(time.sleep, 60)
    while len(pool._processes) < 2:
        time.sleep(0.01)
    print(*pool._processes, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_parent_leaves_no_workers(tmp_path, start, number):
    (tmp_path / "parent.py").write_text(PARENT, encoding="utf-8")
    with subprocess.Popen([sys.executable, tmp_path / "parent.py", start], env={"PYTHONPATH": str(CODE)},
                          stdout=subprocess.PIPE) as parent:
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.send_signal(number)
    assert len(children) == 2
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
