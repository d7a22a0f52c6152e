"""README and docs lead to what is there: files, functions, scripts, options; README is short enough to be read."""
import dataclasses
import importlib
import inspect
import re

import pytest

from evaluation.pooled import OwnOptions
from runtime.files import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("[dmf]*/README.md")])
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


def test_its_scripts_lead_to_files():
    scripts = re.findall(r"code/\w+\.py", TEXT) + [f"code/{name}" for name in re.findall(r"`(\w+\.py)`", TEXT)]
    assert len(scripts) > 8 and not [path for path in scripts if not (ROOT / path).exists()]


def anchors(document):
    """What links to its headings end in, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(document):
    prose = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", prose):
        name, _, heading = link.partition("#")
        there = document.parent / name if name else document
        assert there.exists() and (not heading or heading in anchors(there)), link


def options_of(script):
    """Names of a script's options, those of all its subcommands together."""
    there = [*vars(importlib.import_module(script)).values(), *[OwnOptions] * script.startswith("test_")]
    fields = [field.name for one in there if isinstance(one, type) and dataclasses.is_dataclass(one)
              for field in dataclasses.fields(one)]
    arguments = [name for one in there if inspect.isfunction(one) for name in inspect.signature(one).parameters]
    return {f"--{name.replace('_', '-')}" for name in (*fields, *arguments)} | {"--from-config", "--debug", "--help"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_name_options_that_their_scripts_have(document):
    text = document.read_text(encoding="utf-8")
    for script, words in re.findall(r"python code/(\w+)\.py([^`\n#|;]*)", text):
        assert not set(re.findall(r"--[a-z-]+\b(?!\.)", words)) - options_of(script), (script, words)
