"""Faults, planted one at a time in a copy of the code: the fast tests must go red for each of them.

The leak of labels is planted twice, for slices and for volumes.
"""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.files import ROOT

# fault: file, text, what it becomes, test files that must notice
FAULTS = {
    "Eq. 9 polarity": (
        "cml.py", "return mix(p1, q0, mask), mix(p0, q1, mask)", "return mix(p0, q1, mask), mix(p1, q0, mask)",
        ["test_cml.py"]),
    "missing detach in Eq. 1": (
        "cml.py", "at_least_float32(other.detach())", "at_least_float32(other)",
        ["test_cml.py"]),
    "mask inverted": (
        "dataloaders/cutmix.py", "    return mask\n", "    return 1 - mask\n",
        ["dataloaders/test_cutmix.py"]),
    "asd from reference to prediction": (
        "evaluation/metrics.py", "float(to_ref.mean())", "float(to_pred.mean())",
        ["evaluation/test_metrics.py"]),
    "pseudo-labels without the largest component": (
        "cml.py", "return lambda: largest_components(labels())", "return lambda: labels()",
        ["test_cml.py"]),
    "batch norm in evaluation mode for pseudo-labels": (
        "cml.py", "        labels = fetch(torch.stack([logits.argmax(1).byte() for logits, _ in self.networks(x)]))\n",
        "        norms = [m for m in self.networks.modules() if 'BatchNorm' in type(m).__name__]\n"
        "        [m.eval() for m in norms]\n"
        "        labels = fetch(torch.stack([logits.argmax(1).byte() for logits, _ in self.networks(x)]))\n"
        "        [m.train() for m in norms]\n",
        ["test_cml.py"]),
    "labels of unlabelled slices are read": (
        "dataloaders/acdc.py", 'return self._read(names, 2, labelled, "labelled" if labelled else "unlabelled")',
        'return self._read(names, 2, True, "labelled" if labelled else "unlabelled")',
        ["dataloaders/test_scans.py", "training/test_fit.py"]),
    "labels of unlabelled volumes are read": (
        "dataloaders/volumes.py", "self._shrunk(self._read(name, path, labelled))",
        "self._shrunk(self._read(name, path, True))",
        ["dataloaders/test_scans.py", "training/test_fit.py"]),
    "momentum not restored": (
        "training/checkpoints.py",
        '            self.optimizer.load_state_dict(state["optimizer"])\n', '            pass\n',
        ["training/test_fit.py", "training/test_resume.py"]),
    "SASSNet fools its discriminator backwards": (
        "methods/adversarial.py", "return judge(logits, len(logits))", "return judge(logits, 0)",
        ["methods/test_adversarial.py"]),
    "the discriminator sees the network in training mode": (
        "methods/adversarial.py", "        self.networks.eval()\n", "",
        ["methods/test_adversarial.py"]),
    "the discriminator steps before the network": (
        "training/fit.py", "        losses = stage.losses(batch)\n",
        "        losses = stage.losses(batch)\n        self.method.after_step(batch)\n",
        ["methods/test_adversarial.py"]),
    "distance maps are positive inside": (
        "methods/sdm.py", "-within / within.max()", "within / within.max()",
        ["methods/test_sdm.py"]),
    "DTC detaches the segmentation head": (
        "methods/dtc.py", "(level_set(sdm), prob)", "(level_set(sdm), prob.detach())",
        ["methods/test_dtc.py"]),
    "URPC's ramp takes twice its length": (
        "methods/urpc.py", "stairs=original)", "ramp_share=2.0, stairs=original)",
        ["methods/test_urpc.py"]),
    "MC-Net detaches the sharpened side": (
        "methods/mc_net.py", "sharpen(prob, TEMPERATURE)", "sharpen(prob.detach(), TEMPERATURE)",
        ["methods/test_mc_net.py"]),
    "DAN's gradient stops at the softmax": (
        "methods/dan.py", "fooling(maps[labelled:], batch", "fooling(maps[labelled:].detach(), batch",
        ["methods/test_dan.py"]),
}


@pytest.fixture
def copy(tmp_path):
    """The code, the split lists and the settings, without scans and runs."""
    shutil.copytree(ROOT / "code", tmp_path / "code", ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path in [*ROOT.glob("data/*/*.list"), *ROOT.glob("data/*/*.txt")]:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path


def run_tests(root, names):
    files = [f"code/tests/{name}" for name in names]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *files], cwd=root,
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}, capture_output=True, text=True)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_has_its_place(fault):
    file, old, *_ = FAULTS[fault]
    assert Path(ROOT, "code", file).read_text().count(old) == 1


@pytest.mark.slow
def test_the_unmodified_copy_is_green(copy):
    done = run_tests(copy, sorted({name for *_, names in FAULTS.values() for name in names}))
    assert done.returncode == 0, done.stdout[-3000:]


def plant(root, file, old, new):
    path = Path(root, "code", file)
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_turns_the_fast_tests_red(copy, fault):
    file, old, new, names = FAULTS[fault]
    plant(copy, file, old, new)
    done = run_tests(copy, names)
    assert done.returncode == 1, done.stdout[-3000:]                # 1: tests failed; 2 and more: they did not run
    assert re.search(r"^FAILED ", done.stdout, re.MULTILINE) and not re.search(r"^ERROR ", done.stdout, re.MULTILINE)
