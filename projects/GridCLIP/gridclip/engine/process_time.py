"""The processor time of a training step."""

import time

from detectron2.engine import HookBase


class ProcessTimer(HookBase):
    """Logs ``cpu_time``: the seconds of processor that a step takes in this process, over all its
    threads. Unlike ``time`` it does not grow with what else the machine does. Workers that load
    data are not in it."""

    def before_step(self) -> None:
        self._start = time.process_time()

    def after_step(self) -> None:
        self.trainer.storage.put_scalars(cpu_time=time.process_time() - self._start)
