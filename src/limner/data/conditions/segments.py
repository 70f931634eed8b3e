"""Segments: each kind of thing in its own colour; from a segmentation network (UperNet, SegFormer, Mask2Former...)."""

from __future__ import annotations

import torch
from torch import Tensor

from limner.data import palettes
from limner.data.conditions import networks


def segments(image_BCHW: Tensor, *, model: str = "openmmlab/upernet-convnext-small") -> Tensor:
    """Pictures in [-1, 1] -> label maps of the same size in the colours of ``palettes.make(number of labels)``.

    Args:
        model: a semantic or universal segmentation network of transformers, by hub name or folder.

    Raises:
        DataError: the network cannot be loaded.

    Source: the default network is Xiao et al., "Unified Perceptual Parsing", 2018, with ConvNeXt, trained on the 150
    kinds of ADE20K.
    """
    network, processor = networks.load("semantic segmentation", model, image_BCHW.device)
    output = networks.look(network, processor, image_BCHW)
    size = tuple(image_BCHW.shape[-2:])
    found = processor.post_process_semantic_segmentation(output, target_sizes=[size] * len(image_BCHW))
    labels_BHW = torch.stack([torch.as_tensor(labels_HW) for labels_HW in found])
    return palettes.to_colour(labels_BHW, palettes.make(network.config.num_labels)).to(image_BCHW)
