"""LVIS v1, open-vocabulary: trained on frequent and common categories, tested on all."""

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

_root = os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), "gridclip")

# Novel: what training leaves out and evaluation reports apart, here what the file calls "r".
data = dict(
    novel="rare",
    train=L(open_dataset)(dataset="lvis_v1_train", novel="${data.novel}"),
    val=L(open_dataset)(dataset="lvis_v1_val", novel="${data.novel}"),
)

# The text embeddings of the vocabulary and the embeddings of the training images are computed once,
# with CLIP. train_net.py makes what is missing.
clip = dict(
    weights="clip://RN50",
    names="lvis_v1",  # the data's own, named here so that Predictor can do without the data
    templates="imagenet",
    windows="tiles9",
    text_embeddings=os.path.join(_root, "lvis_v1_text_RN50.safetensors"),
    image_embeddings=os.path.join(_root, "lvis_v1_train_images_RN50_${clip.windows}"),
)

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(training_records)(data="${data.train}"),
        mapper=L(GridCLIPDatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length=(640, 672, 704, 736, 768, 800),
                    sample_style="choice",
                    max_size=1333,
                ),
                L(T.RandomFlip)(horizontal=True),
            ],
            embeddings="${clip.image_embeddings}",
        ),
        total_batch_size=16,
        repeat_threshold=0.001,
        num_workers=4,
        seed="${train.seed}",
    ),
    test=L(build_detection_test_loader)(
        dataset=L(all_records)(data="${data.val}"),
        mapper=L(PictureMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
        ),
        num_workers=4,
    ),
    evaluator=L(OpenVocabularyEvaluator)(data="${data.val}", output_dir="${train.output_dir}"),
)
