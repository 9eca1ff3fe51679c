"""Reference files that are kept beside the repository, in `../shared`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared"
REQUIRE = "ANPROMPT_REQUIRE_SHARED"


def shared(path: str) -> Path:
    """`../shared/<path>`; where it is absent the calling test is skipped.

    With `ANPROMPT_REQUIRE_SHARED=1` it fails instead: a parity check that silently did not run is no
    parity check.
    """
    found = FOLDER / path
    if found.exists():
        return found
    reason = f"needs ../shared/{path}"
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{reason}, and {REQUIRE}=1 forbids to skip it", pytrace=False)
    pytest.skip(reason)
