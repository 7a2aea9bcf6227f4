from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances

from gridclip.text import TextEmbeddings

CONFIG = Path(__file__).parents[2] / "projects/GridCLIP/configs/common/vild_r50.py"
DIM = 32
NOVEL = (2, 5)


def unit(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


@pytest.fixture
def vocabulary():
    """Makes ``count`` categories with random text embeddings."""

    def make(count, dim=DIM, prefix="thing"):
        names = tuple(f"{prefix} {i}" for i in range(count))
        return TextEmbeddings(names, unit(count, dim), (), "RN50", "")

    return make


@pytest.fixture
def tiny_vild(vocabulary):
    """Builds the production config's model at a very small size, six categories, two novel."""

    def build(ensemble=False, conv_norm="", freeze_at=0, **roi_heads):
        torch.manual_seed(0)
        cfg = LazyConfig.load(str(CONFIG)).model
        cfg.backbone.bottom_up.update(
            layers=(1, 1, 1, 1), width=8, embed_dim=DIM, input_resolution=64, freeze_norm=False
        )
        cfg.backbone.bottom_up.freeze_at = freeze_at
        cfg.backbone.out_channels = 64
        cfg.roi_heads.box_head.update(conv_dims=[64], fc_dims=[64], conv_norm=conv_norm)
        cfg.roi_heads.box_predictor.input_shape.channels = 64
        cfg.roi_heads.batch_size_per_image = 16
        cfg.proposal_generator.update(post_nms_topk=[50, 50])
        if ensemble:
            cfg.roi_heads.image_head = "${.box_head}"
        cfg.roi_heads.update(roi_heads)
        cfg.classifier.update(text_embeddings=vocabulary(6), embed_dim=DIM, novel_classes=NOVEL)
        return instantiate(cfg)

    return build


@pytest.fixture
def batch():
    """Two images of different sizes: one with two boxes, one with none; five and no regions."""

    def make(boxes=((8, 8, 40, 40), (20, 30, 90, 60)), classes=(1, 4), num_regions=(5, 0)):
        generator = torch.Generator().manual_seed(1)
        sizes = [(64, 96), (50, 70)]
        inputs = []
        for i, (height, width) in enumerate(sizes):
            instances = Instances((height, width))
            found = (boxes, classes) if i == 0 else ((), ())
            instances.gt_boxes = Boxes(torch.tensor(found[0]).float().reshape(-1, 4))
            instances.gt_classes = torch.tensor(found[1], dtype=torch.long)
            corners = torch.rand(num_regions[i], 4, generator=generator) * 24
            inputs.append(
                {
                    "image": torch.randint(0, 256, (3, height, width), generator=generator).byte(),
                    "instances": instances,
                    "region_boxes": corners + torch.tensor([0.0, 0.0, 25.0, 25.0]),
                    "region_embeddings": unit(num_regions[i], DIM),
                }
            )
        return inputs

    return make
