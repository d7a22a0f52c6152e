"""Faults, planted one at a time in a copy of the code: the fast tests must go red for each of them.

The leak of labels is planted twice, for slices and for volumes. Faults of single methods: methods/test_planted_methods.
"""
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
        "cml.py", "return reduced(labels, self.components)", "return reduced(labels, ())",
        ["test_cml.py"]),
    "batch norm in evaluation mode for pseudo-labels": (
        "cml.py", "        labels = torch.stack([logits.argmax(1).byte() for logits, _ in self.networks(x)])\n",
        "        norms = [m for m in self.networks.modules() if 'BatchNorm' in type(m).__name__]\n"
        "        [m.eval() for m in norms]\n"
        "        labels = torch.stack([logits.argmax(1).byte() for logits, _ in self.networks(x)])\n"
        "        [m.train() for m in norms]\n",
        ["test_cml.py"]),
    "labels of unlabelled slices are read": (
        "dataloaders/acdc.py", 'slices = self._read(names, 2, labelled, "labelled" if labelled else "unlabelled")',
        'slices = self._read(names, 2, True, "labelled" if labelled else "unlabelled")',
        ["dataloaders/test_scans.py", "training/test_fit.py"]),
    "labels of unlabelled volumes are read": (
        "dataloaders/volumes.py", "normalised(self._read(name, path, labelled), self.recipe)",
        "normalised(self._read(name, path, True), self.recipe)",
        ["dataloaders/test_scans.py", "training/test_fit.py"]),
    "momentum not restored": (
        "training/checkpoints.py",
        '            self.optimizer.load_state_dict(state["optimizer"])\n', '            pass\n',
        ["training/test_fit.py", "training/test_resume.py"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_has_its_place(fault):
    file, old, *_ = FAULTS[fault]
    assert Path(ROOT, "code", file).read_text(encoding="utf-8").count(old) == 1


@pytest.mark.slow
def test_the_unmodified_copy_is_green(copied):
    done = copied.fast(sorted({name for *_, names in FAULTS.values() for name in names}))
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_turns_the_fast_tests_red(copied, fault):
    *place, names = FAULTS[fault]
    copied.replace(*place)
    copied.must_notice(names)
