"""Names of before this version, which go on working for one version."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any


def renamed_names(module: str, name: str, renamed: Mapping[str, Any]) -> Any:
    """What a module's `__getattr__` gives for an old name: the value of the new one, with a `DeprecationWarning`.

    Args:
        module: `__name__` of the module.
        name: what was asked for.
        renamed: values by their old names.

    Raises:
        AttributeError: it is not an old name either.
    """
    if name not in renamed:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    value = renamed[name]
    warnings.warn(f"{module}.{name} is now {value.__name__}", DeprecationWarning, stacklevel=3)
    return value
