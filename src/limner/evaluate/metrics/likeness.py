"""Likeness: would one recognize the true image in the sample?

The cosine of a sample's features with those of its own truth, placed between chance (the mean cosine of another true
image with that truth: 0) and the truth itself (1). Edge measures see only where lines are, and a distance between sets
only what images look like as a whole; a sample has to be right in both to be like its truth, so blur, confetti within
the right outline and another concept's image all lose.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def likeness(made_NKD: Tensor, truth_ND: Tensor) -> Tensor:
    """Place each sample between chance (0) and its truth (1), (N, K); below 0: less like it than chance is.

    Args:
        made_NKD, truth_ND: features of K samples each of N truths, N at least 2; only their directions count.
    """
    made_NKD, truth_ND = F.normalize(made_NKD, dim=-1), F.normalize(truth_ND, dim=-1)
    cosine_NN = truth_ND @ truth_ND.T
    chance_N1 = ((cosine_NN.sum(1) - cosine_NN.diagonal()) / (len(truth_ND) - 1)).unsqueeze(1)
    return ((made_NKD * truth_ND.unsqueeze(1)).sum(-1) - chance_N1) / (1 - chance_N1).clamp(min=1e-6)
