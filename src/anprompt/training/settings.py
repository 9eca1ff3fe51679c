"""The settings of a run, resolved once: a preset, what a recipe changes of it, and what the caller replaces.

`fit`, `bench` and `PromptClassifier` all ask `resolve`; whoever comes later is handed the two configs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from anprompt.errors import choices
from anprompt.methods import Method, MethodConfig, get_method, get_preset
from anprompt.training.config import TrainConfig

RECIPE = "base-to-new"  # where a caller names no protocol


@dataclass(frozen=True)
class Settings:
    """A method with all its settings, and how it is trained.

    Attributes:
        preset: the name it was asked for by.
        cls: the method's class.
        method: the method's own settings.
        train: the training recipe; its seed is that of the run.
    """

    preset: str
    cls: type[Method[Any]]
    method: MethodConfig
    train: TrainConfig

    @property
    def reads_descriptions(self) -> bool:
        """Whether the method reads class descriptions with these settings."""
        return any(value == "descriptions" for value in self.method.to_dict().values())


def resolve(
    preset: str,
    *,
    recipe: str = RECIPE,
    dataset: str = "",
    shots: int | None = None,
    seed: int = 1,
    settings: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
) -> Settings:
    """All settings of a run.

    Args:
        preset: name of a preset or plug-in method.
        recipe: the protocol whose tables of the preset hold.
        dataset, shots: name of the data set and images per class, which some presets' tables depend on.
        seed: of the run.
        settings, train: values that replace the preset's.

    Returns:
        Both configs, checked.

    Raises:
        UserError: an unknown preset or setting, or a value that can't be.
    """
    chosen = get_preset(preset, recipe, dataset=dataset, shots=shots or 0)
    cls = get_method(chosen.method)
    method = cls.Config.from_dict({**chosen.settings, **(settings or {})})
    training = TrainConfig.from_dict({**chosen.train, **(train or {}), "seed": seed})
    return Settings(preset, cls, method, cast(TrainConfig, training))


def split_settings(preset: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`--set` values apart: those of the method's config and those of the training.

    Args:
        preset: whose method it is.
        values: by key.

    Returns:
        Values of the method, values of the training.

    Raises:
        UserError: a key of neither; the nearest is named.
    """
    of_method, of_train = get_method(get_preset(preset).method).Config().to_dict(), _trainable_settings()
    settings: dict[str, Any] = {}
    train: dict[str, Any] = {}
    for key, value in values.items():
        if key not in of_method and key not in of_train:
            raise choices(f"setting of {preset}", key, [*sorted(of_method), *sorted(of_train)])
        table, default = (settings, of_method[key]) if key in of_method else (train, of_train[key])
        # One word given for a list is a list of one.
        table[key] = [value] if isinstance(default, list) and not isinstance(value, list) else value
    return settings, train


def has_setting(preset: str, key: str) -> bool:
    """Whether a preset's method, or its training where there is something to train, has this setting."""
    cls = get_method(get_preset(preset).method)
    return key in cls.Config().to_dict() or (cls.trains and key in _trainable_settings())


def _trainable_settings() -> dict[str, Any]:
    """Defaults of the training settings that `--set` takes; the seed has an option of its own."""
    values = dataclasses.asdict(TrainConfig())
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if k != "seed"}
