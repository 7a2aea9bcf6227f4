"""GridCLIP: one-stage open-vocabulary object detection on detectron2."""
