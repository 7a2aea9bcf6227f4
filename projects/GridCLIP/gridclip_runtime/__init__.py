"""Runs an exported detector on onnxruntime or OpenVINO. Of other packages only numpy and Pillow are
needed: neither PyTorch nor ``gridclip`` itself."""

from .prediction import Prediction
from .predictor import Predictor

__all__ = ["Prediction", "Predictor"]
