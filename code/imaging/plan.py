"""plan.json: what prepare_folder.py saw of somebody's scans, and how to prepare and train on them, with reasons."""
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from runtime.errors import InputError
from runtime.files import write_text
from runtime.records import build, read_json

PLAN = "plan.json"
REMEDY = "correct it, or let prepare_folder.py write it again"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What follows from the scans. Axes are those of the prepared arrays: of a patch of slices, those in the plane."""

    class_names: tuple[str, ...] = ()       # of the foreground classes
    slices: Literal["none", "x", "y", "z"] = "none"     # the body's axis along which scans are taken slice by slice
    patch_size: tuple[int, ...] = (112, 112, 80)        # voxels: three axes, of slices two
    flips: tuple[int, ...] = ()             # axes of the patch that may be mirrored
    quarter_turns: bool = False             # in the plane of the patch's first two axes
    keep_largest: tuple[int, ...] = ()      # classes of which the largest component alone is kept
    foreground: float = 0.5                 # share of labelled patches that hold foreground


def read_plan(path: Path) -> tuple[Plan, dict[str, str]]:
    """The plan in a file, and {line: its reason}; InputError for what is no plan."""
    lines = read_json(path, REMEDY).get("plan")
    if not isinstance(lines, dict) or not all(isinstance(line, dict) and "value" in line for line in lines.values()):
        raise InputError(f"{path}: is no plan, expected \"plan\" with a value and a reason for each line: {REMEDY}")
    plan = build(Plan, {name: line["value"] for name, line in lines.items()}, path, REMEDY)
    return plan, {name: str(line.get("reason", "")) for name, line in lines.items()}


def write_plan(path: Path, seen: dict, plan: Plan, reasons: dict[str, str]) -> None:
    lines = {field.name: {"value": getattr(plan, field.name), "reason": reasons.get(field.name, "")}
             for field in fields(plan)}
    write_text(path, json.dumps({"seen": seen, "plan": lines}, indent=1, ensure_ascii=False) + "\n")


def shrunk(patch_size: tuple[int, ...], voxels: int) -> tuple[int, ...]:
    """A patch of multiples of 16 with at most so many voxels, in the proportions of `patch_size` as far as may be."""
    sides = list(patch_size)
    while math.prod(sides) > voxels and max(sides) > 16:
        axis = max((axis for axis, side in enumerate(sides) if side > 16),
                   key=lambda axis: sides[axis] / patch_size[axis])
        sides[axis] -= 16
    return tuple(sides)
