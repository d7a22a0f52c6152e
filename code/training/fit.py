"""One training loop for every stage, method and data set: log, select, checkpoint, resume."""
import math
import shlex
import signal
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dataloaders import two_stream
from dataloaders.two_stream import TwoStream
from evaluation import plots
from evaluation.inference import mean_dice
from imaging.preprocess import read_preprocessing, write_preprocessing
from method import Batch
from methods import registry
from runtime.device import Device
from runtime.errors import InputError, one_line
from runtime.files import RESTORE, load_tensors, load_weights, save_tensors
from runtime.ranks import Ranks
from training.run_folder import RunFolder

STEP_DROPS = 6          # the "step" schedule: LA drops every 2,500 of 15,000 self-training steps   [C]
POLY_POWER = 0.9        # the "poly" schedule                                                       [C]


def learning_rate(schedule, base, step, steps):
    """At `step` (from 0) of `steps`: constant, a tenth after every sixth of the stage, or polynomial decay."""
    if schedule == "constant":
        return base
    if schedule == "step":
        return base * 0.1 ** (step * STEP_DROPS // steps)
    if schedule == "poly":
        return base * (1 - step / steps) ** POLY_POWER
    raise ValueError(f"schedule {schedule!r} is unknown: choose constant, step or poly")


def train(recipe, data, presets):
    """Run the recipe in its run folder, from its checkpoint if there is one; returns the folder."""
    folder, ranks = RunFolder(recipe.folder(presets), recipe), Ranks()
    ranks.say(f"run folder: {folder.path}")
    if folder.finished:
        ranks.say("this run is finished; test it, or choose another --seed or --out")
        return folder.path
    Fit(recipe, data, folder).run()
    return folder.path


class Fit:
    """The state of a run: method, optimiser, streams, what was best, where it stands.

    recipe: a train script's; data: a data set of dataloaders/; folder: RunFolder.
    """

    def __init__(self, recipe, data, folder):
        self.recipe, self.data, self.folder, self.ranks = recipe, data, folder, Ranks()
        self.device = Device(recipe.device, len(recipe.patch_size), recipe.amp, recipe.deterministic)
        torch.manual_seed(recipe.seed)
        self.method = self.device.place(registry.build(recipe))
        if recipe.compile:
            self.method.networks.compile()
        self._check_batches()
        self.ranks.distribute(self.method)
        self.optimizer = torch.optim.SGD(self.method.trained_parameters(), recipe.lr,
                                         momentum=recipe.momentum, weight_decay=recipe.weight_decay)
        self.device.reserve_gradients(self.method.trained_parameters())
        self.stages = self.method.stages(recipe.pre_steps, recipe.self_steps)
        self._read_scans()
        self.stage, self.step, self.best, self.last_dice = 0, 0, -math.inf, None
        self.noted_signal, self.saved_at = 0, time.monotonic()      # of this process ...
        self.stop_signal, self.save_due = 0, False                  # ... and what all processes agreed on

    def _check_batches(self):
        sizes = {"--labeled-batch": self.recipe.labeled_batch}
        if self.method.uses_unlabelled:
            sizes["--unlabeled-batch"] = self.recipe.unlabeled_batch
        self.ranks.check_batches(sizes)

    def _read_scans(self):
        split = self.data.split()
        if self.method.uses_unlabelled and not split.unlabelled:
            raise InputError(f"--labeled {self.recipe.labeled} leaves no unlabelled scans: use --method supervised")
        self.labelled = self.data.train_scans(split.labelled, labelled=True)
        self.unlabelled = (self.data.train_scans(split.unlabelled, labelled=False)
                           if self.method.uses_unlabelled else [])
        selecting = split.test if self.recipe.select_on == "test" else split.val
        if self.recipe.select_on == "test" and not selecting:
            raise InputError("--select-on test: there are no test cases; see --holdout-test")
        watched = split.test if self.recipe.monitor == "test" and self.recipe.select_on != "test" else []
        groups = (self.recipe.select_on, selecting, True), (self.recipe.monitor, watched, False)
        self.validation = [(split, self.data.cases(self.ranks.shard(names)), selects)
                           for split, names, selects in groups if names]
        parameters = sum(parameter.numel() for parameter in self.method.trained_parameters())
        self.ranks.say(
            f"{self.recipe.dataset}, {self.recipe.method}: {len(self.labelled)} labelled, {len(self.unlabelled)} "
            f"unlabelled, {len(selecting)} validation scans; {parameters:,} parameters; {self.device}")

    # ---- the loop ----------------------------------------------------------------------------------------

    def run(self):
        self.ranks.wait()       # all have looked at the folder before one writes
        if self.ranks.main:
            self.folder.open()
            preprocessing = read_preprocessing(self.recipe.data_dir)
            if preprocessing:
                write_preprocessing(self.folder.path, preprocessing)    # predict.py does the same to new scans
        self._resume()
        if self.ranks.main:
            self.board = SummaryWriter(self.folder.path / "tb", purge_step=self._global_step() + 1)
        with self._noting_signals():
            while self.stage < len(self.stages):
                stage = self.stages[self.stage]
                if self.step == 0 and self.stage > 0:
                    self._start_from_pretrained()
                self._run_stage(stage)
                if stage.name == "pre" and self.best == -math.inf:      # no validation cases chose it
                    self._save_weights("pretrained.pt", optimizer=True)
                self.stage, self.step, self.best = self.stage + 1, 0, -math.inf
                self._save_checkpoint()
            self._save_weights("last.pt")
        self._close_board()
        self.ranks.say(f"finished: {self.folder.path}")
        self.ranks.wait()

    def _run_stage(self, stage):
        streams = self._streams()
        pin = self.device.cuda
        batches = streams.batches(self.step, stage.steps, self.recipe.workers, pin)
        bar = tqdm(batches, stage.name, stage.steps, initial=self.step, mininterval=1, dynamic_ncols=True,
                   disable=not self.ranks.main)
        self.saved_at = begun = time.monotonic()
        for arrays in bar:
            terms = self._train_step(stage, streams, arrays)
            self.step += 1
            seconds = time.monotonic() - begun
            if self.ranks.main:
                self._log(stage, terms, seconds)
                self._show_progress(bar, terms)
                self._estimate(seconds)
            if self.step % self.recipe.eval_every == 0 or self.step == stage.steps:
                self._validate(stage)
            if self.step % self.recipe.checkpoint_steps == 0 or self.stop_signal or self.save_due:
                self._save_checkpoint()
                self.saved_at = time.monotonic()
            if self.stop_signal:
                bar.close()
                self._leave()
            begun = time.monotonic()

    def _streams(self):
        sizes = self.recipe.labeled_batch, self.recipe.unlabeled_batch
        unlabelled = self.unlabelled if self.stages[self.stage].unlabelled else []
        return TwoStream(self.labelled, unlabelled, self.data.sample, sizes, self.recipe.seed, self.stage,
                         self.ranks)

    def _train_step(self, stage, streams, arrays):
        """Backward on each loss the stage yields, then one step of the optimiser -> its terms as numbers."""
        key = self.recipe.seed, self.stage, self.step
        torch.manual_seed(two_stream.torch_seed(two_stream.TORCH, *key, self.ranks.rank))   # dropout and noise
        generator = torch.Generator().manual_seed(two_stream.torch_seed(two_stream.MASKS, *key))
        x_l, y_l, x_u = arrays
        batch = Batch(self.device.image(x_l), self.device.label(y_l), self.device.image(x_u),
                      self.step, stage.steps, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(stage)
        self.optimizer.zero_grad(set_to_none=False)
        self.method.train()
        drawing = self._draw_inputs() if self.ranks.main and (self.step + 1) % self.recipe.eval_every == 0 else None
        terms, total, count = {}, 0, 0
        losses = stage.losses(batch)
        while True:
            with self.ranks.accumulating(self.method, last=count == stage.yields - 1):
                with self.device.autocast():
                    loss, new = next(losses, (None, None))
                if loss is None:
                    break
                loss.backward()
            terms |= new
            total, count = total + loss.detach(), count + 1
        if count != stage.yields:
            raise ValueError(f"stage {stage.name} of {self.recipe.method} is declared to yield {stage.yields} losses a "
                             f"step and yielded {count}")
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.method.trained_parameters() if p.grad is not None])
        maps = {name: term for name, term in terms.items() if term.ndim}
        terms = self._agree({"loss": total, "grad_norm": norm, **{name: t for name, t in terms.items() if not t.ndim}})
        if not all(map(math.isfinite, terms.values())):
            self._stop_sick(stage, streams, terms)
        self.optimizer.step()
        self.method.after_step(batch)
        if drawing:
            self._draw(drawing, maps)
        return terms

    def _agree(self, terms):
        """This process's terms -> numbers for all: means over the processes, sums of whole numbers.

        Along with them goes what all must do after the same step: stop, save. One exchange, one host sync.
        """
        save = time.monotonic() - self.saved_at > 60 * self.recipe.checkpoint_minutes
        values = torch.stack([term.detach().double() for term in terms.values()])
        rows = self.ranks.stack(torch.cat([values, values.new_tensor([self.noted_signal, save])])).tolist()
        *columns, signals, saves = zip(*rows, strict=True)
        self.stop_signal, self.save_due = int(max(signals)), any(saves)
        return {name: sum(column) / (len(column) if term.is_floating_point() else 1)
                for (name, term), column in zip(terms.items(), columns, strict=True)}

    def _rate(self, stage):
        schedule = self.recipe.pre_schedule if stage.name == "pre" else self.recipe.self_schedule
        return learning_rate(schedule, self.recipe.lr, self.step, stage.steps)

    def _stop_sick(self, stage, streams, terms):
        labelled, unlabelled = streams.names(self.step)
        values = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
        raise InputError(f"training went non-finite at step {self.step + 1} of stage {stage.name}: {values}; "
                         f"labelled {labelled}, unlabelled {unlabelled}. Nothing was updated, and "
                         f"{self.folder.path / 'checkpoint.pt'}, where there is one, is sound: check these scans, or "
                         "lower --lr")

    # ---- what is written ---------------------------------------------------------------------------------

    def _global_step(self):
        return sum(stage.steps for stage in self.stages[:self.stage]) + self.step

    def _log(self, stage, terms, seconds):
        rate = self.optimizer.param_groups[0]["lr"]
        self.folder.log.append({"stage": stage.name, "step": self.step, "lr": f"{rate:.6g}",
                                **{name: repr(value) for name, value in terms.items()},
                                "seconds": f"{seconds:.3f}", "memory_gib": f"{self.device.peak_memory():.2f}"})
        if self.step % 10 == 0:
            for name, value in {**terms, "lr": rate}.items():
                self.board.add_scalar(f"train/{name}", value, self._global_step())

    def _show_progress(self, bar, terms):
        shown = {name: f"{value:.3f}" for name, value in terms.items() if name.startswith(("sup", "dis", "cons"))}
        if self.last_dice is not None:
            shown["val Dice"] = f"{100 * self.last_dice:.2f}"
        bar.set_postfix(shown, refresh=False)

    def _estimate(self, seconds):
        """Without a GPU, say early how long the paper's schedule takes."""
        if self._global_step() == 3 and self.recipe.preset == "paper" and not self.device.cuda:
            # beside its labelled half, a self-training step has a mixed one and a forward pass twice as large
            cost = {stage.name: 8 / 3 if stage.unlabelled and not self.stages[0].unlabelled else 1
                    for stage in self.stages}
            hours = seconds * sum(stage.steps * cost[stage.name] for stage in self.stages) / 3600
            tqdm.write(f"no GPU: at {seconds:.1f} s a step this run takes about {hours:.3g} hours; the preset "
                       "`mini` fits this machine. Going on.")

    def _validate(self, stage):
        """Rows of val.csv; the best checkpoint of the stage, the earlier one on a tie."""
        self.ranks.share_buffers(self.method)
        for split, scans, selects in self.validation:
            dice = mean_dice(self.method, scans, partial(self.data.segment, coarse=True), self.recipe.num_classes)
            if self.ranks.main:
                self.folder.val.append({"stage": stage.name, "step": self.step, "split": split,
                                        **{view: f"{value:.6f}" for view, value in dice.items()}})
                for view, value in dice.items():
                    self.board.add_scalar(f"{split}/dice_{view}", value, self._global_step())
            headline = next(iter(dice.values()))
            if selects:
                self.last_dice = headline
                if headline > self.best:
                    self.best = headline
                    pre = stage.name == "pre"
                    self._save_weights("pretrained.pt" if pre else "best.pt", optimizer=pre)

    def _draw_inputs(self):
        """Record what the networks see and say in their last pass of this step."""
        seen = {}
        hook = self.method.networks.register_forward_hook(
            lambda _, inputs, output: seen.update(input=inputs[0].detach(), output=output))
        return seen, hook

    def _draw(self, drawing, maps):
        seen, hook = drawing
        hook.remove()
        target = maps.get("target_u", maps.get("target_l"))
        picture = plots.step_picture(seen["input"], target, seen["output"])
        self.board.add_image("train/input, target, views", picture, self._global_step(), dataformats="HWC")

    # ---- what survives -----------------------------------------------------------------------------------

    def _save_weights(self, name, optimizer=False):
        self.ranks.share_buffers(self.method)
        if not self.ranks.main:
            return
        content = {"method": self.method.state_dict(), "step": self._global_step()}
        if optimizer:
            content["optimizer"] = self.optimizer.state_dict()
        save_tensors(self.folder.path / name, content)

    def _save_checkpoint(self):
        self.ranks.share_buffers(self.method)
        if not self.ranks.main:
            return
        self.folder.save_checkpoint({
            "method": self.method.state_dict(), "optimizer": self.optimizer.state_dict(), "stage": self.stage,
            "step": self.step, "best": self.best, "last_dice": self.last_dice})
        plots.curves(self.folder.path)

    def _resume(self):
        state = self.folder.load_checkpoint()
        if state is not None:
            self._load(state, "checkpoint.pt")
            self.stage, self.step, self.best = state["stage"], state["step"], state["best"]
            self.last_dice = state["last_dice"]
            self.ranks.say(f"resuming after step {self.step} of stage {self.stage + 1} of {len(self.stages)}")
        self.ranks.wait()       # all have read the checkpoint before one writes the next
        if not self.ranks.main:
            return
        order = {stage.name: index for index, stage in enumerate(self.stages)}
        here = self.stage, self.step
        self.folder.cut_logs(lambda row: (order[row["stage"]], int(row["step"])) > here)

    def _start_from_pretrained(self):
        """Best pre-trained weights where validation cases chose them, else the last; with that step's momentum."""
        self.ranks.wait()       # rank 0 has written it
        name = "pretrained.pt"
        self._load(load_tensors(self.folder.path / name, ["method", "optimizer"]), name)

    def _load(self, state, name):
        path = self.folder.path / name
        load_weights(self.method, state["method"], path)
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} does not fit the optimiser ({one_line(error)}): {RESTORE}") from error

    @contextmanager
    def _noting_signals(self):
        """SIGINT and SIGTERM (what schedulers send before they end a job) stop the run after its current step."""
        def note(number, _):
            self.noted_signal = number
        if threading.current_thread() is not threading.main_thread():      # a notebook's worker, say
            yield
            return
        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _leave(self):
        self._close_board()
        self.ranks.say(f"\n{signal.Signals(self.stop_signal).name}: saved after step {self.step} of stage "
                       f"{self.stages[self.stage].name}; go on with\n"
                       f"    {shlex.join([*self.ranks.launcher, *sys.argv])}")
        self.ranks.wait()       # torchrun ends the others when one leaves
        sys.exit(128 + self.stop_signal)

    def _close_board(self):
        if self.ranks.main:
            self.board.close()
