"""Learning rates of the ViViT demo.

python -m tools.sweep --config=configs/vivit/demo.py --sweep=sweeps/lr.py --out=runs/lr --seeds=2
"""

from train_lib.sweep import product

METRICS = {'top-1': 'top1/motion'}


def sweep(add):
  """Three rates."""
  for changes in product({'optimizer.learning_rate': [5e-4, 2e-3, 8e-3]}):
    add(changes)
