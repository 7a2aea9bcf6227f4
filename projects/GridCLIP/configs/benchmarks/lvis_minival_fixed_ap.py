"""Like LVIS minival, by Fixed AP (Dave et al., "Evaluating Large-Vocabulary Object Detectors"): the
best 10,000 detections of a category over all images, without a limit per image.

The detector has to give many. Here it gives the best 1,000 of an image, whatever their scores; with
fewer than 10,000 of a category Fixed AP comes out too low. results.json says both numbers.
"""

from .lvis_minival import clip, data, dataloader, lr_multiplier, model, optimizer, train

dataloader.evaluator.ap = "fixed"
model.max_detections_per_image = 1_000
train.output_dir = "output/benchmarks/lvis_minival_fixed_ap"
