"""The settings of a method: a frozen dataclass that reads plain values and checks them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from anprompt.errors import UserError, choices
from anprompt.utils.fractions import fraction


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """Base of the methods' typed configs; each checks its own values in `__post_init__`.

    Attributes:
        later: settings that came later. `to_dict` leaves them out at their defaults, so that the keys of records,
            adapters and states from before stay what they were.
    """

    later: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MethodConfig:
        """A config from plain values, as read from TOML, JSON or `--set`.

        Raises:
            UserError: unknown key (nearest named) or a value of the wrong type.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise choices(f"setting of {cls.__name__}", key, fields)
        defaults = cls()
        return cls(**{key: _typed(key, value, getattr(defaults, key)) for key, value in values.items()})

    def noise_families(self) -> frozenset[str]:
        """Families of noise that the training meets with these settings, as test conditions name them."""
        return frozenset()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for config.json."""
        defaults = {entry.name: entry.default for entry in dataclasses.fields(self)}
        values = {k: v for k, v in dataclasses.asdict(self).items() if k not in self.later or v != defaults[k]}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


# Counts (epochs, tokens, widths) beyond this only fill memory or never end; seeds and batches may be any number.
LARGEST_COUNT = 1_000_000
LARGEST_FLOAT = 1e9  # rates, weights, scales; beyond, sums in single precision are infinite
LARGEST = {"draws": 10_000, "seed": 2**63, "view_seed": 2**63, "batch_size": 2**31}


def _typed(key: str, value: Any, default: Any) -> Any:
    if isinstance(value, np.generic):  # what a grid search over numpy's ranges gives
        value = value.item()
    if isinstance(default, bool) != isinstance(value, bool):
        raise UserError(
            f"Setting {key!r} must {'be true or false' if isinstance(default, bool) else 'not be a boolean'}."
        )
    if isinstance(default, tuple) and isinstance(value, (list, tuple)):
        return tuple(_typed(key, entry, default[0] if default else "") for entry in value)
    if isinstance(default, float) and isinstance(value, (int, float)) and abs(value) > LARGEST_FLOAT:
        raise UserError(f"Setting {key!r} must be at most {LARGEST_FLOAT:,.0f}, not {str(value)[:40]}.")
    if isinstance(default, float) and isinstance(value, int):
        return float(value)
    if isinstance(default, float) and isinstance(value, str) and "/" in value:
        return fraction(value)
    if type(value) is not type(default):
        raise UserError(f"Setting {key!r} must be of type {type(default).__name__}, not {value!r}.")
    if isinstance(value, int) and value > LARGEST.get(key, LARGEST_COUNT):
        raise UserError(f"Setting {key!r} must be at most {LARGEST.get(key, LARGEST_COUNT):,}, not {value}.")
    return value
