"""Attention on feature maps (B, C, H, W): gates of channels and places, and queries that sample maps at points.

from toolkit import attention
gate = attention.build("squeeze_excitation", dim=64)
output = gate(x, mask, need=attention.Need())      # mask (B, H, W): True is there
"""

from toolkit.attention.feature_maps.center_surround import center_surround
from toolkit.attention.feature_maps.contract import FeatureAttention, Gates
from toolkit.attention.feature_maps.reader import FeatureReader, Samples, reference_points

__all__ = ["FeatureAttention", "FeatureReader", "Gates", "Samples", "center_surround", "reference_points"]
