"""Temperature and "none of these" on an embedded data set: fitted on validation pictures, test pictures read once.

    python benchmarks/calibration.py --data embedded:food

Trains on the base classes. Calibration error on base test pictures and on new ones (among the new classes), and
how well several scores tell base pictures from pictures of the new classes when only base classes are offered.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

import anprompt
from anprompt.data.splits import subset_classes
from anprompt.data.types import Dataset
from anprompt.evaluation.calibration import ece, nll
from anprompt.evaluation.loaders import make_views
from anprompt.methods import Classifier

SCORES = {
    "largest probability": lambda z, scale: z.softmax(dim=1).max(dim=1).values,
    "energy (logsumexp)": lambda z, scale: z.logsumexp(dim=1),
    "largest logit": lambda z, scale: z.max(dim=1).values,
    "softmax of cosines": lambda z, scale: (z / scale).softmax(dim=1).max(dim=1).values,
}


def logits_of(classifier: Classifier, data: Dataset) -> tuple[Tensor, Tensor]:
    """Logits [n, C] of the test pictures, and labels [n]."""
    views = make_views(classifier.method.backbone, data, data.test, probe="eval")
    rows = [classifier.logits(views.eval_batch(index)).cpu() for index in torch.arange(len(views)).split(100)]
    return torch.cat(rows), views.labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="embedded:food")
    parser.add_argument("--method", default="anprompt")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    data = anprompt.open_dataset(args.data)
    base, new = subset_classes(data, "base"), subset_classes(data, "new")
    clf = anprompt.PromptClassifier(
        "embedded", args.method, shots=16, seed=args.seed, subset="base", calibrate="temperature", accept=0.95
    ).fit(data)
    found, method = clf.calibration_, clf.method_
    print(f"{found.pictures} validation pictures: {found}")
    z, labels = logits_of(clf.classifier(), base)
    raw = z * found.temperature
    print(f"base test, {len(labels)} pictures: ECE {ece(raw, labels):.3f} -> {ece(z, labels):.3f}, "
          f"NLL {nll(raw, labels):.3f} -> {nll(z, labels):.3f}")  # fmt: skip
    z_new, labels = logits_of(Classifier(method, new.classnames), new)
    print(f"new test, {len(labels)} pictures: ECE {ece(z_new, labels):.3f}, with the base classes' temperature "
          f"{ece(z_new / found.temperature, labels):.3f}")  # fmt: skip
    among_base, _ = logits_of(clf.classifier(), new)
    truth = np.repeat([1, 0], [len(z), len(among_base)])
    for name, score in SCORES.items():
        values = torch.cat([score(part, method.logit_scale / found.temperature) for part in (z, among_base)])
        print(f"{name}: AUROC {roc_auc_score(truth, values.numpy()):.3f}")
    for name, part in (("base", z), ("new", among_base)):
        passed = part.softmax(dim=1).max(dim=1).values >= found.threshold
        print(f"threshold {found.threshold:.3f} lets through {100 * float(passed.float().mean()):.1f} % of {name}")


if __name__ == "__main__":
    main()
