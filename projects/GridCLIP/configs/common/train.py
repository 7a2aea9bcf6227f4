"""Optimizer, schedule and settings of a run: AdamW for batches of 16, a tenth of the learning rate
for the backbone. docs/training.md has the reasons for rate and warm-up."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import MultiStepParamScheduler

from gridclip.engine import BackboneLRFactor

train = dict(
    output_dir="output",
    init_checkpoint="${clip.weights}",
    max_iter=90_000,
    seed=0,
    device="cuda",
    # In bfloat16 where the GPU computes in it, else in float16; train.amp.dtype chooses.
    amp=dict(enabled=True),
    # For evaluation and Predictor. dtype "bfloat16" or "float16" is automatic mixed precision;
    # "auto" times them on this machine.
    inference=dict(dtype="float32", compile=False),
    ema=dict(enabled=False, decay=0.9998),
    clip_grad_norm=1.0,
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False),
    checkpointer=dict(period=5_000, max_to_keep=3),
    eval_period=30_000,
    best_metric="bbox/AP",
    log_period=20,
    pictures=0,  # drawn at the end, detections beside the ground truth
)

optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(
        base_lr="${..lr}",
        weight_decay_norm=0.0,
        # Weight decay would pull the classifier's temperature and prior to zero.
        overrides=dict(log_scale=dict(weight_decay=0.0), bias=dict(weight_decay=0.0)),
        lr_factor_func=L(BackboneLRFactor)(factor=0.1),
    ),
    lr=1e-4,
    weight_decay=0.05,
)

# Drops at two thirds and eight ninths of the run, as in detectron2's 1x. Milestones are relative.
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[6, 8, 9]),
    warmup_factor=0.001,
    warmup_length=5_000 / 90_000,
)
