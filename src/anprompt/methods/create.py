"""From a name to a method on a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anprompt.backbones.base import CAPABILITIES, Backbone
from anprompt.errors import UserError
from anprompt.methods.base import Method
from anprompt.methods.config import MethodConfig
from anprompt.methods.presets import Preset, get_preset
from anprompt.methods.registry import get_method
from anprompt.utils.machine import align

LONGEST_TEMPLATE = 1000


def create_method(
    method: str | type[Method[Any]],
    backbone: Backbone,
    classnames: Sequence[str],
    *,
    template: str = "a photo of a {}.",
    descriptions: Mapping[str, Sequence[str]] | None = None,
    settings: Mapping[str, Any] | MethodConfig | None = None,
    seed: int = 1,
    fresh: bool = True,
    protocol: str = "base-to-new",
    dataset: str = "",
    shots: int = 0,
) -> Method[Any]:
    """A method on a backbone, ready to train.

    Args:
        method: preset name ("anprompt", "anprompt-snapshot", "zeroshot", ...), or a class that need not be registered.
        backbone: the frozen model.
        classnames: what is trained on, in label order.
        template: a sentence with one "{}" for the class name.
        descriptions: sentences by class name, for methods that read them.
        settings: values that replace the preset's; or a whole config, which is taken as it is.
        seed: of the trained tensors' start, and of noise; 0 is a seed.
        fresh: compute the method's fixed tensors (noise prompts); False when tensors are loaded next.
        protocol, dataset, shots: what the preset's settings may depend on, see `get_preset`.

    Returns:
        The method on the backbone's device, untrained.

    Raises:
        UserError: unknown preset or setting, bad value, empty class list, template without "{}", or a
            backbone that lacks what the method needs.

    Examples:
        >>> from anprompt import load_backbone
        >>> create_method("coop", load_backbone("embedded"), ["cat", "dog"]).trained_classnames
        ('cat', 'dog')
    """
    if not classnames:
        raise UserError("The class list is empty; give at least one class name.")
    check_template(template)
    if isinstance(method, str):
        recipe = get_preset(method, protocol, dataset=dataset, shots=shots)
        cls = get_method(recipe.method)
    else:
        recipe, cls = Preset(method.name, method.name), method
    _check_needs(cls, backbone)
    if not isinstance(settings, MethodConfig):
        settings = cls.Config.from_dict({**recipe.settings, **(settings or {})})
    made = cls(backbone, classnames, settings, template=template, descriptions=descriptions, seed=seed)
    made.preset = recipe.name
    made.to(backbone.device)
    if fresh:
        made.start()
    align(made)  # prompts that start as words are slices of the words' embeddings
    return made


def _check_needs(cls: type[Method[Any]], backbone: Backbone) -> None:
    """`UserError` where the backbone lacks something the method is built on."""
    for need in cls.needs:
        if not getattr(backbone, need):
            raise UserError(
                f"Method {cls.name!r} needs {CAPABILITIES[need]}, which backbone {backbone.id!r} does not have; "
                "use another method or a CLIP backbone."
            )


def check_template(template: str) -> None:
    """`UserError` unless the template is a printable line with exactly one place for the class name."""
    if not template.isprintable() or len(template) > LONGEST_TEMPLATE:
        shown = template[:40] + ("..." if len(template) > 40 else "")
        raise UserError(f"Template {shown!r} must be one printable line of at most {LONGEST_TEMPLATE} characters.")
    if template.count("{}") != 1 or template.replace("{}", "").count("{") or template.replace("{}", "").count("}"):
        raise UserError(
            f"Template {template!r} needs exactly one '{{}}' for the class name, like 'a photo of a {{}}.'."
        )
