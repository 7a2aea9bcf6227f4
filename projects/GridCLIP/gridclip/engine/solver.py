"""Pieces of the optimizer's configuration."""


class BackboneLRFactor:
    """Scales the learning rate of CLIP's backbone; use as ``lr_factor_func``.

    It is a class and not a closure, so that configs can be saved.
    """

    def __init__(self, factor: float):
        self.factor = factor

    def __call__(self, parameter_name: str) -> float:
        return self.factor if parameter_name.startswith("backbone.bottom_up.") else 1.0
