"""TensorBoard's event file, written in step with training: what the disk refuses is said once, and training goes on.

(torch.utils.tensorboard.SummaryWriter writes in a thread of its own, whose errors end as tracebacks.)
"""
import os
import platform
import time
from contextlib import suppress

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary
from tqdm import tqdm

from runtime.files import inside


class Board:
    """Points and pictures in `folder`, below the run folder `home`; earlier ones from `purge_step` on are void.

    InputError where a link leads `folder` out of `home`.
    """

    def __init__(self, home, folder, purge_step=None):
        self.path = inside(home, folder / f"events.out.tfevents.{time.time():.0f}.{platform.node()}.{os.getpid()}")
        self.file = None
        self._add(Event(step=purge_step or 0, file_version="brain.Event:2"))
        if purge_step is not None:
            self._add(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def add_scalar(self, name, value, step):
        self._add(Event(step=step, summary=summary.scalar(name, value)))

    def add_image(self, name, picture, step):
        """picture: (H, W, 3) in [0, 1]."""
        self._add(Event(step=step, summary=summary.image(name, picture, dataformats="HWC")))

    def _add(self, event):
        if self.path is None:
            return
        event.wall_time = time.time()
        try:
            if self.file is None:
                self.file = self.path.open("xb")
                self.records = RecordWriter(self.file)
            self.records.write(event.SerializeToString())
            self.records.flush()
        except OSError as error:
            tqdm.write(f"{self.path}: cannot be written ({error.strerror or error}); going on without TensorBoard")
            self.path = None

    def close(self):
        if self.file is not None:
            with suppress(OSError):     # said before
                self.file.close()
