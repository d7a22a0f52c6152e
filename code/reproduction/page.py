"""report.html: every table, curve and figure, and cases of runs with weights, in one file without outside requests."""
import io
import math
import zlib
from pathlib import Path

import numpy as np

from evaluation import published
from evaluation.metrics import overlap_of_classes
from evaluation.plots import upright
from evaluation.sprites import COLOURS, LIMIT, box_around, greys, image_sprite, rendered, sprite, uri
from methods import registry
from reproduction import columns, figures
from reproduction.experiments import APPEARANCE, PLACES
from reproduction.results import RESULTS, say
from reproduction.runs import MODEL
from reproduction.segmentations import ranked, segmented, tested
from runtime.errors import InputError, counted, one_line
from runtime.files import ROOT, check_writable, write_text
from training import datasets
from training.recipe import load_recipe, read_config

MINI = "`mini` is too short to rank methods: it shows that they run and learn."
VEILED = [(*colour, 150) for colour in COLOURS]     # with opacity
TEMPLATE = Path(__file__).parent / "templates/report.html"


def write(output=ROOT / "report.html", runs=(), cases=12, data_dir=None, device="auto", results=None):
    """As `reproduce.py report` says."""
    read = (results,) if results else RESULTS
    check_writable(output)
    drawn = _figures(read)
    browser = _browser(runs or _with_weights(), cases, device, data_dir, optional=not runs)
    names = {run["name"] for run in browser["runs"]}
    try:
        if shown := [folder for folder in runs or _with_weights() if _name_of(folder) in names]:
            drawn["figure4_runs"] = figures.segmentations(figures.weights_of(shown), device, data_dir)
    except InputError as error:
        if runs:
            raise
        say(f"left out: Figure 4 of the runs in {MODEL}: {one_line(error)}")
    tables = sorted(_tables(read), key=lambda table: (not any(row["runs"] for row in table["rows"]), table["papers"]))
    context = {"tables": tables, "curves": list(_curves(tables)), "pictures": list(_pictures(drawn)),
               "browser": browser}
    text = rendered(TEMPLATE, **context)
    write_text(output, text)
    print(f"wrote {output} ({len(text.encode()) / 1e6:.1f} MB, {counted(len(names), 'run')} with cases)")


# ---- tables and curves -------------------------------------------------------------------------------------------


def _tables(results):
    """Places as tables: the paper's at the presets that have runs (and at `paper`), ours at their own."""
    for name, place in PLACES.items():
        for preset in [place.preset] if place.preset else ["paper", "short", "mini"]:
            headings, rows = columns.table(place, preset, results)
            there = any(line.runs for *_, line in rows)
            if not there and (preset != "paper" or name.startswith("figure")):
                continue
            yield {"id": f"{name}_{preset}", "caption": place.caption, "preset": preset, "headings": headings,
                   "papers": place.preset is None,
                   "note": published.NOTES.get(name, "") or (preset == "mini" and MINI), "rows": [
                       {"title": title, "cells": cells, "method": line.row.experiment.method,
                        "runs": [_origin(found) for found in line.runs.values()]} for title, cells, line in rows]}


def _origin(found):
    """Where a row's numbers come from."""
    command, commit = (found.config.get(name) or "unknown" for name in ("command", "commit"))
    return {"name": _name_of(found.folder), "command": str(command), "commit": str(commit)[:12], "folder": found}


def _curves(tables):
    """Each run's Dice on the watched cases, once."""
    seen = set()
    for table in tables:
        for row in table["rows"]:
            for run in row["runs"]:
                found = run.pop("folder")
                if run["name"] in seen:
                    continue
                seen.add(run["name"])
                rows = found.validations
                pre = max([one["step"] for one in rows if one["stage"] == "pre"], default=0)
                points = [[int(one["step"] + pre * (one["stage"] != "pre")), round(dice, 2)]
                          for one, dice in zip(rows, found.headlines, strict=True) if math.isfinite(dice)]
                if points:
                    yield {"name": run["name"], "colour": APPEARANCE[row["method"]][1], "points": points}


CAPTIONS = {"figure2": "Figure 2: Dice of each view over the steps", "figure5": "Figure 5: sensitivity",
            "figure6": "Figure 6: Dice of the methods", "costs": "Dice on the watched cases against what it cost",
            "figure4": "Figure 4: segmentations; white outline: reference"}


