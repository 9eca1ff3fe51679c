#!/usr/bin/env bash
# The whole recipe, from npm packages to the assets in the package:  ./make.sh WORK [MINUTES] [PROCESSES]
# WORK is a scratch folder (3 GB). An interrupted run continues with what is already there.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mkdir -p "$1" && realpath "$1") minutes=${2:-43} processes=${3:-$(nproc)}
assets=../../src/anprompt/assets
export OMP_NUM_THREADS=1

[ -d "$work/npm/node_modules" ] || { mkdir -p "$work/npm" && cp package.json "$work/npm/" && (cd "$work/npm" && npm install); }
npm="$work/npm/node_modules"
[ -f "$work/drawings.json" ] || python labels.py "$npm" "$work"
for part in 0 1; do until node render.mjs "$npm" "$work" $part 2; do :; done & done; wait
[ -d "$work/tokenizer" ] || python captions.py "$work"
python train_vision.py "$work" "$minutes" "$processes"
python train_joint.py "$work" 3 8 "$processes"
python export.py "$work" $assets/model
python cut.py "$work" "$npm" $assets/pictures
python evaluate.py $assets/model/zero_shot.json
python card.py $assets/model "Vision tower: $minutes minutes; text tower: 3; both: 8."
