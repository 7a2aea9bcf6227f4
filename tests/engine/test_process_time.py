import time

import torch
from detectron2.engine import SimpleTrainer
from detectron2.engine.hooks import IterationTimer

from gridclip.engine.process_time import ProcessTimer


class SlowModel(torch.nn.Linear):
    """Waits 50 ms and works 20 ms."""

    def forward(self, batch):
        time.sleep(0.05)
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        return {"loss": super().forward(batch).sum()}


def test_it_counts_work_and_not_waiting():
    model = SlowModel(1, 1)
    trainer = SimpleTrainer(model, [torch.ones(1, 1)] * 6, torch.optim.SGD(model.parameters(), 0))
    trainer.register_hooks([IterationTimer(), ProcessTimer()])
    trainer.train(0, 6)
    work, clock = (trainer.storage.history(name).values() for name in ("cpu_time", "time"))
    work = {iteration: value for value, iteration in work}
    assert len(work) == 6 and min(work.values()) >= 0.02
    for value, iteration in clock:
        assert work[int(iteration)] <= value - 0.04
