#!/usr/bin/env bash
# PyTorch 2.13.0: ReduceLROnPlateau never lowers the learning rate of a loss below zero, however long it stands still.
#
# One would believe: the scheduler waits `patience` epochs without an improvement of 0.01 %, whatever the sign of the loss, and
# lowers the rate.
# What happens: the threshold is a factor. In mode 'min' a value counts as better below best * 0.9999, and of a best of -0.8 that
# is -0.79992, which is worse than the best. The same value again is an improvement, even a slightly worse one, which then is the
# new best: the loss may rise for ever at up to 0.01 % an epoch. Mode 'max' does the same below zero. threshold_mode='abs' is right.
# Whom it hurts: losses that are minus a Dice, as nnU-Net's are, and negative distances that are maximized. The same Dice as
# 1 - Dice is lowered as it should be, so the two ways to write one loss train two networks. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch


def rate(mode, values, **options):
    """The learning rate after these values."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, patience=10, **options)
    for value in values:
        optimizer.step()
        scheduler.step(value)
    return optimizer.param_groups[0]["lr"]


epochs = range(500)
rates = {}
for name, mode, values, options in (
        ("1 - Dice stands still at 0.2", "min", [0.2 for _ in epochs], {}),
        ("-Dice stands still at -0.8", "min", [-0.8 for _ in epochs], {}),
        ("-Dice becomes worse, -0.8 to -0.78", "min", [-0.8 + 0.02 * k / 500 for k in epochs], {}),
        ("minus a distance stands still at -5 mm, mode='max'", "max", [-5.0 for _ in epochs], {}),
        ("-Dice stands still at -0.8, threshold_mode='abs'", "min", [-0.8 for _ in epochs], {"threshold_mode": "abs"})):
    rates[name] = rate(mode, values, **options)
    print(f"{name}: the learning rate, 0.01 at first, is {rates[name]:.2g} after 500 epochs")
still, minus, worse, distance, absolute = rates.values()
assert still < 1e-7 and absolute < 1e-7
assert minus == worse == distance == 0.01
PYTHON
