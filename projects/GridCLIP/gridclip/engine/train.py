"""Training and evaluation of a LazyConfig."""

import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from detectron2.config import instantiate
from detectron2.engine import HookBase, default_writers, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gridclip.data import DatasetDescription
from gridclip.evaluation import OpenVocabularyEvaluator, draw_results, write_results
from gridclip.modeling import optimize_for_inference

from .checkpoint import GridCLIPCheckpointer
from .failures import check_device
from .precision import Detector, use_configured_precision
from .prepare import (
    check_embeddings,
    check_same_categories,
    choose_vocabulary,
    open_data,
    prepare_embeddings,
    prepare_text_embeddings,
)
from .process_time import ProcessTimer
from .resume import ResumableBestCheckpointer, SeedStepHook
from .schedule import complete_schedule
from .shared_memory import check_shared_memory
from .trainer import Trainer

logger = logging.getLogger("detectron2.gridclip")


def build_model(cfg: DictConfig) -> Detector:
    """The model on its device."""
    return instantiate(cfg.model).to(cfg.train.device)


def average_model(cfg: DictConfig, checkpointer: GridCLIPCheckpointer) -> AveragedModel | None:
    """An exponential moving average of the checkpointer's model, if ``train.ema.enabled``. It
    becomes a part of the checkpoints."""
    if not cfg.train.ema.enabled:
        return None
    average = get_ema_multi_avg_fn(cfg.train.ema.decay)
    averaged = AveragedModel(checkpointer.model, multi_avg_fn=average, use_buffers=True)
    checkpointer.add_checkpointable("ema", averaged)
    return averaged


def load_weights(cfg: DictConfig, model: Detector, path: str) -> Detector:
    """The model with a trained detector's weights, or where the run averaged its weights, a copy
    with the average. Raises FileNotFoundError or ValueError if the file does not hold them."""
    checkpointer = GridCLIPCheckpointer(model, trained=True)
    averaged = average_model(cfg, checkpointer)
    checkpointer.load(path)
    if averaged is None:
        return model
    if averaged.n_averaged == 0:
        raise ValueError(
            f"{path} holds no averaged weights, which train.ema.enabled asks for: add "
            "train.ema.enabled=False."
        )
    return cast(Detector, averaged.module)


def build_trainer(
    cfg: DictConfig, model: nn.Module, loader: Iterable, optimizer: torch.optim.Optimizer
) -> Trainer:
    """The trainer as ``train`` says, in :func:`training_precision`."""
    precision = training_precision(cfg)
    logger.info(f"Training in {str(precision).removeprefix('torch.')}")
    return Trainer(
        model,
        loader,
        optimizer,
        precision=precision,
        clip_grad_norm=cfg.train.clip_grad_norm,
        lr=cfg.optimizer.get("lr"),
        output_dir=cfg.train.output_dir,
    )


def training_precision(cfg: DictConfig) -> torch.dtype:
    """float32, or with ``train.amp.enabled`` the type of automatic mixed precision:
    ``train.amp.dtype``, by default bfloat16 where the GPU computes in it, else float16."""
    if not cfg.train.amp.enabled:
        return torch.float32
    if (dtype := cfg.train.amp.get("dtype")) is not None:
        return getattr(torch, dtype)
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bfloat16 else torch.float16


def build_evaluator(cfg: DictConfig, names: Sequence[str]) -> DatasetEvaluator:
    """The configured evaluator, ours or any of detectron2's, for a detector of these classes.
    Raises ValueError if detectron2's has other classes, which it would mistake for these."""
    evaluator = instantiate(cfg.dataloader.evaluator)
    if isinstance(evaluator, OpenVocabularyEvaluator):
        evaluator.use_vocabulary(names)
        return evaluator
    # detectron2's take a class for the category at its place in the whole file.
    own = getattr(getattr(evaluator, "_metadata", None), "thing_classes", names)
    if len(own) != len(names) or list(names) != list(instantiate(cfg.data.val).names):
        raise ValueError(
            f"{type(evaluator).__name__} has {len(own)} classes, the first '{own[0]}', and the "
            f"detector {len(names)}, the first '{names[0]}': take OpenVocabularyEvaluator, which "
            "maps them by name."
        )
    return evaluator


