"""Measurements of GridCLIP and of other detectors: time, memory, arithmetic and cost."""
