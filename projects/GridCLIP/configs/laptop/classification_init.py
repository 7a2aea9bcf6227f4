"""GridCLIP whose backbone starts from a classifier of the base categories, as from ImageNet::

    python -m laptop_world.pretrain_classifier --world test --output \\
        datasets/shapes/shapes_test_classifier.safetensors
"""

import os

from .gridclip import clip, dataloader, lr_multiplier, model, optimizer, shapes, train

model.dense_scores = None  # there is no CLIP in it
train.init_checkpoint = os.path.join(
    os.getenv("DETECTRON2_DATASETS", "datasets"),
    "shapes/shapes_${shapes.world}_classifier.safetensors",
)
train.output_dir = "output/laptop/classification_init"
