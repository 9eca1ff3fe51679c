"""Figures under attack that can't be right, told in words: most published defences fell to such a look.

From Carlini et al., "On evaluating adversarial robustness" (arXiv 1902.06705), and Athalye et al. (arXiv 1802.00420).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from anprompt.attacks.threat import ThreatModel

BLIND = ("square", "transfer")  # attacks without the model's own gradients
TOLERANCE = 0.02  # share of images by which chance may decide
STUCK = 0.05  # share of zero gradients from which an attack is not believed


def doubts(left: Mapping[ThreatModel, float], stuck: Mapping[ThreatModel, float], clean: float) -> list[str]:
    """What speaks against believing a model's figures under several attacks.

    Args:
        left: accuracy left under each attack, 0..1.
        stuck: share of attacked images whose gradient was exactly zero at the start, 0..1.
        clean: accuracy without an attack, 0..1.

    Returns:
        Sentences; none where nothing is odd.

    Examples:
        >>> doubts({ThreatModel("pgd-ce"): 0.7, ThreatModel("square"): 0.3}, {}, 0.8)
        ['Square leaves 30.0 % at 1/255 and the best attack with gradients 70.0 %: gradients are masked.']
    """
    found = []
    for threat, share in stuck.items():
        if share > STUCK:
            found.append(
                f"{threat.title}, {threat.size}: the gradient is exactly zero for {100 * share:.1f} % of the images; what is "
                "left says little. Take pgd-margin or apgd-t."
            )
    for group in _by_size(left):
        seeing = {t: left[t] for t in group if t.attack not in BLIND}
        for blind in (t for t in group if t.attack in BLIND):
            if seeing and left[blind] < min(seeing.values()) - TOLERANCE:
                found.append(
                    f"{blind.title} leaves {100 * left[blind]:.1f} % at {blind.size} and the best attack with gradients "
                    f"{100 * min(seeing.values()):.1f} %: gradients are masked."
                )
    for threat, share in left.items():
        if threat.norm == "linf" and threat.eps >= 0.5 and share > TOLERANCE:
            found.append(
                f"{threat.title} leaves {100 * share:.1f} % at {threat.size}, where every image can be made grey: the attack fails."
            )
        if share > clean + 1e-9:
            found.append(f"{threat.title} leaves more at {threat.size} than there was without an attack.")
    return found + _growing(left)


def _by_size(left: Mapping[ThreatModel, float]) -> list[list[ThreatModel]]:
    """Attacks that may change the same."""
    groups: dict[tuple[str, float], list[ThreatModel]] = {}
    for threat in left:
        groups.setdefault((threat.norm, threat.eps), []).append(threat)
    return list(groups.values())


def _growing(left: Mapping[ThreatModel, float]) -> list[str]:
    """Attacks that leave more where they may change more."""
    series: dict[tuple[str, str, int, int], list[ThreatModel]] = {}
    for threat in left:
        series.setdefault((threat.attack, threat.norm, threat.steps, threat.restarts), []).append(threat)
    found = []
    for group in series.values():
        ordered: Sequence[ThreatModel] = sorted(group, key=lambda threat: threat.eps)
        for smaller, larger in itertools.pairwise(ordered):
            if left[larger] > left[smaller] + TOLERANCE:
                found.append(f"{larger.title} leaves more at {larger.size} than at {smaller.size}: the attack fails.")
    return found
