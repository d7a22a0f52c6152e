#!/usr/bin/env bash
# TensorBoard 2.21.0: its EventAccumulator returns 10,000 of a run's points, drawn at random, and says nothing.
#
# One would believe: `EventAccumulator(folder).Reload().Scalars(tag)`, the common way to read curves and the best validation score
# back from TensorBoard's files, returns every point that was written.
# What happens: it keeps 10,000 scalars of a tag by default, a random sample of them: of 30,000 steps, two of three are gone, the
# best one with them more often than not, and their number does not show it. size_guidance={"scalars": 0} keeps all.
# Whom it hurts: runs of 15,000 and 30,000 steps, as papers of this field have them, whose best value, step or curve is read so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 tensorboard==2.21.0
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

steps, peaks = 30_000, range(500, 30_000, 1_000)      # 30 validations that stand out
with SummaryWriter(f"{sys.argv[1]}/run") as writer:
    for step in range(steps):
        writer.add_scalar("dice", 0.9 if step in peaks else 0.5, step)
found = {}
for name, options in (("default", {}), ("all", {"size_guidance": {"scalars": 0}})):
    points = EventAccumulator(f"{sys.argv[1]}/run", **options).Reload().Scalars("dice")
    found[name] = len(points), sum(point.value > 0.8 for point in points)
    print(f"{name}: {found[name][0]} points, {found[name][1]} of {len(peaks)} peaks")
assert found["all"] == (steps, len(peaks))
assert found["default"][0] == 10_000 and found["default"][1] < 25
PYTHON
