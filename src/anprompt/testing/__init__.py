"""Checks that a method, a backbone or a protocol keeps its contract, for packages that add one.

As scikit-learn's `check_estimator`: one call in the package's own tests.

>>> from anprompt.testing import check_method
>>> check_method("coop", only=["state_holds_no_backbone"])
[Outcome(check='state_holds_no_backbone', status='passed', reason='')]

For one test a check, `method_checks()` gives their names:

    @pytest.mark.parametrize("check", method_checks())
    def test_my_method(check):
        check_method(MyMethod, only=[check])
"""

from __future__ import annotations

from anprompt.testing.backbones import backbone_checks, check_backbone
from anprompt.testing.methods import check_method, method_checks
from anprompt.testing.outcomes import ContractBroken, Outcome
from anprompt.testing.protocols import check_protocol, protocol_checks
from anprompt.testing.toys import tiny_clip_folder, tiny_image_folder

__all__ = [
    "ContractBroken",
    "Outcome",
    "backbone_checks",
    "check_backbone",
    "check_method",
    "check_protocol",
    "method_checks",
    "protocol_checks",
    "tiny_clip_folder",
    "tiny_image_folder",
]
