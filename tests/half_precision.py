"""Which operators compute in half precision, whatever autocast has made of their inputs."""

from collections import Counter
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# These change no value, or compare.
_EXACT = (
    "_to_copy abs alias cat clone copy_ detach empty empty_like expand index index_select permute "
    "select slice sort split split_with_sizes stack t topk transpose unbind unsqueeze "
    "_unsafe_view view where"
).split()


class HalfOperators(TorchDispatchMode):
    """Attributes: ``seen``, how often each operator had a result in half precision."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function._schema.name.removeprefix("aten::")
        half = (torch.bfloat16, torch.float16)
        if name not in _EXACT and any(getattr(x, "dtype", None) in half for x in tree_leaves(out)):
            self.seen[name] += 1
        return out


@contextmanager
def watched(*places):
    """Yields {"Class.method": Counter}, of HalfOperators, for each (class, method) that ran."""
    seen: dict[str, Counter] = {}

    def watch(owner, name):
        original = getattr(owner, name)

        def run(*args, **kwargs):
            with HalfOperators() as operators:
                out = original(*args, **kwargs)
            seen.setdefault(f"{owner.__name__.split('.')[-1]}.{name}", Counter()).update(
                operators.seen
            )
            return out

        return patch.object(owner, name, run)

    patches = [watch(*place) for place in places]
    for each in patches:
        each.start()
    try:
        yield seen
    finally:
        for each in patches:
            each.stop()
