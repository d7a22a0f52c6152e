"""What prepare_folder.py does: somebody's scans to prepared cases, lists and a plan."""
from collections.abc import Collection
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

from dataloaders.folds import FOLDS, read_folds
from imaging.case_files import is_other, told
from imaging.cases import LAYOUT, Case, existing_folder, has_gpu, in_shell, listed, shown
from imaging.dicom import is_dicom
from imaging.folders import Found, find
from imaging.label_values import label_values, segment_values, tell_regions
from imaging.labelling import SEGMENTS, TESTS, Sources, source_files
from imaging.own_lists import TEST, TRAIN, VAL, OurFiles, last_patients, write_lists, write_patients
from imaging.patients import PATIENTS, Patients
from imaging.plan import PLAN, PREPARED, REPLAN, Choice, Plan, plan_preparation, plan_text, plan_training, read_plan
from imaging.preparation import in_parallel, prepare_cases, voxels_of
from imaging.record import COARSEST, EXPECTED, FINEST, PLAIN, Preprocessing, read_as, read_preprocessing
from imaging.survey import look_at_label, look_at_scan
from runtime.errors import InputError, counted
from runtime.files import write_text
from runtime.locks import locked
from runtime.records import from_record, read_json

LOOKED_AT = 20      # scans without a label that are looked at for the plan, at most


def sources_of(found: Found, options) -> Sources:
    """Where the scans came from, and the options by which more of their labels are prepared in the same way."""
    command = []
    for option in fields(options):
        value = getattr(options, option.name)
        if option.name in ("workers", "force", "holdout") or value == option.default or value is False:
            continue
        values = value if isinstance(value, tuple) else [value] * (value is not True)
        command += [f"--{option.name.replace('_', '-')}",
                    *(str(one.resolve() if isinstance(one, Path) else one) for one in values)]
    return Sources(tuple(command), str(labels_folder(found, options).resolve()), found.channels,
                   {case.name: source_files(case.images) for case in found.cases})


def labels_folder(found: Found, options) -> Path:
    return found.description.path.parent / "labelsTr" if found.description else options.labels


def for_testing(found: Found, options) -> set[str]:
    """Cases that label_next.py drew for testing."""
    return {*listed(options.output / TESTS), *listed(labels_folder(found, options) / TESTS)}


# ---- the plan --------------------------------------------------------------------------------------------------


def preparation(found: Found, classes, segments, patients: Patients,
                options) -> tuple[dict, dict[str, Choice], str | None]:
    """What was seen, the plan's lines by which scans are prepared, and the text of a plan that stands as it is.

    They come from --plan, from the plan or the record of the data that are there, or from the scans, as with --force
    where no plan was edited; --spacing and --normalise replace them.
    """
    path, fixed = options.plan or options.output / PLAN, None
    edited = path.exists() and not OurFiles(options.output).holds(path)
    before = None if options.force else read_preprocessing(options.output)
    if options.plan or edited or (path.exists() and not options.force):
        plan, reasons = read_plan(path)
        seen = read_json(path, "").get("seen", {})
        lines = {name: Choice(getattr(plan, name), reasons.get(name, "")) for name in PREPARED}
        if options.plan or edited:
            fixed = path.read_text(encoding="utf-8")
    elif before is not None:
        (seen, lines), why = look(found, classes, segments, patients, options), "as the data there were prepared"
        slices = next((axis for axis in (lines["slices"].value, *"yz")
                       if Plan(slices=axis).orientation == before.orientation), "none")
        spacing = before.spacing and [before.spacing[before.orientation.index(side)] for side in "RAS"]
        lines = {"slices": Choice(slices, why), "spacing": Choice(spacing, why),
                 "normalise": Choice(before.normalise, why), "windows": Choice(before.windows, why)}
    else:
        seen, lines = look(found, classes, segments, patients, options, ct=options.normalise == "ct" or None)
    asked = {name: value for name in ("spacing", "normalise") if (value := getattr(options, name)) is not None}
    if fixed:
        check_same_as_plan({name: value for name, value in asked.items() if value != lines[name].value}, path)
    lines |= {name: Choice(value, f"--{name}") for name, value in asked.items()}
    if asked.get("normalise") == "ct" and not lines["windows"].value:
        lines["windows"] = look(found, classes, segments, patients, options, ct=True)[1]["windows"]
    if lines["normalise"].value != "ct":
        lines["windows"] = Choice((), "for CT alone")
    return seen, lines, fixed


def check_same_as_plan(differing: Collection[str], path: Path) -> None:
    """InputError where options, by their names, ask for something else than an edited plan."""
    if differing:
        words = " --".join(differing).replace("_", "-")
        raise InputError(f"--{words} and {path}, which is edited: write it into that plan, or leave it out")


