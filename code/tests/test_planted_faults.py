"""Faults, planted one at a time in a copy of the code: the fast tests must go red for each of them.

The leak of labels is planted twice, for slices and for volumes.
"""
from pathlib import Path

import pytest

from methods import registry
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
        "dataloaders/volumes.py", "return self._as_trained(self._read(name, path, labelled))",
        "return self._as_trained(self._read(name, path, True))",
        ["dataloaders/test_scans.py", "training/test_fit.py"]),
    "momentum not restored": (
        "training/checkpoints.py",
        '            self.optimizer.load_state_dict(state["optimizer"])\n', '            pass\n',
        ["training/test_fit.py", "training/test_resume.py"]),
    # of single methods, called by their names
    "supervised: another loss than the release's under `original`": (
        "methods/supervised.py", "return Hyper(half_and_half(dataset, protocol))", "return Hyper()",
        ["methods/test_protocols.py"]),
    "mean_teacher: the teacher is not updated": (
        "methods/mean_teacher.py", "        moving_average(self.teacher, self.networks, batch.step)\n", "",
        ["methods/test_registry.py"]),
    "mean_teacher: a ramp of half the length": (
        "methods/mean_teacher.py", "ramped(self.hyper, batch)",
        "ramped(self.hyper, batch._replace(steps=batch.steps / 2))",
        ["methods/test_registry.py"]),
    "mean_teacher: at the first step the teacher is not copied": (
        "methods/teacher.py", "min(1 - 1 / (step + 1), decay) if warm_up else decay", "decay",
        ["methods/test_teacher.py", "methods/test_registry.py"]),
    "ua_mt: polarity of the certainty mask": (
        "methods/ua_mt.py", "(entropy < certainty_threshold(", "(entropy > certainty_threshold(",
        ["methods/test_ua_mt.py"]),
    "ua_mt: the threshold does not rise": (
        "methods/ua_mt.py", "certainty_threshold(batch.step / batch.steps)", "certainty_threshold(0.0)",
        ["methods/test_ua_mt.py"]),
    "sassnet: it fools its discriminator backwards": (
        "methods/adversarial.py", "return judge(logits, len(logits))", "return judge(logits, 0)",
        ["methods/test_adversarial.py"]),
    "sassnet: the discriminator sees the network in training mode": (
        "methods/adversarial.py", "        self.networks.eval()\n", "",
        ["methods/test_adversarial.py"]),
    "sassnet: the discriminator steps before the network": (
        "training/fit.py", "        total, terms = backward(",
        "        self.method.after_step(batch)\n        total, terms = backward(",
        ["methods/test_adversarial.py"]),
    "dtc: distance maps are positive inside": (
        "methods/sdm.py", "-within / within.max()", "within / within.max()",
        ["methods/test_sdm.py"]),
    "dtc: the segmentation head is detached": (
        "methods/dtc.py", "(level_set(sdm), prob)", "(level_set(sdm), prob.detach())",
        ["methods/test_dtc.py"]),
    "urpc: the ramp takes twice its length": (
        "methods/urpc.py", "stairs=original)", "ramp_share=2.0, stairs=original)",
        ["methods/test_urpc.py"]),
    "mc_net: the sharpened side is detached": (
        "methods/mc_net.py", "sharpen(prob, TEMPERATURE)", "sharpen(prob.detach(), TEMPERATURE)",
        ["methods/test_mc_net.py"]),
    "dan: the gradient stops at the softmax": (
        "methods/dan.py", "fooling(maps[labelled:], batch", "fooling(maps[labelled:].detach(), batch",
        ["methods/test_dan.py"]),
    "ss_net: memory from voxels that were not found": (
        "methods/ss_net.py", "rows_of((guess == y) & (y > 0)", "rows_of((guess != y) & (y > 0)",
        ["methods/test_ss_net.py"]),
    "ss_net: the highest scores are remembered": (
        "methods/ss_net.py", "largest=False", "largest=True",
        ["methods/test_ss_net.py"]),
    "ss_net: perturbed passes reach the running statistics": (
        "methods/ss_net.py", "            norm.track_running_stats = False\n", "            pass\n",
        ["methods/test_ss_net.py"]),
    "mcf: the worse network teaches": (
        "methods/mcf.py", "~(dice_a < dice_b)", "~(dice_a > dice_b)",
        ["methods/test_mcf.py"]),
    "mcf: voxels are rectified where the networks agree": (
        "methods/mcf.py", ".argmax(1) != both[1]", ".argmax(1) == both[1]",
        ["methods/test_mcf.py"]),
    "ict: the interpolation's shares are exchanged": (
        "methods/ict.py", "(1 - share) * first + share * second", "share * first + (1 - share) * second",
        ["methods/test_ict.py"]),
    "em: the entropy of unlabelled scans alone": (
        "methods/em.py", "entropy_loss(widened(logits)", "entropy_loss(widened(logits[labelled:])",
        ["methods/test_em.py"]),
    "cps: each subnet learns its own argmax": (
        "methods/cps.py", "(labels1, labels0)", "(labels0, labels1)",
        ["test_cml.py", "methods/test_registry.py"]),
    "cps: the discrepancy acts": (
        "methods/cps.py", "replace(recipe, lambda_dis=0)", "recipe",
        ["methods/test_registry.py"]),
    "cfl: pairs are mixed": (
        "methods/cps.py", "    def labelled_half(", "    def _labelled_half(",
        ["test_cml.py"]),
    "bcp: the teacher does not start as a copy": (
        "methods/bcp.py", "self.teacher.load_state_dict(self.networks.state_dict())", "pass",
        ["methods/test_bcp.py"]),
    "bcp: box and outside are exchanged": (
        "methods/bcp.py", "(mask, 1 - mask), weights", "(1 - mask, mask), weights",
        ["methods/test_bcp.py"]),
    "cml: view 1 of a pair learns the labels of view 0": (
        "cml.py", "return mix(p1, q0, mask), mix(p0, q1, mask)", "return mix(p1, q0, mask), mix(p1, q0, mask)",
        ["test_cml.py"]),
    "cml_plus: the second order repeats the first": (
        "methods/cml_plus.py", "torch.cat([scans, *reversed(scans.chunk(2))])", "scans.repeat_interleave(2, 0)",
        ["methods/test_cml_plus.py"]),
    "cml_plus: running statistics are not averaged": (
        "methods/cml_plus.py", "self.hyper.decay, buffers=True)", "self.hyper.decay)",
        ["methods/test_cml_plus.py"]),
    "cml_plus: brightness moves the darkest voxel": (
        "methods/cml_plus.py", "x = darkest + (x - darkest) * draw(*FACTORS)", "x = x * draw(*FACTORS)",
        ["methods/test_cml_plus.py"]),
    "ramps: stairs ignore that a counter is in advance": (
        "methods/ramps.py", "((batch.step + offset) // STAIR)", "(batch.step // STAIR)",
        ["methods/test_ramps.py"]),
    "protocols: short presets train as long as the paper's": (
        "methods/protocols.py", '    if recipe.preset == "paper":\n', "    if True:\n",
        ["methods/test_protocols.py"]),
}


def test_every_method_has_a_fault():
    assert set(registry.METHODS) <= {fault.split(":")[0] for fault in FAULTS}


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
