"""`python -m tests.golden DIR [--splits DIR]`: one line per golden file, exit code 1 on any failure."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.golden.parity import check_folder


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden")
    parser.add_argument("folder", type=Path, help="folder of METHOD_seedS.safetensors beside tiny-clip/")
    parser.add_argument("--splits", type=Path, help="folder of split_zhou_*.json (default: ../reference/splits)")
    args = parser.parse_args()
    try:
        results = check_folder(args.folder)
    except (FileNotFoundError, KeyError, ValueError) as error:
        print(f"tests.golden: {error.args[0]}", file=sys.stderr)
        return 2
    for result in results:
        print(result.line())
    failed = sum(not result.passed for result in results)
    checked = len(results)
    draws = args.folder / "fewshot_draws.json"
    if draws.is_file():
        from tests.golden_fewshot import fewshot_parity

        rows = fewshot_parity(draws, args.splits or args.folder.parent / "reference" / "splits")
        wrong = [f"{name} {key}" for name, key, ok in rows if not ok]
        print(f"{'FAIL' if wrong else 'pass'}  few-shot draws: {len(rows) - len(wrong)} of {len(rows)} hashes equal")
        checked, failed = checked + 1, failed + bool(wrong)
    print(f"{checked - failed} passed, {failed} failed")
    return 1 if failed or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
