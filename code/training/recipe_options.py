"""From the command line of a train script to its recipe: preset, plan or an earlier run, then the options."""
import contextlib
import dataclasses
import sys
from dataclasses import dataclass

import tyro

from methods import protocols, registry
from runtime.command_line import parsed
from runtime.errors import DEBUG, InputError
from runtime.files import RESTORE, expanded
from runtime.ranks import Ranks
from training.checkpoints import is_finished
from training.recipe import config_path, load_recipe, option_text


def command_line(presets, description, args=None):
    """`[paper|mini | --from-config RUN/config.json] [--option value ...]` -> Recipe; every field is an option.

    The recipe's `out` is the run folder, and its `data_dir` absolute: the run is tested from any working directory.
    """
    presets = {name: typed_preset(name, presets) for name in presets}
    args = list(sys.argv[1:] if args is None else args)
    args, source = _taken(args, "--from-config")
    preset = args.pop(0) if args and not args[0].startswith("-") else None
    if source and preset:
        raise InputError(f"{preset} --from-config {source}: that run has a preset already; leave one of them out")
    if preset not in (None, *presets):
        raise InputError(f"preset {preset!r} is unknown: the first word is one of {', '.join(presets)}")
    default = presets[preset or "paper"]
    if source:
        default = dataclasses.replace(load_recipe(source, type(default)), out=None, name=None)
        if default.preset not in presets:
            raise InputError(f"{config_path(source)}: preset is {default.preset!r}, expected one of "
                             f"{', '.join(presets)}: {RESTORE}")
    given, reasons = _given(default, args), {}
    elsewhere = given.data_dir != default.data_dir
    if not source:
        default = given
    with contextlib.suppress(InputError) if {"-h", "--help"} & set(args) else contextlib.nullcontext():
        if not source:
            default = default.planned()
        elif elsewhere:
            default = given.repeated()
        reasons = default.reasons()
    planned = "".join(f"\n\n{option_text(name, getattr(default, name))}: by the plan, {reason}"
                      for name, reason in reasons.items())
    *others, last = presets
    usage = (f"{description}{planned}\n\nThe first word is the preset, {', '.join(others)} or {last}; shown here: "
             f"{default.preset}. Instead of it, --from-config RUN/config.json repeats a run: its recipe, changed by "
             "the options that follow, in a new run folder. Marks say where a value comes from: [P] the paper, [C] the "
             f"authors' code only, [O] ours. {DEBUG}")
    if not {"-h", "--help"} & set(args):
        Ranks().say(f"{default.dataset}, preset {default.preset}: PyTorch is loading")
    recipe = _parsed(default, presets[default.preset], args, usage).check()
    if note := protocols.note(recipe):
        Ranks().say(note)
    recipe = dataclasses.replace(recipe, data_dir=expanded(recipe.data_dir, "--data-dir"),
                                 init_from=recipe.init_from and expanded(recipe.init_from, "--init-from"))
    home = expanded(recipe.folder(presets), "--out")
    if source and home == config_path(source).parent.resolve() and is_finished(home):
        raise InputError(f"--from-config {source}: {home} is that run itself and finished; give its repetition a new "
                         "folder with --out")
    return dataclasses.replace(recipe, out=home)


def typed_preset(name, presets):
    """A preset as a train script has it, of the fields' types; InputError for what was typed there and does not fit."""
    recipe, remedy = presets[name], "fix it at the top of the script"
    if recipe.preset not in presets:
        raise InputError(f"preset {name}: has preset={recipe.preset!r}, expected {name!r}: {remedy}")
    return type(recipe).typed(recipe.to_json(), f"preset {name}", remedy)


def _given(default, args):
    """The recipe with those options of `args` that `planned` goes by; unreadable ones are left to tyro."""
    values = {}
    for name, kind in default.GIVEN.items():
        value = _taken(args, f"--{name.replace('_', '-')}")[1]
        with contextlib.suppress(ValueError):
            values |= {} if value is None else {name: kind(value)}
    return dataclasses.replace(default, **values)


def _parsed(default, preset, args, usage):
    """Options over the default recipe; the method says which hyperparameters there are and which options act."""
    asked = {name: value for name in ("method", "protocol")
             if (value := _taken(args, f"--{name}")[1]) not in (None, getattr(default, name))}
    if "method" in asked:
        registry.method_class(asked["method"])
    if asked and asked.get("protocol") in (None, "matched", "original"):    # another one tyro refuses
        default = protocols.switched(default, preset, **asked)
    if {"-h", "--help"} & set(args) and "method" not in asked:     # without PyTorch, which methods stand on
        default = dataclasses.replace(default, hyper=Unshown())
        usage += " --method NAME --help shows that method's own hyperparameters, too."
    else:
        default = dataclasses.replace(default, hyper=registry.hyper_of(default))
    recipe = parsed(type(default), _with_values(args, default), default=default, description=usage,
                    config=(tyro.conf.FlagConversionOff,))
    if recipe.hyper == registry.hyper_of(dataclasses.replace(recipe, hyper=None)):
        recipe = dataclasses.replace(recipe, hyper=None)
    for option in sorted(registry.OPTIONS - registry.method_class(recipe.method).OPTIONS):
        if (value := getattr(recipe, option)) != getattr(default, option):
            raise InputError(f"{option_text(option, value)}: --method {recipe.method} has no such option; it acts on "
                             f"{', '.join(other for other, one in registry.METHODS.items() if option in one.OPTIONS)}")
    return recipe


@dataclass(frozen=True)
class Unshown:
    """In the place of a method's hyperparameters, where only the recipe's options are shown."""


NEEDED = {"--from-config": "the config.json of a run", "--method": "the name of a method",
          "--protocol": "matched or original", "--data-dir": "the folder with the scans",
          "--plan": "a plan.json", "--labeled": "a number of cases"}


def _taken(args, option):
    """Arguments without `option`, and its value or None."""
    for index, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name.replace("_", "-") == option:
            rest = args[index + 1:]
            if not equals and not rest:
                raise InputError(f"{option}: needs {NEEDED[option]}")
            return args[:index] + (rest if equals else rest[1:]), value if equals else rest[0]
    return args, None


def _with_values(args, recipe):
    """`--deterministic` alone means `--deterministic True`, as every option that is True or False."""
    switches = {field.name for field in dataclasses.fields(recipe) if field.type is bool}
    words = []
    for arg, after in zip(args, [*args, "--"][1:], strict=True):
        words.append(arg)
        if arg.startswith("--") and arg[2:].replace("-", "_") in switches and after.startswith("--"):
            words.append("True")
    return words
