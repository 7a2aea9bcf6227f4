"""Configs and their overrides: a setting that nothing would read is refused."""

import copy
import difflib
import inspect
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from detectron2.config import LazyConfig
from detectron2.engine.hooks import PeriodicCheckpointer
from detectron2.utils.registry import locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.nn.parallel import DistributedDataParallel


def load_config(
    config: str | os.PathLike | DictConfig, overrides: Sequence[str] = ()
) -> DictConfig:
    """A config with overrides.

    Args:
        config: a LazyConfig, which stays as it is, or its file.
        overrides: each "key=value". hydra's grammar reads the value: a number, null, a list, ...
            What it can't read as one value is a string, as it stands.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an override, or ``train`` in the config, has a setting that does not exist.
    """
    if isinstance(config, DictConfig):
        source, cfg = "the config", copy.deepcopy(config)
    elif os.path.isfile(source := os.fspath(config)):
        cfg = LazyConfig.load(source)
    else:
        raise FileNotFoundError(f"No config at '{source}'.")
    for section in TRAIN_SETTINGS:
        for name in OmegaConf.select(cfg, section) or ():
            _check(cfg, f"{section}.{name}", source)
    for override in overrides:
        key, is_override, text = override.removeprefix("+").partition("=")
        if not is_override or not all(key.split(".")):
            raise ValueError(f"'{override}' is not an override: write key=value.")
        _check(cfg, key, override, value := _parse(text))
        try:
            OmegaConf.update(cfg, key, value, merge=True)
        except OmegaConfBaseException as error:  # such as half an interpolation
            raise ValueError(f"{override} can't be set: {str(error).splitlines()[0]}") from error
    return cfg


def _parse(text: str) -> Any:
    try:
        parsed = OverridesParser.create().parse_rule(f"key={text}", "override")
    except HydraException:
        return text
    # To hydra, values between commas are several runs.
    return text if parsed.is_sweep_override() else parsed.value()


def _check(cfg: DictConfig, key: str, source: str, value: Any = None) -> None:
    """Raise ValueError if nothing reads ``key``, or a name in ``value`` where both are dicts."""
    sections = dict(_sections(OmegaConf.to_container(cfg, resolve=False)))
    section, _, name = key.rpartition(".")
    known = sections.get(section, ())
    if known is not None and name not in known:
        keys = sorted(f"{s}.{n}".lstrip(".") for s, names in sections.items() for n in names or ())
        nearest = difflib.get_close_matches(key, keys, n=1, cutoff=0)[0]
        raise ValueError(f"{source}: there is no setting '{key}'; the nearest is {nearest}.")
    if isinstance(value, dict) and key in sections and "_target_" not in value:
        for name, part in value.items():
            _check(cfg, f"{key}.{name}", source, part)


def _sections(node: Any, path: str = "", inside: bool = False) -> Iterator[tuple[str, Any]]:
    """The names that each section takes. A dict among a callable's arguments is data and takes any,
    None; a list takes its indices."""
    if not isinstance(node, dict | list):
        return
    items = {str(k): v for k, v in (node.items() if isinstance(node, dict) else enumerate(node))}
    is_call = "_target_" in items
    names = {*items, *(_arguments(items["_target_"]) if is_call else ())}
    is_data = inside and not is_call and isinstance(node, dict)
    yield path, None if is_data else TRAIN_SETTINGS.get(path, names)
    for name, child in items.items():
        yield from _sections(child, f"{path}.{name}".lstrip("."), inside or is_call)


def _arguments(target: Any) -> set[str]:
    """Names of a callable's arguments; where a class hands on **kwargs, of its bases', too."""
    target = locate(target) if isinstance(target, str) else target
    names: set[str] = set()
    for part in target.__mro__ if inspect.isclass(target) else [target]:
        function = vars(part).get("__init__", object.__init__) if inspect.isclass(part) else part
        parameters = inspect.signature(function).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names - {"self"}


# What gridclip.engine reads, with values in configs/common/train.py. detectron2 reads the last.
TRAIN_SETTINGS: dict[str, Collection[str]] = {
    "train": "output_dir init_checkpoint max_iter seed device amp inference ema clip_grad_norm ddp "
    "checkpointer eval_period best_metric log_period pictures cudnn_benchmark".split(),
    "train.amp": ["enabled", "dtype"],
    "train.inference": ["dtype", "compile"],
    "train.ema": ["enabled", "decay"],
    "train.ddp": _arguments(DistributedDataParallel),
    "train.checkpointer": _arguments(PeriodicCheckpointer),
}
