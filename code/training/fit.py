"""One training loop for every stage, method and data set: step, select, checkpoint, resume."""
import math
import shlex
import signal
import sys
import time
from collections import deque
from contextlib import nullcontext
from functools import partial

import torch

from dataloaders import strong, two_stream
from dataloaders.two_stream import TwoStream
from evaluation import trust
from evaluation.inference import mean_dice, segment
from imaging.record import write_preprocessing
from method import Batch
from methods import registry
from runtime.device import Device
from runtime.errors import InputError
from runtime.ranks import Ranks
from runtime.records import write_record
from runtime.stopping import noting
from training.checkpoints import Checkpoints
from training.logbook import Logbook
from training.material import Material
from training.run_folder import RunFolder, read_content
from training.schedules import rate_at
from training.step_numbers import StepNumbers


def train(recipe, data):
    """Run the recipe in its run folder `recipe.out`, from its checkpoint if there is one; returns the folder's path."""
    recipe, ranks = recipe.complete(), Ranks()
    if ranks.world > 1:
        device_of(recipe)       # where they meet
        ranks.check_alike(recipe.fields() | {"data set": recipe.dataset})
    folder = RunFolder(recipe.out, recipe)
    ranks.say(f"run folder: {folder.path}")
    with folder.held():
        fit = None if folder.finished and not folder.knows_data else Fit(recipe, data, folder)
        if folder.finished:
            ranks.say("this run is finished; test it, or choose another --seed or --out")
        else:
            fit.run()
    return folder.path


def backward(losses, autocast=nullcontext, launched=()):
    """Backward on each of a step's (loss, terms) before the next is asked for -> (the losses' sum, all terms).

    launched: parameters with gradients, to which each loss's are added all at once; a GPU is otherwise given an
    addition for each of them.
    """
    total, terms, sums = 0, {}, [parameter.grad for parameter in launched]
    while True:
        with autocast():
            loss, new = next(losses, (None, {}))
        if loss is None:
            return total, terms
        for parameter in launched:
            parameter.grad = None
        loss.backward()
        pairs = [(own, parameter.grad) for own, parameter in zip(sums, launched, strict=True)
                 if parameter.grad is not None]
        if pairs:
            torch._foreach_add_(*map(list, zip(*pairs, strict=True)))
        for own, parameter in zip(sums, launched, strict=True):
            parameter.grad = own
        total, terms = total + loss.detach(), terms | new


def device_of(recipe):
    """The Device that a recipe trains on."""
    return Device(recipe.device, len(recipe.patch_size), recipe.amp, recipe.deterministic)