def do_test(cfg: DictConfig, model: Detector, evaluator: DatasetEvaluator, **facts: Any) -> dict:
    """Evaluate, write ``<output_dir>/results.json`` and return detectron2's nested metrics, which
    are empty on all ranks but the first, and where the data set has no annotations.

    Args:
        model: stays as it is; a fast copy is evaluated.
        evaluator: of :func:`build_evaluator`.
        facts: further entries of the file, such as the iteration.
    """
    fast = optimize_for_inference(model, compile=cfg.train.inference.compile)
    dtype = use_configured_precision(cfg, fast)
    loader = instantiate(cfg.dataloader.test)
    if isinstance(evaluator, OpenVocabularyEvaluator):
        evaluator.detector_limit = model.max_detections_per_image
    results = inference_on_dataset(fast, loader, evaluator)
    if comm.is_main_process() and not results:
        # An earlier run's would be taken for that of the detections that are now beside it.
        Path(cfg.train.output_dir, "results.json").unlink(missing_ok=True)
    if comm.is_main_process() and results:
        print_csv_format(results)
        protocol = {"evaluator": type(evaluator).__name__, "ap": "as this evaluator has it"}
        if isinstance(evaluator, OpenVocabularyEvaluator):
            protocol = evaluator.protocol()
        write_results(
            cfg.train.output_dir,
            results,
            protocol=protocol,
            data=instantiate(cfg.data.val),
            num_images=len(loader.dataset),
            cfg=cfg,
            seed=cfg.train.seed,
            device=cfg.train.device,
            inference_dtype=str(dtype).removeprefix("torch."),
            **facts,
        )
    return results


def do_eval_only(cfg: DictConfig) -> dict:
    """Evaluate ``train.init_checkpoint``, its averaged weights if the config averages, on
    ``data.val``.

    The vocabulary is that of the file of text embeddings if it has all of the data set's names, as
    after a training; else it is the data set's.
    """
    check_device(cfg, training=False)
    val = open_data(cfg, "val")
    names = choose_vocabulary(cfg, val)
    evaluator = build_evaluator(cfg, names)
    if "novel_classes" in cfg.model.classifier:
        cfg.model.classifier.novel_classes = _novel_in(cfg, val, names)
    if "federated_weights" in cfg.model:
        cfg.model.federated_weights = None  # of the training data and for the loss alone
    check_shared_memory(instantiate(cfg.dataloader.test))
    model = build_model(cfg)
    evaluated = load_weights(cfg, model, cfg.train.init_checkpoint)
    return do_test(cfg, evaluated, evaluator, weights=cfg.train.init_checkpoint)


def _novel_in(cfg: DictConfig, val: DatasetDescription, names: Sequence[str]) -> list[int]:
    """The classes among ``names`` that the training left out: ViLD scores them otherwise."""
    if val.novel_classes is not None and set(names) == set(val.names):
        novel = {val.names[i] for i in val.novel_classes}
        return [i for i, name in enumerate(names) if name in novel]
    train = instantiate(cfg.data.train)
    base = {train.names[i] for i in train.base_classes}
    return [i for i, name in enumerate(names) if name not in base]


