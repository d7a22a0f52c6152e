"""The layout: what stands on the porch, which way imports run, how long a file is."""
import ast
from pathlib import Path

import pytest

from runtime.files import ROOT

CODE = ROOT / "code"
PORCH = {"train_LA", "train_ACDC", "train_BraTS", "test_LA", "test_ACDC", "test_BraTS", "prepare_LA", "prepare_ACDC",
         "prepare_BraTS", "prepare_folder", "predict", "demo", "reproduce", "benchmark", "gpu_day"}
# from the bottom up: a room may import from its own floor and from those below
FLOORS = ({"runtime"}, {"networks", "dataloaders", "imaging"}, {"cml", "method"}, {"methods"},
          {"evaluation"}, {"training"}, {"reproduction", "benchmarks"}, PORCH)


def modules():
    """Dotted name -> path of every module outside the tests."""
    paths = [path for path in CODE.rglob("*.py") if "tests" not in path.relative_to(CODE).parts]
    return {".".join(path.relative_to(CODE).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = modules()


def imported(path):
    """Dotted names of our modules that a file imports anywhere, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    rooms = {name for name in MODULES if "." not in name and MODULES[name].name == "__init__.py"}
    return (names & set(MODULES)) - rooms


def floor(module):
    room = module.split(".")[0]
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_the_porch_holds_the_commands_the_method_and_what_a_method_is():
    assert {path.stem for path in CODE.glob("*.py")} == PORCH | {"cml", "method"}
    assert not (CODE / "__init__.py").exists()      # it would shadow the standard library's `code`


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_one_way(module):
    for other in imported(MODULES[module]):
        assert floor(other) <= floor(module), f"{module} imports {other}"


def test_imports_make_no_circle():
    graph = {module: imported(path) for module, path in MODULES.items()}
    done, open_ = set(), []

    def visit(module):
        assert module not in open_, " -> ".join([*open_, module])
        if module not in done:
            open_.append(module)
            for other in graph[module]:
                visit(other)
            open_.pop()
            done.add(module)
    for module in graph:
        visit(module)


def test_package_files_hold_a_docstring_alone():
    for path in CODE.rglob("__init__.py"):
        [only] = ast.parse(path.read_text()).body
        assert isinstance(only, ast.Expr) and isinstance(only.value.value, str), path


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_file_is_longer_than_300_lines(module):
    assert len(MODULES[module].read_text().splitlines()) <= 300


SIBLINGS = {"Hyper", "Options", "Encoder", "Trunk", "Decoder"}      # of each method, script and backbone: one role


def test_two_public_classes_never_share_a_name():
    seen = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name[0] != "_" and node.name not in SIBLINGS:
                assert node.name not in seen, f"{node.name} in {seen.get(node.name)} and {module}"
                seen[node.name] = module


def test_run_folders_and_scans_are_not_tracked_by_accident():
    ignored = Path(ROOT, ".gitignore").read_text().split()
    assert "model/*" in ignored and "data/**/*.h5" in ignored
