"""README leads to what is there: files, functions, scripts and their options; and is short enough to be read."""
import importlib
import re

import pytest

from runtime.files import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = [name for row in re.findall(r"^\| .*\|$", TEXT[TEXT.index("## Where the paper is in the code"):], re.M)
        for name in re.findall(r"`([^`]+)`", row.split("|")[2])]


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 130


@pytest.mark.parametrize("name", CODE)
def test_the_papers_parts_are_where_it_says(name):
    if "/" in name or name.endswith(".py"):
        assert (ROOT / "code" / name).exists()
        return
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):      # module, then what it holds
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return
    raise AssertionError(name)


def test_its_links_and_scripts_lead_to_files():
    files = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not link.startswith("https://")]
    scripts = re.findall(r"code/\w+\.py", TEXT) + [f"code/{name}" for name in re.findall(r"`(\w+\.py)`", TEXT)]
    assert len(files) > 8 and len(scripts) > 8
    assert not [path for path in files + scripts if not (ROOT / path).exists()]