def _figures(results):
    """{name_preset: matplotlib figure or None}: of the paper's places, and of our own protocols."""
    return {f"{name}_{preset}": figures.of_place(name, preset, results) for name in ("figure2", "figure5", "figure6")
            for preset in ("paper", "short", "mini")} | {name: figures.own(name, results) for name in figures.OURS}


def _pictures(drawn):
    for name, figure in drawn.items():
        if figure:
            kind, preset = name.split("_")
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=110)
            yield {"caption": f"{CAPTIONS[kind]} ({preset})", "source": uri(file.getvalue())}


# ---- cases -------------------------------------------------------------------------------------------------------


def _with_weights():
    """Run folders in model/ with weights and a tested list."""
    return [path.parent for path in sorted(MODEL.glob("*/*/last.pt")) if tested(path.parent)]


def _name_of(folder):
    return f"{folder.parent.name}/{folder.name}"


def _browser(folders, count, device, data_dir, optional=False):
    """Runs with the sprites of their worst cases; images are shared by the runs of a data set.

    optional: runs that cannot be shown, since their scans were moved, say, are left out, and named.
    """
    segmentations, listed = {}, []      # of each image, however many data sets have a case of its name
    for folder in folders:
        try:
            run, cases = _shown(folder, count, device, data_dir)
        except InputError as error:
            if not optional:
                raise
            say(f"left out: {_name_of(folder)}: {one_line(error)}")
            continue
        listed.append(run)
        for rank, (case, dice) in enumerate(cases):
            group = segmentations.setdefault(_identity(run["dataset"], case), [rank, []])
            group[0] = min(group[0], rank)
            group[1].append((run, case, dice))
    images, size = {}, 0
    for key, (_, group) in sorted(segmentations.items(), key=lambda item: item[1][0]):
        image, entries = _sprites(group)
        size += len(image["source"]) + sum(len(layer) for _, entry in entries for layer in entry["layers"].values())
        if size > LIMIT:
            break
        images[key] = image
        for run, entry in entries:
            run["cases"].append(entry | {"image": key})
    for run in listed:
        run["cases"].sort(key=lambda case: case["dice"])
    return {"images": images, "runs": [run for run in listed if run["cases"]]}


def _shown(folder, count, device, data_dir):
    """What the page says of a run, and its worst cases, `Segmented`, with their Dice in percent."""
    config, (split, names) = read_config(folder), ranked(folder)
    method = config["recipe"]["method"]
    run = {"name": _name_of(folder), "method": APPEARANCE.get(method, (method,))[0], "dataset": config["dataset"],
           "split": split, "tested": len(names), "cases": [], "pair": registry.method_class(method).pair,
           "classes": load_recipe(folder, datasets.of_run(folder).recipe).classes}
    return run, [(case, round(100 * names[case.name], 1))
                 for case in segmented(folder, list(names)[:count], device, data_dir)]


def _identity(dataset, case):
    """Equal for one scan with one reference, and for no others, whatever their names and folders."""
    content = zlib.crc32(case.reference.tobytes(), zlib.crc32(case.image.tobytes()))
    return f"{dataset}/{case.name}/{content:08x}_{'x'.join(map(str, case.image.shape))}"


def _sprites(group):
    """Of one case and the runs that segmented it, its Dice in their tests beside: the image, and a run's label maps,
    slices below each other.
    """
    first = group[0][1]
    marked = np.any([first.reference > 0, *(view > 0 for _, case, _ in group for view in case.views.values())], axis=0)
    box = box_around(marked, [axis for axis in range(3) if axis != first.depth_axis])

    def cut(array):
        return upright(array[box], first.depth_axis, first.axes)

    image = image_sprite(greys(cut(first.image)))
    entries = []
    for run, case, dice in group:
        layers = {"reference": case.reference, **case.views}
        entry = {"name": case.name, "layers": {name: sprite(cut(labels), VEILED) for name, labels in layers.items()},
                 "views": {name: [None if math.isnan(one) else round(100 * one, 1) for one in
                                  overlap_of_classes(labels, case.reference, len(run["classes"]) + 1)]
                           for name, labels in case.views.items()}, "dice": dice}
        if run["pair"]:
            one, other = (case.views[name] for name in run["pair"])
            entry["layers"]["disagreement"] = sprite(cut((one != other).astype(np.uint8)), [(255, 255, 255, 255)])
        entries.append((run, entry))
    return image, entries
