#!/usr/bin/env bash
# torchmetrics 1.9.0: the generalized Dice per class of a perfect prediction is 0.5, where half of the cases lack the class.
#
# One would believe: a prediction that equals its reference has the score 1 in every class that any case has, as `DiceScore` of the
# same package gives it, and as `GeneralizedDiceScore` gives it over all classes.
# What happens: with per_class=True a class that is in neither map of a case counts as 0 there, and the mean over cases is reported.
# Whom it hurts: tables of classes that not every patient has, lesions or the right ventricle: the rarer the class, the worse it
# looks, at equal quality.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torchmetrics.segmentation import DiceScore, GeneralizedDiceScore

reference = torch.zeros(2, 16, 16, dtype=torch.long)
reference[:, 2:6, 2:6] = 1          # both cases have class 1
reference[0, 8:12, 8:12] = 2        # one of them has class 2
options = dict(num_classes=3, include_background=False, input_format="index")
per_class = GeneralizedDiceScore(per_class=True, **options)(reference, reference).tolist()
whole = GeneralizedDiceScore(**options)(reference, reference).item()
dice = DiceScore(average="none", **options)(reference, reference).tolist()
print(f"generalized Dice per class {per_class}, over all classes {whole:g}; Dice per class {dice}")
assert per_class == [1, 0.5] and whole == 1 and dice == [1, 1]
PYTHON
