"""A trained GridCLIP R50, fine-tuned on a few pictures of new categories: docs/fine-tuning.md.

    projects/GridCLIP/train_net.py --config-file projects/GridCLIP/configs/custom/fine_tune.py \\
        train.init_checkpoint=before/model_final.pth \\
        data.train.json=train.json data.train.images=pictures \\
        data.val.json=val.json data.val.images=pictures train.output_dir=output/fine_tuned

Image-level alignment stays on: it keeps the backbone in CLIP's space. Then
scripts/interpolate_weights.py goes back a part of the way.
"""

from .gridclip_r50 import clip, data, dataloader, lr_multiplier, model, optimizer, train

# In so few pictures only names that are known to be absent are negatives.
model.federated_weights = None

# A fifth of the rate of a training. The length does not grow with the pictures: 400 steps of the
# 4 pictures that a GPU has by the rule for own data, which also sets what is not set here.
optimizer.lr = 2e-5
train.update(
    init_checkpoint="output/own_data/model_final.pth",
    max_iter=400,
    output_dir="output/fine_tuned",
)
