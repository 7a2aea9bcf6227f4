"""Open-vocabulary detectors of other libraries beside GridCLIP and ViLD, on a CPU.

They are built from their configs with random weights, without a network. Text is embedded before
the clock starts, everywhere.
"""
