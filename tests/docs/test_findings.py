"""The tables of docs/findings.md are those of the records."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tables_follow_from_the_records() -> None:
    command = [sys.executable, "benchmarks/probes.py", "results/probes", "--table"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    page = (ROOT / "docs/findings.md").read_text(encoding="utf-8")
    [kept] = re.findall(r"<!-- PROBES -->\n(.*?)<!-- /PROBES -->", page, re.DOTALL)
    assert kept.strip() == printed.strip()
