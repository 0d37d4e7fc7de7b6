"""What a person reads of a checkpoint."""

import numpy as np

from tools import checkpoint

META = {
  'position': {'step': 1200, 'seed': 0},
  'config': {'name': 'vivit/demo'},
  'class_names': {'motion': ['left', 'right']},
  'metrics': {'top1/motion': 0.5},
  'versions': {'jax': '1.2'},
  'git_revision': 'abc',
}


def test_a_checkpoint_is_described():
  params = {'cls': np.zeros((1, 4), np.float32), 'heads_motion': {'bias': np.zeros(2, np.float32)}}
  assert checkpoint.describe(params, META).splitlines() == [
    'cls                float32  [1, 4]',
    'heads_motion/bias  float32  [2]',
    'parameters    6',
    'config        vivit/demo',
    'classes       motion 2',
    'metrics       top1/motion 0.5',
    'data          step 1200, seed 0',
    'versions      jax 1.2',
    'git revision  abc',
  ]