class Fit:
    """The state of a run: its method and optimiser, its scans, where it stands and what was best.

    recipe: a train script's; data: a data set of dataloaders/; folder: RunFolder, whose data are those of its run.
    """

    def __init__(self, recipe, data, folder):
        self.recipe, self.data, self.folder, self.ranks = recipe, data, folder, Ranks()
        self.device = device_of(recipe)
        torch.manual_seed(recipe.seed)
        self.method = self.device.place(registry.build(recipe))
        if recipe.compile:
            self.method.networks.compile()
        self.stages = self.method.stages(recipe.pre_steps, recipe.self_steps)
        self.semi_supervised = any(stage.unlabelled for stage in self.stages)
        self._check_batches()
        self.ranks.distribute(self.method)
        self.parameters = self.method.trained_parameters()
        self.optimizer = torch.optim.SGD(self.parameters, recipe.lr, momentum=recipe.momentum,
                                         weight_decay=recipe.weight_decay, fused=self.device.ahead)
        self.device.reserve_gradients(self.parameters)
        self.material = Material(recipe, data, self.semi_supervised, folder.earlier())
        folder.check_data(self.material.content)
        self.ranks.say(f"{recipe.dataset}, {recipe.method}: {self.material}; "
                       f"{sum(p.numel() for p in self.parameters):,} parameters; {self.device}")
        for remark in self.material.remarks():
            self.ranks.say(remark)
        self.checkpoints = Checkpoints(folder.path, self.method, self.optimizer,
                                       [stage.steps for stage in self.stages], folder.fields(),
                                       self.material.content.check_sum)
        if recipe.init_from and not self.checkpoints.there and not folder.finished:     # refused before all work
            self._start_from_another()
        self.stage, self.step, self.best = 0, 0, -math.inf
        self.logbook = None                                         # from `run` on
        self.noted_signal, self.saved_at = 0, time.monotonic()      # of this process ...
        self.stop_signal, self.save_due = 0, False                  # ... and what all processes agreed on

    def _start_from_another(self):
        first = self.recipe.init_from
        self.checkpoints.start_from(first, read_content(first))

    def _check_batches(self):
        sizes = {"--labeled-batch": self.recipe.labeled_batch}
        if self.semi_supervised:
            sizes["--unlabeled-batch"] = self.recipe.unlabeled_batch
        self.ranks.check_batches(sizes)

    # ---- stages ------------------------------------------------------------------------------------------------

    def run(self):
        """All stages that are left, then last.pt."""
        self.ranks.wait()       # all have looked at the folder before one writes
        if self.ranks.main:
            self.folder.open(self.device, self.material.content)
            if self.material.preprocessing:     # predict.py does the same to new scans
                write_preprocessing(self.folder.path, self.material.preprocessing)
            if not (self.folder.path / trust.TRAINING).exists():        # ... and compares its results with these
                write_record(self.folder.path / trust.TRAINING, trust.training_cases(
                    self.data, self.recipe, self.material.labelled, self.material.unlabelled))
        state = self.checkpoints.load()
        if state is not None:
            self.stage, self.step, self.best = state["stage"], state["step"], state["best"]
            self.ranks.say(f"resuming after step {self.step} of stage {self.stage + 1} of {len(self.stages)}")
        elif self.recipe.init_from:
            self._start_from_another()      # again, where all checkpoints were damaged
            self.ranks.say(f"initial weights: the last ones of {self.recipe.init_from}")
        self.ranks.wait()       # all have read the checkpoint before one writes the next
        self.logbook = Logbook(self.recipe, self.folder.path, self.stages, self.device, (self.stage, self.step),
                               last_dice=state and state["last_dice"])
        with noting(partial(setattr, self, "noted_signal"), self.ranks.world == 1):
            while self.stage < len(self.stages):
                if self.step == 0:
                    self._enter(self.stages[self.stage])
                self._run_stage(self.stages[self.stage])
            self.checkpoints.save_weights("last.pt", self.total_steps)
        self.logbook.close()
        self.ranks.say(f"finished: {self.folder.path}")
        if stop := max(self.ranks.gather([self.noted_signal])):     # since the last step: no other run begins
            self._leave(stop, "after its last step")
        self.ranks.wait()

    @property
    def total_steps(self):
        """Steps taken since the start of training, over all stages."""
        return sum(stage.steps for stage in self.stages[:self.stage]) + self.step

    def _run_stage(self, stage):
        streams = self.streams()
        batches = streams.batches(self.step, stage.steps, self.device.workers(self.recipe.workers), self.device.cuda)
        self.saved_at = begun = time.monotonic()
        unread = deque()        # steps whose numbers are still on their way from the device: one, or none
        for patches in (bar := self.logbook.bar(batches, stage, self.step)):
            numbers = self.take_step(streams, patches)
            self.step += 1
            unread.append((self.step, self.optimizer.param_groups[0]["lr"], numbers))
            validate = self.step % self.recipe.eval_every == 0 or self.step == stage.steps
            save = self.step % self.recipe.checkpoint_steps == 0
            while len(unread) > (self.device.ahead and not (validate or save or self.stop_signal or self.save_due)):
                step, rate, numbers = unread.popleft()
                self.logbook.log(stage, step, rate, numbers(), time.monotonic() - begun)
                begun = time.monotonic()
            if validate:
                self._validate(stage)
            if save or self.stop_signal or self.save_due:
                self._save_checkpoint()
                self.saved_at, self.save_due = time.monotonic(), False
            if self.stop_signal:
                bar.close()
                self.logbook.close()
                self._leave(self.stop_signal, f"after step {self.step} of stage {stage.name}")
            begun = time.monotonic()
        if stage.name == "pre" and self.best == -math.inf:      # no validation cases chose it
            self.checkpoints.save_weights("pretrained.pt", self.total_steps, optimizer=True)
        self.stage, self.step, self.best = self.stage + 1, 0, -math.inf
        self._save_checkpoint()

    def _enter(self, stage):
        """After pre-training, its best weights where validation cases chose them, else the last; with that step's
        momentum.
        """
        if self.stage > 0:
            self.ranks.wait()       # rank 0 has written it
            self.checkpoints.load_weights("pretrained.pt")
        self.method.begin(stage)

    def _validate(self, stage):
        """Rows of val.csv; the best checkpoint of the stage, the earlier one on a tie."""
        self.ranks.share_buffers(self.method)
        for split, scans, selects in self.material.validation:
            dice = mean_dice(self.method, scans, partial(segment, recipe=self.recipe, coarse=True),
                             self.recipe.num_classes)
            self.logbook.validated(stage, self.step, split, dice, selects)
            headline = next(iter(dice.values()))
            if selects and headline > self.best:
                self.best, pre = headline, stage.name == "pre"
                self.checkpoints.save_weights("pretrained.pt" if pre else "best.pt", self.total_steps, optimizer=pre)

    def _save_checkpoint(self):
        self.logbook.flush()
        self.checkpoints.save(stage=self.stage, step=self.step, best=self.best, last_dice=self.logbook.last_dice)
        self.logbook.draw_curves()

    # ---- the step ----------------------------------------------------------------------------------------------

    def streams(self):
        """The current stage's two streams: item `step` is that step's patches."""
        stage = self.stages[self.stage]
        sizes = self.recipe.labeled_batch, self.recipe.unlabeled_batch
        unlabelled = self.material.unlabelled if stage.unlabelled else []
        changed = self.data.changed if self.recipe.augment in strong.INTENSITIES else None
        return TwoStream(self.material.labelled, unlabelled, self.data.sample, sizes, self.recipe.seed, self.stage,
                         self.ranks, self.method.of_label, changed)

    def take_step(self, streams, patches):
        """Backward on each loss of the method, one step of the optimiser -> function that gives {term: number}, the
        same on all ranks.

        patches: item `self.step` of `streams`. A step whose loss or gradient is not finite updates nothing and raises
        InputError: here, or from that function where the host runs ahead of the device.
        """
        stage, key = self.stages[self.stage], (self.recipe.seed, self.stage, self.step)
        torch.manual_seed(two_stream.torch_seed(two_stream.TORCH, *key, self.ranks.rank))   # dropout and noise
        generator = torch.Generator().manual_seed(two_stream.torch_seed(two_stream.MASKS, *key))
        tensors = {name: (self.device.label if name == "y_l" else self.device.image)(tensor)
                   for name, tensor in patches._asdict().items()}
        batch = Batch(**tensors, step=self.step, steps=stage.steps, generator=generator)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.recipe, stage, self.step)
        self.optimizer.zero_grad(set_to_none=False)
        self.method.train()
        total, terms = backward(stage.losses(batch), self.device.autocast, self.parameters if self.device.cuda else ())
        picture = terms.pop("picture", None)
        self.ranks.average_gradients(self.parameters)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters])
        numbers = StepNumbers(self.ranks, {"loss": total, "grad_norm": norm, **terms}, self.flags())
        agreed = partial(self.agree, numbers, stage, streams, self.step)
        if self.device.ahead:       # 1 leaves the update out; and the next one, which is on its way when this is read
            wrong = numbers.not_finite()
            self.optimizer.found_inf = torch.maximum(wrong, getattr(self.optimizer, "found_inf", wrong))
        else:
            agreed()
        self.optimizer.step()
        after = self.method.after_step(batch)
        after = StepNumbers(self.ranks, after) if after else None
        if self.logbook and picture and (self.step + 1) % self.recipe.eval_every == 0:
            self.logbook.draw(picture, self.total_steps + 1)
        return lambda: agreed() | (after.read()[0] if after else {})

    def flags(self):
        """What this process wants all to do: stop by this signal; save."""
        return self.noted_signal, time.monotonic() - self.saved_at > 60 * self.recipe.checkpoint_minutes

    def agree(self, numbers, stage, streams, step):
        """The numbers of a step -> {term: number}; what one process wanted, all will do. InputError if not finite."""
        terms, (self.stop_signal, self.save_due) = numbers.read()
        if not all(map(math.isfinite, terms.values())):
            self._refuse(stage, streams, step, terms)
        return terms

    def _refuse(self, stage, streams, step, terms):
        labelled, unlabelled = streams.names(step)
        values = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
        raise InputError(f"training went non-finite at step {step + 1} of stage {stage.name}: {values}; "
                         f"labelled {labelled}, unlabelled {unlabelled}. Nothing was updated, and "
                         f"{self.folder.path / 'checkpoint.pt'}, where there is one, is sound: check these scans, or "
                         "start a new run with a lower --lr and another --out")

    # ---- stopping ----------------------------------------------------------------------------------------------

    def _leave(self, number, where):
        self.ranks.say(f"\n{signal.Signals(number).name}: saved {where}; go on with\n"
                       f"    {shlex.join([*self.ranks.launcher, *sys.argv])}")
        self.ranks.wait()       # torchrun ends the others when one leaves
        sys.exit(128 + number)
