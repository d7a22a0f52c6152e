"""The layout: what stands on the porch, and which way imports run."""
import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.files import ROOT

CODE = ROOT / "code"
PORCH = {"train_LA", "train_ACDC", "train_BraTS", "train_own", "test_LA", "test_ACDC", "test_BraTS", "test_own",
         "prepare_LA", "prepare_ACDC", "prepare_BraTS", "prepare_folder", "predict", "label_next", "take_labels",
         "export", "demo", "reproduce", "benchmark", "gpu_day"}
# from the bottom up: a room may import from its own floor and from those below
FLOORS = ({"runtime"}, {"networks", "dataloaders", "imaging"}, {"cml", "method"}, {"methods"},
          {"evaluation"}, {"training"}, {"reproduction", "benchmarks"}, PORCH)


def modules():
    """Dotted name -> path of every module outside the tests, and outside templates, which are copied elsewhere."""
    paths = [path for path in CODE.rglob("*.py") if not {"tests", "templates"} & set(path.relative_to(CODE).parts)]
    return {".".join(path.relative_to(CODE).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = modules()


@functools.cache
def imported(path):
    """Dotted names of our modules that a file imports anywhere, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
        [only] = ast.parse(path.read_text(encoding="utf-8")).body
        assert isinstance(only, ast.Expr) and isinstance(only.value.value, str), path


SIBLINGS = {"Hyper", "Options", "Encoder", "Trunk", "Decoder"}      # of each method, script and backbone: one role


def test_two_public_classes_never_share_a_name():
    seen = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name[0] != "_" and node.name not in SIBLINGS:
                assert node.name not in seen, f"{node.name} in {seen.get(node.name)} and {module}"
                seen[node.name] = module


def test_run_folders_and_scans_are_not_tracked_by_accident():
    ignored = Path(ROOT, ".gitignore").read_text(encoding="utf-8").split()
    assert "model/*" in ignored and "data/**/*.h5" in ignored


ELSEWHERE = """
import ctypes, importlib, os, signal, sys
for name in {others}:
    importlib.import_module(name)

def refuse(name, *_):
    raise TypeError("expected a name")
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
for module, names in {{signal: ("SIGHUP", "SIGKILL"), os: ("pwrite", "sched_getaffinity", "fork", "killpg")}}.items():
    for name in names:
        delattr(module, name)
ctypes.CDLL = refuse
for name in {own}:
    importlib.import_module(name)
from runtime import device, memory
device._keep_freed_memory(3)
"""


def test_every_module_loads_where_posix_is_not():
    """As on Windows: no `resource`, no SIGHUP, no os.pwrite, no ctypes.CDLL(None)."""
    others = sorted({name.split(".")[0] for path in MODULES.values() for node in ast.walk(ast.parse(path.read_bytes()))
                     for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                                  [node.module] if isinstance(node, ast.ImportFrom) else [])}
                    - {name.split(".")[0] for name in MODULES} - {"resource", "monai"})     # which may be absent
    code = ELSEWHERE.format(others=others, own=sorted(MODULES))
    done = subprocess.run([sys.executable, "-c", code], cwd=CODE, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def says_encoding(call):
    """Whether a call of `open`, `read_text` and the like names an encoding, or is of bytes."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    said = {keyword.arg: keyword.value for keyword in call.keywords}
    if name in ("run", "Popen", "check_output"):
        return not {"text", "universal_newlines"} & said.keys() or "encoding" in said
    if name == "open":
        module = "io" if isinstance(call.func, ast.Name) else getattr(call.func.value, "id", "")
        place = module in ("io", "gzip")
        mode = said.get("mode", call.args[place] if len(call.args) > place else
                        ast.Constant("rb" if module == "gzip" else "r"))
        is_mode = isinstance(mode, ast.Constant) and isinstance(mode.value, str) and set(mode.value) <= set("rwxabt+")
        return not is_mode or "b" in mode.value or "encoding" in said
    return name not in ("read_text", "write_text") or "encoding" in said or isinstance(
        call.func, ast.Name)        # of runtime.files


@pytest.mark.parametrize("path", sorted(CODE.rglob("*.py")), ids=str)
def test_text_is_read_and_written_in_utf_8_whatever_the_locale(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    assert [f"line {call.lineno}: {ast.unparse(call)[:60]}" for call in calls if not says_encoding(call)] == []


SLOW = {"torch", "tensorboard", "matplotlib", "nibabel", "skimage"}     # packages that take long to load
NUMBERS = {"numpy", "scipy", "h5py"}                # ... and what the prepare scripts' options do without, too
SCANS = {"nibabel", "skimage"}                      # of scripts that train, test and predict


LIGHT = {script for script in PORCH if script.startswith("prepare_")} | {"benchmark", "gpu_day"}
HELPS = """
import runpy, sys
for script in sys.argv[1:]:
    sys.argv = [f"{script}.py", "--help"]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stopped:
        assert not stopped.code
    print("loaded", script, len(sys.modules), *sorted({name.split(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize(("scripts", "kept_out", "most"), [
    (LIGHT, SLOW | NUMBERS, 500), (PORCH - LIGHT, SLOW - SCANS, 1_500)], ids=["light", "others"])
def test_help_loads_nothing_that_takes_seconds(scripts, kept_out, most):
    """One script's --help after the other's in one process, which then has loaded what any of them loads."""
    done = subprocess.run([sys.executable, "-c", HELPS, *sorted(scripts)], cwd=CODE, capture_output=True,
                          encoding="utf-8", timeout=120)
    assert done.returncode == 0 and done.stdout.count("usage") >= len(scripts), done.stderr[-2000:]
    rows = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("loaded ")]
    assert [script for script, *_ in rows] == sorted(scripts)
    for script, count, *packages in rows:
        assert not kept_out & set(packages), script
        assert 100 < int(count) < most, script


def test_every_finding_can_be_run():
    scripts = list((ROOT / "findings").glob("*.sh"))
    assert scripts and all(path.stat().st_mode & 0o111 for path in scripts)
