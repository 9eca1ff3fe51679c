"""From noisy sentences to weak-noise text features and noise prompts (ANPrompt, steps 1 and 2)."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from anprompt.errors import UserError
from anprompt.prompting.prompts import unit


def weak_noise_features(clean: Tensor, noisy: Tensor, amount: float) -> Tensor:
    """Weak-noise text features `w = unit(g + a * h)`.

    Args:
        clean: unit features g of the clean sentences, [C, E].
        noisy: unit features h of the noisy sentences, [..., C, E] (leading dimension: draws).
        amount: a, the share of noise; "weak" means small.
    """
    return unit(clean + amount * noisy)


def noise_prompts(bank: Tensor, count: int, seed: int) -> Tensor:
    """Noise prompts: the K-means centroids of a weak-noise bank.

    Args:
        bank: weak-noise text features of the training classes, [n, E].
        count: number of clusters K.
        seed: of the K-means++ starts.

    Returns:
        [K, E] centroids in fp32, ordered by their first coordinate so that the order has no meaning
        that a library version could change. Where the bank has fewer distinct rows than K, centroids
        repeat.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    rows = bank.detach().reshape(-1, bank.shape[-1]).to("cpu", torch.float32).numpy()
    if not len(rows):
        raise UserError("No weak-noise features to cluster: the class list is empty.")
    if not np.isfinite(rows).all():
        raise UserError("Weak-noise features hold NaN or Inf; the backbone's text encoder is broken.")
    clusters = min(count, len(rows))
    # One thread: several add up their parts in the order they finish, and no two fits would be equal.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than K: centroids repeat
        centres = KMeans(clusters, n_init=10, random_state=seed).fit(rows).cluster_centers_
    centres = centres[np.lexsort(centres.T[::-1])]
    centres = centres[np.arange(count) % clusters]
    return torch.from_numpy(np.ascontiguousarray(centres, dtype=np.float32)).to(bank.device)
