"""What a run tells while it goes: log.csv, val.csv, TensorBoard, the progress bar, curves.png."""
import math
import time

from tqdm import tqdm

from evaluation import plots
from runtime.csv_table import MEND, Table
from runtime.errors import InputError, hours_in_words, one_line
from runtime.ranks import Ranks
from training.board import Board

SHOWN = 4           # loss terms on the progress bar
BOARD_EVERY = 10    # steps between points in TensorBoard
TIMED = 3           # steps of a start, of which the last one is the measure of the others
CURVES_EVERY = 60   # seconds between pictures of the curves, which take up to half a second


class Logbook:
    """Of the run folder `path`; of several processes, rank 0 writes and the others' calls do nothing.

    stages: the method's; at: (index of the stage, steps done in it) where the run goes on: rows after it are dropped,
    since they are written again. `last_dice` is the latest validation that selects, or None.
    """

    def __init__(self, recipe, path, stages, device, at=(0, 0), last_dice=None):
        self.recipe, self.path, self.stages, self.device = recipe, path, stages, device
        self.main, self.last_dice, self.drawn_at, self.logged = Ranks().main, last_dice, -math.inf, 0
        if not self.main:
            return
        self.rows, self.val = Table(path / "log.csv"), Table(path / "val.csv")
        order = {stage.name: index for index, stage in enumerate(stages)}
        for table in (self.rows, self.val):
            _drop(table, lambda row: (order[row["stage"]], int(row["step"])) > at)
        self._check_whole(at)
        self.board = Board(path, path / "tb",
                           self._since_start(stages[at[0]], at[1]) + 1 if at[0] < len(stages) else None)

    def _check_whole(self, at):
        """InputError where rows before `at` are missing: they are written once. A file that was deleted begins anew."""
        steps = [(stage, step) for index, stage in enumerate(self.stages[:at[0] + 1])
                 for step in range(1, (stage.steps if index < at[0] else at[1]) + 1)]
        validated = [(stage, step) for stage, step in steps
                     if step % self.recipe.eval_every == 0 or step == stage.steps]
        log, val = self.rows.rows(), [row for row in self.val.rows() if row.get("split") == self.recipe.select_on]
        for table, rows, expected in (self.rows, log, steps), (self.val, val, validated):
            there = [(row["stage"], int(row["step"])) for row in rows]
            expected = [(stage.name, step) for stage, step in expected]
            if (there or table is self.rows and table.path.exists()) and there != expected[-len(there):]:
                raise InputError(f"{table.path} is damaged ({len(there)} rows before the step where the run goes on, "
                                 f"expected {len(expected)}): {MEND}")

    def _since_start(self, stage, step):
        return sum(one.steps for one in self.stages[:self.stages.index(stage)]) + step

    def bar(self, batches, stage, step):
        """The batches under a progress bar."""
        self._bar = tqdm(batches, stage.name, stage.steps, initial=step, mininterval=1, dynamic_ncols=True,
                         disable=not self.main)
        return self._bar

    def log(self, stage, step, rate, terms, seconds):
        """One row of log.csv; terms: name -> number."""
        if not self.main:
            return
        self.rows.append({"stage": stage.name, "step": step, "lr": f"{rate:.6g}",
                          **{name: repr(value) for name, value in terms.items()},
                          "seconds": f"{seconds:.3f}", "memory_gib": f"{self.device.peak_memory():.2f}"})
        total = self._since_start(stage, step)
        if step % BOARD_EVERY == 0:
            for name, value in {**terms, "lr": rate}.items():
                self.board.add_scalar(f"train/{name}", value, total)
        shown = [name for name in terms if name not in ("loss", "grad_norm")][:SHOWN]
        postfix = {name: f"{terms[name]:.3f}" for name in shown}
        if self.last_dice is not None:
            postfix["val Dice"] = f"{100 * self.last_dice:.2f}"
        self._bar.set_postfix(postfix, refresh=False)
        self.logged += 1
        if self.logged == TIMED:
            self._estimate(stage, step, seconds)

    def _estimate(self, stage, step, seconds):
        """How long the run takes from here, said once at each start."""
        hours = seconds * remaining(self.stages, self.stages.index(stage), step) / stage.cost / 3600
        words = f"about {hours_in_words(hours)} to go without validation, at {seconds:.2g} s per step"
        if self.recipe.preset == "paper" and not self.device.cuda:
            words += "; no GPU: the presets `short` and `mini` fit this machine. Going on."
        tqdm.write(words)

    def validated(self, stage, step, split, dice, selects):
        """One row of val.csv; dice: view -> mean Dice, the headline first."""
        if selects:
            self.last_dice = next(iter(dice.values()))
        if not self.main:
            return
        self.val.append({"stage": stage.name, "step": step, "split": split,
                         **{view: f"{value:.6f}" for view, value in dice.items()}})
        for view, value in dice.items():
            self.board.add_scalar(f"{split}/dice_{view}", value, self._since_start(stage, step))

    def draw(self, picture, total):
        """A `method.Picture` for TensorBoard at step `total` since the start."""
        if self.main:
            self.board.add_image("train/input, target, views", plots.step_picture(picture), total)

    def draw_curves(self, now=False):
        """curves.png, if the last one is old or `now`."""
        if self.main and (now or time.monotonic() - self.drawn_at > CURVES_EVERY):
            plots.curves(self.path)
            self.drawn_at = time.monotonic()

    def flush(self):
        """log.csv and val.csv to disk: a checkpoint never knows more than they do."""
        if self.main:
            self.rows.close()
            self.val.close()

    def close(self):
        if self.main:
            self.flush()
            self.draw_curves(now=True)
            self.board.close()


def remaining(stages, index, step):
    """Cost of what is left from `step` of stage number `index` on, in steps of cost 1."""
    return sum(stage.cost * stage.steps for stage in stages[index:]) - stages[index].cost * step


def _drop(table, after):
    """Keep the rows for which after(row) is False."""
    rows = table.rows()
    try:
        kept = [row for row in rows if not after(row)]
        for row in kept:
            for name, cell in row.items():
                if cell and name not in ("stage", "split"):
                    float(cell)
    except (KeyError, ValueError) as error:
        raise InputError(f"{table.path} is damaged ({one_line(error)} is no stage, step or number): {MEND}") from error
    if table.columns:
        table.write(kept)