def do_train(cfg: DictConfig, *, resume: bool = False, dry_run: bool = False) -> None:
    """Train, with evaluations on the way and at the end.

    Args:
        resume: continue from the last checkpoint in ``train.output_dir``, if there is one.
        dry_run: build everything, train two iterations, run one test image, keep no checkpoint.
    """
    check_device(cfg, training=True)
    check_embeddings(cfg)
    train, val = (open_data(cfg, part) for part in ("train", "val"))
    check_same_categories(train, val)
    complete_schedule(cfg, train, resume=resume)
    evaluator = build_evaluator(cfg, train.names)
    prepare_text_embeddings(cfg, train)
    prepare_embeddings(cfg, train)
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    loader = instantiate(cfg.dataloader.train)
    check_shared_memory(loader, instantiate(cfg.dataloader.test))
    device_ids = {} if str(cfg.train.device).startswith("cuda") else {"device_ids": None}
    ddp_model = create_ddp_model(model, **device_ids, **cfg.train.ddp)
    trainer = build_trainer(cfg, ddp_model, loader, optimizer)
    checkpointer = GridCLIPCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    averaged = average_model(cfg, checkpointer)
    if dry_run:
        _dry_run(cfg, trainer, checkpointer)
        return
    trainer.register_hooks(_build_hooks(cfg, trainer, checkpointer, averaged, evaluator))
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    resuming = resume and checkpointer.has_checkpoint()
    start_iter = trainer.iter + 1 if resuming else 0
    loader.batch_sampler.start_iter = start_iter
    if comm.is_main_process():
        trainer.skipped_steps.forget(start_iter)
    if averaged is not None and not resuming:
        averaged.module.load_state_dict(model.state_dict())
    trainer.train(start_iter, cfg.train.max_iter)
    if cfg.train.pictures and val.annotations.available and comm.is_main_process():
        drawn = draw_results(cfg.train.output_dir, max_images=cfg.train.pictures)
        logger.info(f"{len(drawn)} pictures are in {drawn[0].parent}")


class BackboneLRFactor:
    """The ``lr_factor_func`` of a slower backbone. It is a class so that configs can be saved."""

    def __init__(self, factor: float):
        self.factor = factor

    def __call__(self, parameter_name: str) -> float:
        return self.factor if parameter_name.startswith("backbone.bottom_up.") else 1.0


def build_optimizer(cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The configured optimizer of a model's parameters."""
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    cfg.optimizer.params.model = None  # a config that holds a model can't be written down
    return optimizer


class _AverageHook(HookBase):
    def __init__(self, averaged: AveragedModel, model: nn.Module):
        self.averaged, self.model = averaged, model

    def after_step(self) -> None:
        if not self.trainer.skipped:  # a skipped step leaves the average as it was, too
            self.averaged.update_parameters(self.model)


def _build_hooks(
    cfg: DictConfig,
    trainer: Trainer,
    checkpointer: GridCLIPCheckpointer,
    averaged: AveragedModel | None,
    evaluator: DatasetEvaluator,
) -> list[HookBase]:
    start = time.monotonic()
    train, model = cfg.train, checkpointer.model
    evaluated = model if averaged is None else cast(Detector, averaged.module)

    def evaluate() -> dict:
        return do_test(
            cfg,
            evaluated,
            evaluator,
            weights=train.init_checkpoint,
            iterations=min(trainer.iter + 1, train.max_iter),  # after the last it is one more
            seconds=round(time.monotonic() - start, 1),
            precision=str(trainer.precision).removeprefix("torch."),
        )

    scheduler = hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier))
    built = [hooks.IterationTimer(), ProcessTimer(), SeedStepHook(train.seed), scheduler]
    if averaged is not None:
        built.append(_AverageHook(averaged, model))
    evaluation = hooks.EvalHook(train.eval_period, evaluate)
    if not comm.is_main_process():
        return [*built, evaluation]
    writers = default_writers(train.output_dir, train.max_iter)
    return [
        *built,
        hooks.PeriodicCheckpointer(checkpointer, **train.checkpointer),
        evaluation,
        ResumableBestCheckpointer(train.eval_period, checkpointer, train.best_metric),
        hooks.PeriodicWriter(writers, period=train.log_period),
    ]


def _dry_run(cfg: DictConfig, trainer: Trainer, checkpointer: GridCLIPCheckpointer) -> None:
    instantiate(cfg.lr_multiplier)
    checkpointer.load(cfg.train.init_checkpoint, checkpointables=[])
    trainer.train(0, 2)
    losses = {k: round(v, 4) for k, (v, _) in trainer.storage.latest().items() if "loss" in k}
    model = trainer.model.eval()
    with torch.no_grad():
        instances = model(next(iter(instantiate(cfg.dataloader.test))))[0]["instances"]
    logger.info(f"Dry run: losses {losses}; {len(instances)} detections in the first test image")
