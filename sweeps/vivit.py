"""ViViT's Tables 1 to 3 on the demo's motions and scenes: `make ablations-vivit`.

Every model starts from an image ViT that the sweep trains on stills first, as the paper's start from
ImageNet-21k. As there, tubelets of Table 1 have 4 frames, so that as many tokens are made of them as of
the frames that are sampled, and those of Tables 2 and 3 have 2.
"""

from configs.vivit import demo_ablations
from datasets import demo, demo_scenes
from train_lib import cost

DATA = demo_ablations.DATA
METRICS = {
  'motions': 'top1/motions',
  'scenes': 'top1/scenes',
  'GFLOPs': 'cost/gflops',
  'parameters (M)': 'cost/parameters_millions',
}

INPUTS = 'Table 1: input encoding'
MODELS = 'Table 2: model architectures'
LAYERS = 'Table 3: temporal transformer layers'

CLAIMS = [
  ('central frame', 'uniform frame sampling', 'motions'),
  ('central frame', 'filter inflation', 'motions'),
  ('central frame', 'random initialisation', 'motions'),
  ('central frame', 'uniform frame sampling', 'scenes'),
  ('central frame', 'filter inflation', 'scenes'),
  ('central frame', 'random initialisation', 'scenes'),
  ('Model 1', 'Model 2, Lt=2', 'motions', MODELS),
  ('Model 2, Lt=2', 'Model 1', 'scenes', MODELS),
  ('Model 2, Lt=2', 'Model 3', 'scenes', MODELS),
  ('Model 2, Lt=2', 'Model 4', 'scenes', MODELS),
  ('Model 2, Lt=2', 'average pool, Lt=0', 'motions', MODELS),
  ('Model 2, Lt=2', 'average pool, Lt=0', 'scenes', MODELS),
  ('Model 2, Lt=1', 'average pool, Lt=0', 'scenes', LAYERS),
  ('Model 2, Lt=4', 'Model 2, Lt=1', 'scenes', LAYERS),
]

SEEDS = (1, 2, 3)  # Seed 0 is for choosing sizes and epochs.

_CONFIG = 'configs/vivit/demo_ablations.py'
_TUBELET = (4, 8, 8)


def prepare(folder):
  """Makes the stills, motions and scenes."""
  demo_scenes.write_stills(folder / 'stills')
  demo.write(folder / 'motions', train=1280, test=320)
  demo_scenes.write_scenes(folder / 'scenes', train=320, test=320)


def extra_metrics(workdir):
  """GFLOPs and parameters."""
  return cost.metrics_of_run(workdir)


def sweep(add):
  """The rows of the three tables."""
  stills = add(
    {'datasets.stills.dir': str(add.data / 'stills')},
    name='image ViT',
    config=f'{_CONFIG}:data=stills',
    seeds=SEEDS,
    shown=False,
  )
  folders = {f'datasets.{name}.dir': str(add.data / name) for name in ('motions', 'scenes')}

  def row(name, group, attention, changes):
    config = f'{_CONFIG}:attention={attention}'
    add(
      {**folders, **changes}, name=name, group=group, config=config, seeds=SEEDS, init_from=stills
    )

  for name, changes in inputs().items():
    row(name, INPUTS, 'spacetime', changes)
  row('Model 1', MODELS, 'spacetime', {})
  for layers in (0, 1, 2, 4):
    name = f'Model 2, Lt={layers}' if layers else 'average pool, Lt=0'
    group = (MODELS, LAYERS) if layers in (0, 2) else LAYERS
    row(name, group, 'factorised_encoder', {'trunk.temporal_num_layers': layers})
  row('Model 3', MODELS, 'factorised_self_attention', {})
  row('Model 4', MODELS, 'factorised_dot_product', {})


def inputs():
  """Row of Table 1 -> changes of Model 1."""
  sampled = {
    'trunk.tokeniser': 'uniform_frames',
    'trunk.num_sampled_frames': demo_ablations.FRAMES // _TUBELET[0],
    'trunk.tubelet': (1, 8, 8),
  }
  inflations = {
    'random initialisation': 'none',
    'filter inflation': 'average',
    'central frame': 'central_frame',
  }
  tubelets = {
    name: {'trunk.tubelet': _TUBELET, 'init_from.kernel_inflation': inflation}
    for name, inflation in inflations.items()
  }
  return {'uniform frame sampling': sampled, **tubelets}
