"""What of a run survives a kill: checkpoint.pt, from which it goes on, and the weights of its milestones."""
import json
import math
import warnings
import zlib

from runtime.errors import Denied, InputError, one_line
from runtime.files import RESTORE, load_tensors, load_weights, save_tensors, writing
from runtime.ranks import Ranks

CONTENT = ("method", "optimizer", "stage", "step", "best", "last_dice")     # of checkpoint.pt: what resume needs
NAMES = ("checkpoint_new.pt", "checkpoint.pt", "checkpoint_prev.pt")    # newest first; a kill may leave a new one


def place_of(run):
    """(stage, step) of the newest checkpoint in a run folder; (0, 0) where none can be read, as training says then."""
    for name in NAMES:
        try:
            state = load_tensors(run / name, ["stage", "step"])
            return int(state["stage"]), int(state["step"])
        except (InputError, TypeError, ValueError):
            continue
    return 0, 0


def is_finished(run):
    """Whether RUN/last.pt is there and whole; a damaged one is named, and made again from the last checkpoint.

    InputError where there is none to make it from.
    """
    path = run / "last.pt"
    if not path.exists():
        return False
    try:
        load_tensors(path, ["method"])
    except Denied:
        raise
    except InputError as error:
        if not any((run / name).exists() for name in NAMES):
            raise
        warnings.warn(f"{error}; or: it is made again now, from the last checkpoint", stacklevel=2)
        return False
    return True


def in_json(fields, **how):
    """A recipe's fields as a record has them: lists for tuples, strings for what JSON does not know."""
    return json.loads(json.dumps(fields, default=str), **how)


def of_another_run(state, fields):
    """How the recipe of the run that wrote these weights differs from `fields`, in words; "" where it does not, and for
    weights of earlier versions, which do not say.
    """
    there, here = state.get("fields"), in_json(fields)
    return "; ".join(f"{name} was {there[name]}, is {value}" for name, value in here.items()
                     if isinstance(there, dict) and name in there and there[name] != value)


def check_trained_on(state, content, path):
    """InputError where the weights in a file were trained on other cases than the data.json beside it says.

    content: of data.json, or None. Weights of earlier versions do not say.
    """
    if content and state.get("cases") not in (None, content.check_sum):
        raise InputError(f"{path}: was trained on other cases than data.json beside it says: {RESTORE}")


class Checkpoints:
    """The .pt files of the run folder `path`; of several processes, rank 0 writes and all read.

    lengths: steps of each of the method's stages. recipe: as the run's record has it, by which a checkpoint is known to
    be this run's. cases: check sum of what is trained on, which goes along with the weights.
    """

    def __init__(self, path, method, optimizer, lengths, recipe, cases=None):
        self.path, self.method, self.optimizer, self.ranks, self.cases = path, method, optimizer, Ranks(), cases
        self.lengths, self.fields = lengths, in_json(recipe)
        equal = in_json(recipe, parse_int=float)        # 1 is 1.0, as RunFolder compares them
        self.recipe_sum = zlib.crc32(json.dumps(equal, sort_keys=True).encode())

    def save_weights(self, name, step, optimizer=False):
        """The method's state, and the optimiser's if asked, as `name`; step: since the start of training."""
        self.ranks.share_buffers(self.method)
        if self.ranks.main:
            content = {"method": self.method.state_dict(), "step": step, "fields": self.fields,
                       "cases": self.cases}
            save_tensors(self.path / name, content | ({"optimizer": self.optimizer.state_dict()} if optimizer else {}))

    @property
    def there(self):
        """Whether there is any, sound or damaged."""
        return any((self.path / name).exists() for name in NAMES)

    def start_from(self, run, content):
        """Take over the last weights of another run, without its optimiser; InputError where they do not fit it, or its
        data.json, `content`.
        """
        path = run / "last.pt"
        if not path.exists():
            raise InputError(f"--init-from {run}: has no last.pt; give the folder of a finished run")
        state = load_tensors(path, ["method"])
        check_trained_on(state, content, path)
        try:
            load_weights(self.method, state["method"], path)
        except InputError as error:
            raise InputError(f"--init-from {run}: is a run of another method or network; {error}") from error

    def load_weights(self, name):
        """Take over what `save_weights(name, optimizer=True)` wrote."""
        state = load_tensors(self.path / name, ["method", "optimizer"])
        if words := of_another_run(state, self.fields):
            raise InputError(f"{self.path / name} is of another run ({words}): {RESTORE}")
        self._take_over(state, name)

    def save(self, **progress):
        """checkpoint.pt; its predecessor stays as checkpoint_prev.pt."""
        self.ranks.share_buffers(self.method)
        if not self.ranks.main:
            return
        current, aside = self.path / "checkpoint.pt", self.path / "checkpoint_new.pt"
        save_tensors(aside, {"method": self.method.state_dict(), "optimizer": self.optimizer.state_dict(),
                             "recipe": self.recipe_sum, **progress})
        with writing(current):
            if current.exists():
                current.replace(self.path / "checkpoint_prev.pt")
            aside.replace(current)

    def load(self):
        """Take over the newest usable checkpoint -> its content, or None; damaged ones are passed over and named."""
        for name in NAMES:
            if (self.path / name).exists():
                try:
                    state = load_tensors(self.path / name, CONTENT)
                    self._check_progress(state, self.path / name)
                except Denied:
                    raise
                except InputError as error:
                    warnings.warn(f"{error}; going on from an earlier checkpoint, or from the start", stacklevel=2)
                    continue
                if state.get("recipe", self.recipe_sum) != self.recipe_sum:
                    raise InputError(f"{self.path / name} is of another run, whose recipe differs from this folder's "
                                     f"config.json: {RESTORE}")
                self._take_over(state, name)
                return state
        return None

    def _check_progress(self, state, path):
        """InputError for a place that this run cannot have reached."""
        stage, step, best, last_dice = (state[name] for name in ("stage", "step", "best", "last_dice"))
        lengths = [*self.lengths, 0]        # when all stages are done
        if type(stage) is not int or not 0 <= stage < len(lengths) or type(step) is not int or (
                not 0 <= step <= lengths[stage]):
            raise InputError(f"{path} is damaged (it stands at step {step!r} of stage {stage!r}, and this run has "
                             f"{len(self.lengths)} of {' and '.join(map(str, self.lengths))} steps): {RESTORE}")
        if type(best) is not float or math.isnan(best) or type(last_dice) not in (float, type(None)):
            raise InputError(f"{path} is damaged (best Dice {best!r}, last {last_dice!r}): {RESTORE}")

    def _take_over(self, state, name):
        path = self.path / name
        load_weights(self.method, state["method"], path)
        own = [{key: value for key, value in group.items() if key != "params"}
               for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} does not fit the optimiser ({one_line(error)}): {RESTORE}") from error
        for group, values in zip(self.optimizer.param_groups, own, strict=True):
            group.update(values)        # the recipe's and, whether it is fused, this device's
        for parameter, moments in self.optimizer.state.items():
            momentum = moments.get("momentum_buffer") if isinstance(moments, dict) else moments
            if momentum is not None and getattr(momentum, "shape", None) != getattr(parameter, "shape", None):
                raise InputError(f"{path} does not fit the optimiser (a momentum of another shape): {RESTORE}")
