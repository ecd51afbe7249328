"""Composing the jobs of a sweep: what they choose alike is composed once, and only their values are set anew.

Hydra spends a quarter of a second on a configuration, nearly all of it on reading groups and merging them. Which
options are merged depends on the overrides that choose an option alone; a plain `key=value` is set at the end, as it is
here. Anything else (`+key`, `~key`, Hydra's own settings, whatever is wrong) is left to `compose_config`, which also
words what is wrong.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harmonize.config.compose import compose_config, composed, groups, hydra_context, problems_of
from harmonize.errors import ConfigError

_MOST = 64  # compositions that are kept, 0.2 MB each


class Compositions:
    """Configurations of many jobs. What files of `conf/` say is read once for all jobs that choose alike.

    Args:
        config_dirs: The user's own configuration folders.
    """

    def __init__(self, config_dirs: Sequence[str | Path] = ()) -> None:
        self.config_dirs = list(config_dirs)
        self._groups: frozenset[str] | None = None
        self._bases: OrderedDict[tuple[str, ...], Any] = OrderedDict()

    def compose(self, command: str, overrides: Sequence[str] = (), check: bool = True) -> Any:
        """What `compose_config` gives.

        Raises:
            ConfigError: What `compose_config` raises.
        """
        cfg = self._set(command, overrides)
        if cfg is None:
            return compose_config(command, overrides, config_dirs=self.config_dirs, check=check)
        if problems := problems_of(cfg, command, check=check):
            raise ConfigError(list(dict.fromkeys(problems)))
        return cfg

    def _set(self, command: str, overrides: Sequence[str]) -> Any:
        """The configuration, unchecked, or None where it takes Hydra to say."""
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        choices: list[str] = []
        values: list[tuple[str, Any]] = []
        try:
            for text, override in zip(
                overrides, OverridesParser.create().parse_overrides(list(overrides)), strict=True
            ):
                key = override.key_or_group
                plain = override.type is not None and override.type.name == "CHANGE"
                if not plain or override.is_sweep_override() or key.partition(".")[0] == "hydra":
                    return None
                if key in self._known() or "/" in key or override.package is not None:
                    choices.append(text)
                else:
                    values.append((key, override.value()))
            cfg = copy.deepcopy(self._base(command, choices))
            for key, value in values:
                OmegaConf.update(cfg, key, value, merge=True)
        except (HydraException, OmegaConfBaseException, ConfigError):
            return None
        return cfg

    def _known(self) -> frozenset[str]:
        if self._groups is None:
            with hydra_context(self.config_dirs) as loader:
                self._groups = frozenset(groups(loader))
        return self._groups

    def _base(self, command: str, choices: Sequence[str]) -> Any:
        """The configuration before any value is set."""
        key = (command, *choices)
        if key not in self._bases:
            with hydra_context(self.config_dirs):
                self._bases[key] = composed(command, choices)
            if len(self._bases) > _MOST:
                self._bases.popitem(last=False)
        self._bases.move_to_end(key)
        return self._bases[key]
