"""Writes what the records say into the claims ledger: `python benchmarks/refresh_claims.py`.

For every method with finished base-to-new runs on all 11 embedded data sets, its measured entry in
`src/anprompt/claims/METHOD.json` gets the averages over the seeds that every data set has. Reported figures
are never touched.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anprompt.experiments.records import read_records
from anprompt.tables import label
from anprompt.tables.claims import from_records

ROOT = Path(__file__).parents[1]
RECORDS = "results/embedded-base-to-new"
WHERE = {
    "protocol": "base-to-new",
    "backbone": "embedded",
    "data": "average of the 11 embedded data sets",
    "shots": 16,
}


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


def main() -> None:
    """Rewrite the ledgers whose records are whole."""
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


if __name__ == "__main__":
    main()
