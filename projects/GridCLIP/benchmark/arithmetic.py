"""Parameters and multiply-adds of a detector, by fvcore."""

import copy

import torch
from detectron2.utils.analysis import FlopCountAnalysis
from torch import nn

from .stages import stage_functions


@torch.no_grad()
def count_arithmetic(model: nn.Module, picture: dict) -> dict:
    """
    Args:
        model: in evaluation mode and float32.
        picture: one input of its forward pass.

    Returns:
        "parameters", their number; "gmac" and "gmac_by_stage", in 1e9 multiply-adds (which fvcore
        calls flops); "unsupported_ops", how often each operation occurs that fvcore cannot count.
    """
    if next(model.parameters()).device.type != "cpu":
        # Tracing makes the sizes of tensors tensors of the CPU, which do not mix with others.
        model = copy.deepcopy(model).cpu()
    flops = FlopCountAnalysis(model, [picture])
    flops.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    names = {module: name for name, module in model.named_modules()}
    stages = {
        names[f.owner]: f.stage
        for f in stage_functions(model)
        if f.attribute == "forward" and f.owner in names
    }
    counts = flops.by_module()
    # A stage's own count is without the stages within it.
    own = {name: counts[f"model.{name}"] for name in stages}
    for name in stages:
        outer = [other for other in stages if name.startswith(f"{other}.")]
        if outer:
            own[max(outer, key=len)] -= counts[f"model.{name}"]
    by_stage = dict.fromkeys(stages.values(), 0.0)
    for name, stage in stages.items():
        by_stage[stage] += own[name] / 1e9
    total = flops.total() / 1e9
    # What is left belongs to GridCLIP's folded classifier, which is not a module.
    by_stage["classifier"] = by_stage.get("classifier", 0.0) + total - sum(by_stage.values())
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "gmac": total,
        "gmac_by_stage": by_stage,
        "unsupported_ops": dict(flops.unsupported_ops()),
    }
