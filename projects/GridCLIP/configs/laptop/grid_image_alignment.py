"""Image-level Alignment of the head's grid embeddings: the literal reading of the abstract."""

from detectron2.config import LazyCall as L

from gridclip.modeling import GridImageAlignment

from .gridclip import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

model.image_alignment = L(GridImageAlignment)(
    in_features="${..head_in_features}", in_channels=64, loss="cosine", weight=2.0
)
train.output_dir = "output/laptop/grid_image_alignment"
