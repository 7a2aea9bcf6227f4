"""ShapesLVIS, the laptop world: pictures of 128 px, 96 base and 34 novel categories, a small CLIP.

Choices are made on ``shapes.world=dev`` and reported on ``test``, which has other novel names.
"""

import os

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader

from gridclip.data import (
    GridCLIPDatasetMapper,
    PictureMapper,
    all_records,
    build_train_loader,
    open_dataset,
    training_records,
)
from gridclip.evaluation import OpenVocabularyEvaluator
from laptop_world.shapes import how_to_generate, novel_axes, novel_names

_root = os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), "shapes")
shapes = dict(world="test")

data = dict(
    novel=L(novel_names)(world="${shapes.world}"),
    train=L(open_dataset)(
        json=os.path.join(_root, "shapes_${shapes.world}_train.json"),
        images=_root,
        novel="${data.novel}",
        hint=L(how_to_generate)(root=_root, world="${shapes.world}"),
    ),
    val=L(open_dataset)(
        json=os.path.join(_root, "shapes_${shapes.world}_val.json"),
        images=_root,
        novel="${data.novel}",
        groups=L(novel_axes)(world="${shapes.world}"),
        hint="${..train.hint}",
    ),
)

clip = dict(
    weights="projects/GridCLIP/laptop_world/models/shapes_clip.safetensors",
    names=None,
    templates="single",
    windows="tiles9",
    text_embeddings=os.path.join(_root, "shapes_${shapes.world}_text.safetensors"),
    image_embeddings=os.path.join(_root, "shapes_${shapes.world}_images_${clip.windows}"),
)

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(training_records)(data="${data.train}"),
        mapper=L(GridCLIPDatasetMapper)(
            is_train=True,
            augmentations=[L(T.RandomFlip)(horizontal=True)],
            embeddings="${clip.image_embeddings}",
        ),
        total_batch_size=16,
        repeat_threshold=0.001,
        num_workers=0,
        seed="${train.seed}",
    ),
    test=L(build_detection_test_loader)(
        dataset=L(all_records)(data="${data.val}"),
        mapper=L(PictureMapper)(is_train=False, augmentations=[]),
        batch_size=16,
        num_workers=0,
    ),
    evaluator=L(OpenVocabularyEvaluator)(data="${data.val}", output_dir="${train.output_dir}"),
)
