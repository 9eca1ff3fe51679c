"""What an opponent may do: the threat model that stands beside every attacked figure.

    pgd-margin:linf:2/255:100x2      attack, norm, size, steps x restarts

A figure without it says nothing: accuracy left "under attack" is accuracy left under one attack of one strength.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from anprompt.errors import UserError, choices
from anprompt.utils.fractions import fraction

NORMS = ("linf", "l2")
# Attack: (who runs it, what it climbs, what the attacker knows). "library": pyautoattack, the extra 'attack'.
KNOWS_ALL = "weights, prompts, class list and head; sees gradients"
ATTACKS: dict[str, tuple[str, str, str]] = {
    "pgd-ce": ("own", "ce", KNOWS_ALL),
    "pgd-margin": ("own", "margin", KNOWS_ALL),
    "pgd-dlr": ("own", "dlr", KNOWS_ALL),
    "transfer": ("own", "margin", "the public frozen model and the class list; not the prompts"),
    "apgd-ce": ("library", "ce", KNOWS_ALL),
    "apgd-dlr": ("library", "dlr", KNOWS_ALL),
    "apgd-t": ("library", "targeted dlr", KNOWS_ALL),
    "fab-t": ("library", "targeted boundary", KNOWS_ALL),
    "square": ("library", "margin", "class list and the probabilities of every answer; no gradients"),
    "autoattack": ("library", "apgd-ce, apgd-t, fab-t, square in turn", KNOWS_ALL),
}
MOST_TARGETS = 9  # classes that the targeted attacks of AutoAttack's standard version try
QUERIES_A_STEP = 50  # Square's queries for each step of the others: 100 steps are its usual 5,000 queries
MOST_STEPS, MOST_RESTARTS = 10_000, 100


def shown(eps: float) -> str:
    """`2/255` where that is what a size is, else its digits."""
    of_255 = Fraction(eps * 255).limit_denominator(64)
    if of_255.denominator == 1 and math.isclose(float(of_255), eps * 255, rel_tol=1e-9):
        return f"{of_255.numerator}/255"
    return repr(eps)


def check_library() -> None:
    """`UserError` unless the extra is installed."""
    if importlib.util.find_spec("pyautoattack") is None:
        raise UserError("APGD, Square and AutoAttack need the extra 'attack': pip install 'anprompt[attack]'.")


@dataclass(frozen=True)
class ThreatModel:
    """One attack: what it may change, how hard it tries, what it knows.

    Attributes:
        attack: a key of `ATTACKS`.
        norm: "linf" (no channel of a pixel moves by more than eps) or "l2" (the root of the sum of squares over the
            whole image stays within eps).
        eps: size, in units of pixels in [0, 1] at the model's input size.
        steps: gradient steps a restart; Square asks 50 queries for each.
        restarts: tries from different random starts; an image counts as right if it withstands all.
        step_size: of a step, in the unit of eps; 0 means `max(eps / 4, 2.5 eps / steps)`, at most eps.
        seed: of random starts.

    Examples:
        >>> str(ThreatModel("pgd-ce", eps=1 / 255, steps=20))
        'pgd-ce:linf:1/255:20x1'
    """

    attack: str = "pgd-ce"
    norm: str = "linf"
    eps: float = 1 / 255
    steps: int = 100
    restarts: int = 1
    step_size: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.attack not in ATTACKS:
            raise choices("attack", self.attack, ATTACKS)
        if self.norm not in NORMS:
            raise choices("norm", self.norm, NORMS)
        if not 0 < self.eps < math.inf or (self.norm == "linf" and self.eps > 1):
            raise UserError(
                f"The size of an attack must be above 0{' and at most 1' if self.norm == 'linf' else ''} (pixels lie in "
                f"[0, 1]), not {self.eps:g}; usual are 1/255 to 8/255. Without an attack, 'eval' tells the accuracy."
            )
        for key, most in (("steps", MOST_STEPS), ("restarts", MOST_RESTARTS)):
            if not 1 <= getattr(self, key) <= most:
                raise UserError(f"An attack needs 1 to {most:,} {key}, not {getattr(self, key)}.")
        if not 0 <= self.step_size <= max(1.0, self.eps):
            raise UserError(f"step_size must be 0 (by the rule) or positive and at most 1, not {self.step_size:g}.")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"The seed of an attack must be 0 to {2**31 - 1:,}, not {self.seed}.")

    def __str__(self) -> str:
        extra = (f":step={self.step_size!r}" if self.step_size else "") + (f":seed={self.seed}" if self.seed else "")
        return f"{self.attack}:{self.norm}:{shown(self.eps)}:{self.steps}x{self.restarts}{extra}"

    @classmethod
    def parse(cls, text: str) -> ThreatModel:
        """What `str` gives back: `pgd-ce:linf:1/255:100x1`.

        Raises:
            UserError: another form, or a value that can't be.
        """
        words = text.split(":")
        made = re.fullmatch(r"(\d{1,9})x(\d{1,9})", words[3]) if len(words) >= 4 else None
        extra = dict(word.partition("=")[::2] for word in words[4:])
        if made is None or set(extra) - {"step", "seed"} or not extra.get("seed", "0").isdigit():
            raise UserError(
                f"Attack {text[:100]!r} is not ATTACK:NORM:SIZE:STEPSxRESTARTS, like pgd-ce:linf:1/255:100x1."
            )
        size, step = fraction(words[2]), fraction(extra.get("step", "0"))
        return cls(words[0], words[1], size, int(made[1]), int(made[2]), step, int(extra.get("seed", "0")))

    @property
    def runner(self) -> str:
        """Who runs it: "own" or "library"."""
        return ATTACKS[self.attack][0]

    @property
    def loss(self) -> str:
        """What it climbs."""
        return ATTACKS[self.attack][1]

    @property
    def knows(self) -> str:
        """What the attacker is given."""
        return ATTACKS[self.attack][2]

    @property
    def size(self) -> str:
        """eps as people write it."""
        return shown(self.eps)

    @property
    def title(self) -> str:
        """As a person reads it: `PGD-100 (CE), 1/255`."""
        names = {"autoattack": "AutoAttack", "square": "Square", "transfer": "transfer from frozen CLIP"}
        name, _, loss = self.attack.partition("-")
        if self.attack in names:
            head = names[self.attack]
        else:
            head = f"{name.upper()}-{self.steps} ({'targeted' if loss == 't' else loss.upper() if loss != 'margin' else loss})"
        return head + (f", {self.restarts} restarts" if self.restarts > 1 else "")

    @property
    def step(self) -> float:
        """The step that is made: `step_size`, or the rule where that is 0."""
        return self.step_size or min(self.eps, max(self.eps / 4, 2.5 * self.eps / self.steps))

    def passes(self, classes: int) -> int:
        """How many forward passes an image that withstands it costs; a pass back to the pixels costs as much as one."""
        targets = min(MOST_TARGETS, max(1, classes - 1))
        steps = self.steps * self.restarts
        of = {"apgd-t": 2 * steps * targets, "fab-t": 4 * steps * targets, "square": QUERIES_A_STEP * steps}
        of["autoattack"] = 2 * steps + sum(of.values())
        return of.get(self.attack, 2 * steps)

    def check_classes(self, count: int) -> None:
        """`UserError` where the attack is not defined for so few classes."""
        if count < 2:
            raise UserError("With one class there is nothing to take it for; an attack needs at least two classes.")
        if self.loss == "dlr" and count < 3:
            raise UserError(
                f"{self.attack} needs three classes (DLR divides by the third); take pgd-margin or apgd-ce."
            )
        if self.attack == "apgd-t" and count < 4:
            raise UserError(f"apgd-t needs four classes, not {count}; take apgd-ce, fab-t or autoattack.")

    def record(self) -> dict[str, Any]:
        """Plain values for a record: all fields, the step that was made, what is climbed and known."""
        return {
            **dataclasses.asdict(self), "step_size": self.step if self.attack.startswith("pgd") or self.attack == "transfer" else None,
            "size": self.size, "loss": self.loss, "knows": self.knows, "pixels": "in [0, 1], at the model's input size",
            "precision": "fp32",
        }  # fmt: skip
