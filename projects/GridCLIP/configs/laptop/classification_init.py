"""The backbone starts from a classifier of the base categories instead of CLIP.

This is what an initialisation from ImageNet is for photographs. First train the classifier::

    python -m laptop_world.pretrain_classifier --world test --output \\
        datasets/shapes/shapes_test_classifier.safetensors
"""

import os

from .gridclip import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

model.dense_scores = None  # this backbone does not map into CLIP's space
train.init_checkpoint = os.path.join(
    os.getenv("DETECTRON2_DATASETS", "datasets"),
    "shapes/shapes_${shapes.world}_classifier.safetensors",
)
train.output_dir = "output/laptop/classification_init"
