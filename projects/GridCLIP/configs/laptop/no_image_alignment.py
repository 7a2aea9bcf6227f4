"""GridCLIP without Image-level Alignment."""

from .gridclip import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

clip.image_embeddings = None
model.image_alignment = None
train.output_dir = "output/laptop/no_image_alignment"
