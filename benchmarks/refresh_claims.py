"""Writes what the records say into the claims, and the README's table: `python benchmarks/refresh_claims.py`.

For every method with finished base-to-new runs on all 11 embedded data sets, its measured entry in
`src/anprompt/claims/METHOD.json` gets the averages over the seeds that every data set has. Reported figures
are never touched. The table between the README's two MEASURED marks shows those entries.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from anprompt.experiments.records import read_records
from anprompt.tables import label
from anprompt.tables.claims import from_records, ledgers

ROOT = Path(__file__).parents[1]
RECORDS = "results/embedded-base-to-new"
WHERE = {"protocol": "base-to-new", "backbone": "embedded", "data": "average of the 11 embedded data sets", "shots": 16}


def whole_seeds(method: str, records: list[dict[str, Any]]) -> list[int]:
    """Seeds for which the method has a run on each of the 11 data sets."""
    runs = {(r["spec"]["dataset"], r["spec"]["seed"]) for r in records if label(r) == method}
    datasets = {dataset for dataset, _ in runs}
    seeds = {seed for _, seed in runs}
    return sorted(s for s in seeds if len(datasets) == 11 and all((d, s) in runs for d in datasets))


def measured_entry(method: str, seeds: list[int], records: list[dict[str, Any]]) -> dict[str, Any]:
    """The entry as the ledger keeps it."""
    listed = ",".join(map(str, seeds))
    hardware = {(r["hardware"]["cores"], r["hardware"]["cpu"]) for r in records if label(r) == method}
    measured = {
        **from_records(ROOT / RECORDS, method, seeds),
        "seeds": seeds,
        "hardware": "; ".join(f"{cores} cores {cpu}, no GPU" for cores, cpu in sorted(hardware)),
        "command": f"anprompt bench base-to-new --data embedded --methods {method} --seeds {listed} --shots 16",
        "records": RECORDS,
    }
    return {**WHERE, "reported": [], "measured": measured}


TITLES = {
    "zeroshot": "zero-shot CLIP", "coop": "CoOp", "cocoop": "CoCoOp", "maple": "MaPLe", "promptsrc": "PromptSRC",
    "mmrlpp": "MMRL++", "mmrl": "MMRL", "anprompt": "ANPrompt",
}  # fmt: skip
MARKED = re.compile(r"(<!-- MEASURED -->\n).*?(<!-- /MEASURED -->)", re.DOTALL)


def measured_here(method: str) -> dict[str, Any]:
    """The measured part of a method's base-to-new entry on the embedded data sets."""
    [entry] = [e for e in ledgers()[method]["entries"] if all(e[key] == value for key, value in WHERE.items())]
    return entry["measured"]


def readme_table() -> str:
    """Base, new and H in percent, one line a method, with a line break at the end."""
    lines = ["| method | base | new | H |", "|---|--:|--:|--:|"]
    for method, title in TITLES.items():
        cells = (f"{measured_here(method)['values'][key]:.2f}" for key in ("base", "new", "H"))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Rewrite the ledgers whose records are whole, and the README's table."""
    records = read_records(ROOT / RECORDS)
    for path in sorted((ROOT / "src/anprompt/claims").glob("*.json")):
        seeds = whole_seeds(path.stem, records)
        if not seeds:
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        kept = [e for e in content["entries"] if any(e[key] != value for key, value in WHERE.items())]
        content["entries"] = [*kept, measured_entry(path.stem, seeds, records)]
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{path.stem}: seeds {seeds}")
    ledgers.cache_clear()
    readme = ROOT / "README.md"
    text = MARKED.sub(lambda mark: mark[1] + readme_table() + mark[2], readme.read_text(encoding="utf-8"))
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
