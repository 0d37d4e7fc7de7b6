"""A run of the ViViT demo that is as small as programs about interruptions need."""

from typing import Any

OVERRIDES: dict[str, Any] = {
  'datasets.demo.temporal_views': 2,
  'datasets.demo.clip.frames': 4,
  'trunk.hidden_size': 16,
  'trunk.num_layers': 1,
  'trunk.temporal_num_layers': 1,
  'trunk.num_heads': 2,
  'trunk.mlp_dim': 16,
  'trunk.tubelet': (2, 8, 8),
  'batch_size': 8,
  'optimizer.warmup': '2 steps',
  'evaluation.pictures': False,
}
"""Key of the config -> value."""
