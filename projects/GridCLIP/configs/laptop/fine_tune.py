"""GridCLIP of the laptop world, fine-tuned on a few pictures of new categories."""

from detectron2.config import LazyCall as L

from gridclip.data import open_dataset
from laptop_world.fine_tuning_data import groups, unseen_names

from .gridclip import clip, data, dataloader, lr_multiplier, model, optimizer, shapes, train

# Of the novel categories some are new now. The others stay novel.
data.novel = L(unseen_names)(world="${shapes.world}")
data.train = L(open_dataset)(json=None, images=None, novel="${data.novel}")
data.val.groups = L(groups)(world="${shapes.world}")
data.val.hint = None
clip.image_embeddings = "${train.output_dir}/image_embeddings"
model.federated_weights = None

optimizer.lr = 3e-4
lr_multiplier.warmup_length = 0.1
train.update(init_checkpoint=None, max_iter=100, output_dir="output/laptop/fine_tune")
train.checkpointer.period = 1_000
