#!/usr/bin/env bash
# torchmetrics 1.9.0: a MetricCollection gives one score for three thresholds, if its first case is an empty one.
#
# One would believe: each metric of a collection has the value that it has alone. Metrics that count the same share their counts, which
# is said to save time; metrics with different thresholds do not count the same.
# What happens: whether they do is not read from their settings, but from their counts after the first update. If that was a
# slice without an organ, which every threshold calls empty, or any other on which all agree, they are joined, and from then on only
# the first one is updated. F1 at 0.3, 0.5 and 0.7 is 0.35, 1.00 and 0.75; the collection says 0.35 three times, and the threshold
# of the best validation score is the first of the list. The order of the cases decides. compute_groups=False is right.
# Whom it hurts: choice of a threshold, comparison of an ignore_index or an averaging, on validation sets whose first slices
# are empty, as those at the end of a volume are. `reset` does not part them: it is so in every epoch that follows. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryF1Score

torch.manual_seed(0)
empty = torch.full((64, 64), 0.01), torch.zeros(64, 64, dtype=torch.long)
organ = torch.zeros(64, 64, dtype=torch.long)
organ[20:40, 20:40] = 1
slices = [(0.5 * organ + 0.5 * torch.rand(64, 64), organ) for _ in range(4)]


def scores(cases, epochs=1, **options):
    collection = MetricCollection({f"at_{t}": BinaryF1Score(threshold=t / 10) for t in (3, 5, 7)}, **options)
    for _ in range(epochs):
        collection.reset()
        for probabilities, labels in cases:
            collection.update(probabilities, labels)
    return [round(score.item(), 2) for score in collection.compute().values()]


alone = scores([empty, *slices], compute_groups=False)
last, first = scores([*slices, empty]), scores([empty, *slices])
later = scores([empty, *slices], epochs=3)
print("F1 at thresholds 0.3, 0.5, 0.7:")
for name, values in (("compute_groups=False", alone), ("the empty slice last", last), ("the empty slice first", first),
                     ("the empty slice first, third epoch", later)):
    print(f"  {name}: {values}")
assert alone == last == [0.35, 1.0, 0.75] and first == later == [0.35, 0.35, 0.35]
PYTHON
