"""GridCLIP R50 on your own data, from CLIP's weights.

    projects/GridCLIP/train_net.py --config-file projects/GridCLIP/configs/custom/gridclip_r50.py \\
        data.train.json=train.json data.train.images=pictures \\
        data.val.json=val.json data.val.images=pictures \\
        data.novel='[zebra]' train.output_dir=output/mine

Files are in COCO's or LVIS's format, or names in detectron2's catalogs (data.train.dataset=NAME).
Batch, steps and rate follow from the number of pictures and GPUs: gridclip/engine/schedule.py has
the rule. On a machine without a GPU add train.device=cpu train.amp.enabled=False.
"""

from ..lvis.gridclip_r50_ov_1x import (
    clip,
    data,
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

data.novel = None
for _part in (data.train, data.val):
    _part.update(json=None, images=None, dataset=None, leave_out="${data.leave_out}")
data.leave_out = []

# CLIP's embeddings of your names and pictures lie beside the results.
clip.update(
    names=None,
    text_embeddings="${train.output_dir}/text_embeddings.safetensors",
    image_embeddings="${train.output_dir}/image_embeddings",
)

# A picture without an object teaches what is background.
dataloader.train.dataset.filter_empty = False

dataloader.train.total_batch_size = None
optimizer.lr = None
lr_multiplier.warmup_length = None
train.update(max_iter=None, eval_period=None, pictures=12, output_dir="output/own_data")
train.checkpointer.period = None
