"""The measurements of docs/anomaly.md: methods by shots and seeds, and the parts of apt switched off one by one.

    python recipes/boards/full.py ../shared/real/deep_pcb /tmp/anomaly-data/deep_pcb
    ln -s $PWD/../shared/real/magnetic_tile /tmp/anomaly-data/
    python benchmarks/anomaly.py /tmp/anomaly-data --runs results/anomaly [--part main|ablation] [--data NAME,...]

Records that are there are taken as they are, so an interrupted sweep goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from anprompt.experiments.anomaly import AnomalySpec, plan, run_all
from anprompt.experiments.schema import ExtendedRecord

DATA = {
    "magnetic_tile": 3,
    "embedded:boards": 2,
    "deep_pcb": 4,
}  # windows along the shorter side, fixed before any test
METHODS = ("clip", "patchcore", "apt", "winclip")
SHOTS, SEEDS = (1, 4, 16), (1, 2, 3)
ABLATED_AT = 4
ABLATIONS = {
    "no generated anomalies": {"anomalies": 0}, "no guidance": {"guidance": "off"}, "guidance as a pull": {"guidance": "pull"},
    "no locality": {"locality": 0}, "no bank": {"bank": False}, "last block alone": {"depths": [1.0]},
}  # fmt: skip


def specifications(part: str, names: list[str], root: str, methods: list[str], seeds: list[int]) -> list[AnomalySpec]:
    """The runs of a part."""
    specs: list[AnomalySpec] = []
    for name in names:
        if part == "main":
            specs += plan([name], methods, shots=(0, *SHOTS), seeds=seeds, tiles=DATA[name], root=root)
            continue
        for settings in ABLATIONS.values():
            specs += plan(
                [name],
                ["apt"],
                shots=[ABLATED_AT],
                seeds=seeds,
                tiles=DATA[name],
                root=root,
                overrides={"apt": settings},
            )
        specs += plan([name], ["apt"], shots=[ABLATED_AT], seeds=seeds, tiles=1, root=root)
    return specs


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--runs", default="results/anomaly")
    parser.add_argument("--part", choices=("main", "ablation"), default="main")
    parser.add_argument("--data", default=",".join(DATA))
    parser.add_argument(
        "--looks", type=Path, help="folder that keeps what was seen of test images, for an interrupted sweep"
    )
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--methods", default=",".join(METHODS))
    args = parser.parse_args()
    started = time.monotonic()

    def told(spec: AnomalySpec, record: ExtendedRecord, was_there: bool) -> None:
        figures = record["metrics"]["all"]
        shown = " ".join(
            f"{key} {figures[key]:.1f}" for key in ("image_auroc", "pixel_auroc", "aupro") if key in figures
        )
        took = "was there" if was_there else f"{time.monotonic() - started:.0f} s"
        print(
            spec.dataset,
            spec.method,
            dict(spec.settings),
            f"{spec.shots} shots",
            f"seed {spec.seed}",
            shown,
            f"({took})",
            flush=True,
        )

    for name in args.data.split(","):
        run_all(
            specifications(
                args.part, [name], args.root, args.methods.split(","), list(map(int, args.seeds.split(",")))
            ),
            args.runs,
            looks=args.looks,
            told=told,
        )


if __name__ == "__main__":
    main()
