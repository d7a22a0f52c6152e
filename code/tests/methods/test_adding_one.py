"""docs/methods.md: its table and paragraphs against the code, and its example, added to a copy of the code and run."""
import ast
import dataclasses
import re

import pytest
import torch

from methods import protocols, registry
from runtime.files import ROOT
from train_ACDC import PRESETS

DOCUMENT = ROOT / "docs/methods.md"


def example():
    return re.search(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)[1]


@pytest.mark.parametrize("name", registry.METHODS)
def test_every_method_has_a_paragraph_with_its_command_and_what_is_tested(narrow, name):
    text = re.search(rf"^### {name}\n(.*?)(?=^#)", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[1]
    assert re.search(rf"`python code/train_ACDC.py --method {name}`", text)
    recipe = dataclasses.replace(PRESETS["mini"], method=name, patch_size=(32, 32))
    with torch.no_grad():
        views = registry.build(recipe).eval().predict(torch.zeros(2, 1, 32, 32))
    assert re.search(r"Tested:\s+`(\w+)`", text)[1] == next(iter(views))


def written(cell):
    """A cell of `protocols.TABLE` in the document's words."""
    batch = "+".join(str(part) for part in cell.batch if part)
    steps = "+".join(f"{part:,}" for part in cell.steps if part)
    rate = "" if cell.lr == 0.01 else f", {cell.lr:g}"
    return f"{batch}, {steps}, {cell.schedule}{rate}{'' if cell.released else ' *'}"


def test_the_table_of_protocols_is_the_codes():
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, row in protocols.TABLE.items():
        assert f"| {name} | {' | '.join(map(written, row))} |" in text
    assert text.count("+") > 0 and set(re.findall(r"^\| (\w+) \| \d+[,+]", text, re.MULTILINE)) == set(protocols.TABLE)


def test_the_example_is_a_class_of_thirty_lines():
    [definition] = [node for node in ast.parse(example()).body if isinstance(node, ast.ClassDef)]
    body = example().splitlines()[definition.lineno:definition.end_lineno]
    assert len([line for line in body if line.strip()]) <= 30


def test_the_example_trains_and_validates(recipe, runs, narrow, no_curves, monkeypatch, tmp_path):
    """With its line in the registry; the long test adds it as a user does."""
    (tmp_path / "two_heads.py").write_text(example(), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.METHODS.places, "two_heads", "two_heads.TwoHeads")
    run = runs.train(recipe(method="two_heads", pre_steps=1, self_steps=3))
    assert len(runs.rows(run)) == 4 and all(float(row["head"]) > 0 for row in runs.rows(run))
    assert list(runs.rows(run, "val.csv")[-1]) == ["stage", "step", "split", "first", "second"]


@pytest.mark.slow
@pytest.mark.parametrize(("chosen", "passed"), [("ACDC", 7), ("LA or BraTS2019 or processes", 16)])
def test_the_example_trains_resumes_runs_on_two_processes_is_tested_and_predicts(copied, chosen, passed):
    """One file and one line of the registry; the tests of all methods then are its tests."""
    (copied.root / "code/methods/two_heads.py").write_text(example(), encoding="utf-8")
    line = re.search(r'"two_heads": "[\w.]+",', DOCUMENT.read_text(encoding="utf-8"))[0]
    copied.replace("methods/registry.py", "METHODS = Methods({\n", f"METHODS = Methods({{\n    {line}\n")
    done = copied.tests("-m", "", "code/tests/methods/test_matrix.py", "-k", f"two_heads and ({chosen})")
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(rf"^{passed} passed", done.stdout, re.MULTILINE), done.stdout[-500:]
