"""ViLD (arXiv 2104.13921), the two-stage detector that GridCLIP is compared with."""

from .classifier import ViLDClassifier, ensemble_scores
from .proposals import precompute_proposals
from .region_scores import PooledRegionScores, RegionScores
from .roi_heads import ViLDOutputLayers, ViLDROIHeads, distillation_loss
from .vild import ViLD

__all__ = [
    "PooledRegionScores",
    "RegionScores",
    "ViLD",
    "ViLDClassifier",
    "ViLDOutputLayers",
    "ViLDROIHeads",
    "distillation_loss",
    "ensemble_scores",
    "precompute_proposals",
]