def planned_names(path: Path, count: int, options) -> tuple[str, ...]:
    """Names of the foreground classes, so many, as an edited plan has them."""
    names = read_plan(path)[0].class_names
    check_same_as_plan(["class_names"] if options.class_names not in ((), names) else [], path)
    if len(names) not in (0, count):
        raise InputError(f"{path}: class_names has {counted(len(names), 'name')}, expected {count}, one for each class "
                         f"but the background, or none: {REPLAN}")
    return names


def look(found: Found, classes, segments, patients: Patients, options, ct=None) -> tuple[dict, dict[str, Choice]]:
    """What is seen of the labelled scans, without those held out, and some others; the plan's lines that follow."""
    others, labelled = [case for case in found.cases if case.label is None], found.labelled
    held = listed(options.output / TEST)
    kept = set(map(patients.of, {*held, *listed(options.output / VAL), *for_testing(found, options)}))
    labelled = [case for case in labelled if patients.of(case.name) not in kept]
    kept = last_patients([case.name for case in labelled], max((options.holdout or 0) - len(held), 0), patients)
    trained = [case for case in labelled if case.name not in kept] or labelled
    chosen = trained + others[::-(-len(others) // LOOKED_AT) or 1]
    work = partial(look_at_scan, channels=max(len(found.channels), 1), labels=classes, geometry=options.geometry,
                   same_affine=not options.same_voxels, allow_empty=True, segments=segments)
    scans = {case.name: scan for case, scan in in_parallel(work, chosen, options.workers) if isinstance(scan, dict)}
    if not scans:       # their preparation says why
        return {}, {name: Choice(getattr(Plan(), name)) for name in PREPARED}
    scans = {case.name: scans[case.name] for case in chosen if case.name in scans}
    seen = {"scans": {name: {"shape": scan["shape"], "spacing": scan["spacing"],
                             "lowest": [channel["lowest"] for channel in scan["channels"]],
                             "background": [round(channel["background"], 3) for channel in scan["channels"]]}
                      for name, scan in scans.items()}}
    kinds = [kind.upper() for kind in found.description.channels] if found.description else []
    if ct is None and "CT" in kinds:
        ct = set(kinds) == {"CT"}
    return seen, plan_preparation(list(scans.values()), ct)


def plan_network(good, seen, lines, plan, names, options) -> None:
    """Write plan.json with the lines by which a network is trained on the prepared cases."""
    held = {name for file in (VAL, TEST) for name in listed(options.output / file)}
    labelled = [name for name, case in good.items() if case["classes"] and name not in held]
    cases = [Case(name, ()) for name in labelled]
    labels = {case.name: result for case, result in in_parallel(
        partial(_look_at_label, folder=options.output, slices=plan.slices != "none"), cases, options.workers)}
    lines |= plan_training(plan, [case["shape"][-3:] for case in good.values()],
                           [case["spacing"] for case in good.values()],
                           {name: labels[name] for name in labelled if isinstance(labels[name], dict)}, names)
    OurFiles(options.output).write(options.output / PLAN, plan_text(seen | {"labels": labels}, lines))


def _look_at_label(case, folder, slices):
    return look_at_label(folder / LAYOUT.format(case=case.name), slices)


def tell_plan(path: Path) -> None:
    """One line of what is planned."""
    plan, _ = read_plan(path)
    what = "volumes" if plan.slices == "none" else f"slices along {plan.slices}"
    size = plan.spacing and f"resampled to {' x '.join(f'{side:g}' for side in plan.spacing)} mm"
    patch = " x ".join(map(str, plan.patch_size))
    print(f"plan: {what}, voxels {size or 'as they are'}, {plan.normalise}, patches of {patch}; {shown(path)} says "
          "why, and may be edited")


def prepare_folder(options) -> int:
    """The exit code: 0, or 2 where a case is bad. `options` are those of prepare_folder.py."""
    if options.images and not options.dataset_json:
        options = replace(options, images=existing_folder(options.images))
    found = find(options.images, options.labels, options.dataset_json, options.channels, options.test_images)
    for why, files in found.aside.items():
        print(f"{counted(len(files), 'file')} left aside, such as {min(path.name for path in files)}: {why}")
    print(f"{counted(len(found.cases) + len(found.bad), 'case')}, {len(found.labelled)} of them with a label"
          f"{f'; channels: {chr(32).join(found.channels)}' if found.channels else ''}")
    folders = {path.parent for case in found.cases for path in (*case.images, case.label) if path}
    others = [path for folder in sorted(folders) for path in sorted(folder.iterdir())
              if is_other(path) and not is_dicom(path) and path.name not in (TESTS, SEGMENTS)]
    if others := found.images_aside + others:
        print(f"{counted(len(others), 'file')} left aside, which are no scans: {told(others)}")
    tell_regions(found.description)
    count = found.description and found.description.count
    if isinstance(count, int) and count > len(found.labelled):
        print(f"{found.description.path} says {counted(count, 'training case')} (numTraining), of which "
              f"{len(found.labelled)} are here with a label")
    with locked(options.output, "--output"):
        return prepare(found, options)


def tell_twins(good: dict[str, dict], output: Path, tests: Collection[str]) -> None:
    """Say which cases are one scan under several names: one may be trained on, and another one test the result.

    InputError where one of the lists in `output`, of its folds or of `tests` is gone and here under a new name.
    """
    twins, folds = {}, read_folds(output)
    places = dict.fromkeys(folds.cases if folds else (), FOLDS)
    places |= dict.fromkeys([*listed(output / TEST), *tests], TEST)
    places |= dict.fromkeys(listed(output / VAL), VAL)
    gone = {voxels_of(output / LAYOUT.format(case=name)): name for name in sorted(places.keys() - good.keys())}
    for name in good.keys() - {*places, *listed(output / TRAIN)}:
        if known := gone.get((good[name]["shape"], good[name]["voxels"])):
            in_fold = places[known] == FOLDS
            raise InputError(f"{name}: is the {'' if in_fold else 'held-out '}case {known} under a new name, voxel by "
                             f"voxel, and would {'join another fold' if in_fold else 'be trained on'}; name it {known} "
                             f"again, or write {name} instead of {known} into {places[known]}; the lists are as they "
                             "were")
    for name, case in good.items():
        twins.setdefault((case["shape"], case["voxels"]), []).append(name)
    for (_, voxels), names in twins.items():
        if voxels is not None and len(names) > 1:
            print(f"{', '.join(names)}: one scan under {len(names)} names, voxel by voxel; leave one of them, or "
                  "a network is tested on what it was trained on")


def prepare(found, options) -> int:
    """Scans, lists, and what to do next; the caller holds the output folder."""
    if options.spacing and not all(FINEST <= side <= COARSEST for side in options.spacing):
        raise InputError(f"--spacing {' '.join(map(str, options.spacing))}: expected {EXPECTED['spacing']}")
    classes, names, ignore, segments = label_values(found, options)
    patients = write_patients(found.cases, options)
    seen, lines, fixed = preparation(found, read_as(classes, ignore), segments, patients, options)
    plan = from_record(Plan, {name: lines[name].value for name in PREPARED}, PLAN, REPLAN)
    called = planned_names(options.plan or options.output / PLAN, max(classes.values()), options) if fixed else names
    if called and called != names:      # segments go by an edited plan's names, as by --class-names
        segments = segment_values(called, read_as(classes, ignore))
    preprocessing = Preprocessing("folder", plan.orientation, plan.normalise, spacing=plan.prepared_spacing,
                                  labels=classes, modalities=found.channels or PLAIN, class_names=called,
                                  windows=plan.windows, ignore=ignore)
    instead = fixed and (f"--plan {in_shell(options.plan or options.output / PLAN)} --output OTHER prepares them so "
                         "elsewhere, --force here")
    outcome = prepare_cases(found.cases, found.bad, preprocessing, options, LAYOUT, instead,
                            same_affine=not options.same_voxels, segments=segments,
                            remedy="correct the file, or see --label-map and --allow-empty")
    tests = for_testing(found, options)
    tell_twins(outcome.good, options.output, tests)
    sources_of(found, options).write(options.output)
    labelled, unlabelled, test = write_lists(outcome.good, options, tests, patients)
    if patients.cases:
        count = len(set(map(patients.of, outcome.good)))
        print(f"{PATIENTS}: the {counted(len(outcome.good), 'case')} are of {counted(count, 'patient')}")
    tested = f"; {TEST}: {counted(test, 'labelled case')}" if test else ""
    print(f"{TRAIN}: {counted(labelled, 'labelled case')} and {unlabelled} unlabelled{tested}")
    if not labelled:
        raise InputError(f"{options.output / TRAIN}: none of its cases has a label, one is needed at least; add "
                         "labelled ones, or remove the list, and prepare the folder again")
    if fixed:
        write_text(options.output / PLAN, fixed)
    else:
        why = "dataset.json" if names else "none were given (--class-names)"
        names = Choice(names, "--class-names" if options.class_names else why)
        plan_network(outcome.good, seen, lines, plan, names, options)
    tell_plan(options.output / PLAN)
    preset = "" if has_gpu() else "short "
    print(f"next: python code/train_own.py {preset}--data-dir {in_shell(options.output)}"
          f"{'' if unlabelled else ' --method supervised'}")
    return 2 if outcome.bad else 0
