from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances

from gridclip.text import TextEmbeddings

CONFIG = Path(__file__).parents[2] / "projects/GridCLIP/configs/common/gridclip_r50.py"


@pytest.fixture
def vocabulary():
    """Makes ``count`` categories with random text embeddings of width 32."""

    def make(count, dim=32):
        table = torch.randn(count, dim, generator=torch.Generator().manual_seed(count))
        names = tuple(f"thing {i}" for i in range(count))
        return TextEmbeddings(names, F.normalize(table, dim=1), (), "RN50", "")

    return make


@pytest.fixture
def tiny_gridclip(vocabulary):
    """Builds the production config's model at a very small size."""

    def build(num_classes=6, **changes):
        torch.manual_seed(0)
        cfg = LazyConfig.load(str(CONFIG)).model
        cfg.backbone.bottom_up.update(
            layers=(1, 1, 1, 1), width=8, embed_dim=32, input_resolution=64, freeze_norm=False
        )
        cfg.backbone.out_channels = 64
        cfg.head.conv_dims = [64]
        cfg.classifier.update(text_embeddings=vocabulary(num_classes), embed_dim=32)
        cfg.update(changes)
        return instantiate(cfg)

    return build


@pytest.fixture
def batch():
    """Two images of different sizes: one with two boxes, one with none."""

    def instances(size, boxes, classes):
        out = Instances(size)
        out.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        out.gt_classes = torch.tensor(classes, dtype=torch.long)
        return out

    def make(boxes=((8, 8, 40, 40), (20, 30, 90, 60)), classes=(1, 4)):
        generator = torch.Generator().manual_seed(1)
        sizes = [(64, 96), (50, 70)]
        images = [torch.randint(0, 256, (3, *s), generator=generator).byte() for s in sizes]
        found = [instances(sizes[0], boxes, classes), instances(sizes[1], [], [])]
        embeddings = torch.randn(2, 1, 32, generator=generator)
        return [
            {
                "image": image,
                "instances": gt,
                "negative_classes": torch.tensor([0]),
                "not_exhaustive_classes": torch.tensor([], dtype=torch.long),
                "image_embeddings": embedding,
                "image_windows": torch.tensor([[0.0, 0.0, 1.0, 1.0]]),
            }
            for image, gt, embedding in zip(images, found, embeddings, strict=True)
        ]

    return make
