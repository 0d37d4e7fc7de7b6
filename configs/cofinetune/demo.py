"""Co-finetuning in small: action classification and long-tailed detection of several actors.

  python -m tools.make_demo_data --kind=actors --out=data/demo_actors
  python main.py --config=configs/cofinetune/demo.py --workdir=runs/cofinetune

`make demo-cofinetune` compares it with transfer learning, whose stages are

  python main.py --config=configs/cofinetune/demo.py:stage=pretrain --workdir=runs/pretrain
  python main.py --config=configs/cofinetune/demo.py:stage=finetune --workdir=runs/finetune \
      --config.init_from.path=runs/pretrain

`:sampling=alternating` (or `uniform`) draws minibatches otherwise, see Table 4 of the paper. `stage` may also be
datasets, `:stage=actions+stars+actors`: `sweeps/cofinetuning.py` trains the rows of Tables 1 to 4, with `stars` and
`comets` of `datasets/demo_relations.py` as further classification datasets.
"""

from ml_collections import ConfigDict

from configs import common
from configs.vivit import common as vivit

EPOCHS = 50
SIDE = 48  # px, 6 x 6 tokens
DATA = 'data/demo_actors'
CLIPS = ('actions', 'stars', 'comets')  # classification datasets


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` may be `stage=...`, `sampling=...` and `epochs=...`.

  Raises:
    ValueError: Another stage.
  """
  choice = common.parse_arg(arg, stage='cofinetune', sampling='weighted', epochs=EPOCHS)
  stage = choice['stage']
  stages = {'cofinetune': ('actions', 'actors'), 'pretrain': ('actions',), 'finetune': ('actors',)}
  datasets, tasks = _datasets(), _tasks()
  names = stages.get(stage, tuple(stage.split('+')))
  if len(set(names)) < len(names) or not set(names) <= set(datasets):
    raise ValueError(
      f'Unknown stage {stage!r}; known: {sorted(stages)}, and names of {sorted(datasets)} joined with +.'
    )
  config = ConfigDict()
  config.name = f'cofinetune/demo_{stage}'
  config.seed = 0
  config.batch_size = 16
  # An epoch is the sum of the datasets: the stages of transfer learning together take as many steps.
  config.duration = f'{choice["epochs"]} epochs'
  config.log_every = '50 steps'
  config.compute_dtype = 'float32'
  config.trunk = vivit.trunk('Ti', 'factorised_encoder', 2)
  config.trunk.update(
    {'hidden_size': 64, 'num_layers': 3, 'num_heads': 4, 'mlp_dim': 128, 'tubelet': (4, 8, 8)}
  )
  config.trunk.temporal_context = 'frame'
  config.datasets = {name: datasets[name] for name in names}
  config.tasks = {name: tasks[name] for name in names}
  config.objective = common.weighted_sum_objective()
  config.pixels = common.CENTRED_PIXELS
  config.augment = common.no_augmentation()
  config.optimizer = common.adamw(2e-3, warmup='50 steps', weight_decay=0.05)
  config.evaluation = common.evaluation('never', batch_size=16)
  config.checkpoint = {'every': '500 steps', 'keep': 1, 'best_metric': ''}
  config.init_from = common.from_scratch()
  config.update(common.machinery(loader_threads=2))
  config.mixture.sampling = choice['sampling']
  return config


def _datasets() -> dict[str, dict]:
  # No flips: one would turn "moves left" into "moves right".
  shared = {
    'benchmark': '',
    'batch_size': 0,
    'weight': 0.0,
    'train_split': 'train',
    'eval_split': 'test',
    'temporal_views': 1,
    'spatial_views': 1,
    'max_bad_records': 0,
  }
  clip = common.clip(8, 3, SIDE, SIDE, fit='pad', scale_jitter=(0.9, 1.1))
  return {
    **{name: {**shared, 'dir': f'{DATA}/{name}', 'clip': clip} for name in CLIPS},
    'actors': {
      **shared,
      'dir': f'{DATA}/actors',
      'clip': common.clip(
        8, 3, SIDE, SIDE, sampling='keyframe', fit='pad', scale_jitter=(0.9, 1.1), short_clip='hold'
      ),
      'boxes': common.boxes(16, jitter=0.1),
    },
  }


def _tasks() -> dict[str, ConfigDict]:
  clips = {name: common.linear_task(name, 'action') for name in CLIPS}
  for task in clips.values():
    task.head.pooling = 'mean'
  actors = common.detection_task('actors', 'action', class_groups=f'{DATA}/actors/class_groups.csv')
  # An actor is about two tokens wide.
  actors.head.update({'output_size': (3, 3), 'sampling_ratio': 2, 'pool': 'mean'})
  return {**clips, 'actors': actors}
