"""ShapesLVIS, the laptop world: pictures of 128 px, 96 base and 34 novel categories, a small CLIP.

Choices are made on ``shapes.world=dev`` and reported on ``test``, which has other novel names.
"""

import os

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)

from gridclip.data import GridCLIPDatasetMapper, build_train_loader
from gridclip.evaluation import OpenVocabularyLVISEvaluator
from laptop_world.shapes import register_shapes

_root = os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), "shapes")
for _world in ("dev", "test"):
    register_shapes(_root, _world)

shapes = dict(world="test")

clip = dict(
    weights="projects/GridCLIP/laptop_world/models/shapes_clip.safetensors",
    names=os.path.join(_root, "shapes_${shapes.world}_train.json"),
    templates="single",
    image_dataset="shapes_${shapes.world}_train",
    windows="tiles9",
    text_embeddings=os.path.join(_root, "shapes_${shapes.world}_text.safetensors"),
    image_embeddings=os.path.join(_root, "shapes_${shapes.world}_images_${clip.windows}"),
)

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="shapes_${shapes.world}_base"),
        mapper=L(GridCLIPDatasetMapper)(
            is_train=True,
            augmentations=[L(T.RandomFlip)(horizontal=True)],
            image_format="RGB",
            embeddings="${clip.image_embeddings}",
        ),
        total_batch_size=16,
        repeat_threshold=0.001,
        num_workers=0,
        seed="${train.seed}",
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(
            names="shapes_${shapes.world}_val", filter_empty=False
        ),
        mapper=L(DatasetMapper)(is_train=False, augmentations=[], image_format="RGB"),
        batch_size=16,
        num_workers=0,
    ),
    evaluator=L(OpenVocabularyLVISEvaluator)(
        dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}"
    ),
)
