"""What the UniFormerV2 experiments share: Table 11 and Appendix A.

A row of the paper's tables is spelt as it reads there, `MODEL[_336][_frozen]_FRAMESxCROPSxCLIPS`:
`b16_8x3x4`, `l14_336_64x3x2`, `l14_336_frozen_32x3x1`. What the paper leaves open, and how it is read
here, is listed in projects/uniformerv2/README.md.

Records need a shorter side of 256 px, and of 384 px for crops of 336.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import common
from configs.uniformerv2 import trunks

PIXELS = {'mean': (0.45, 0.45, 0.45), 'std': (0.225, 0.225, 0.225)}

# Table 11, a column each: batch size in videos, then base and large. Without a learning rate there is
# no such model in the paper.
RECIPES: dict[str, dict[str, Any]] = {
  'k710': {'batch': 512, 'learning_rate': (2e-5, 1e-5), 'warmup': 5, 'epochs': (55, 40)},
  'k400/600/700': {'batch': 256, 'learning_rate': (2e-6, 1.5e-6), 'warmup': 1, 'epochs': (5, 5)},
  'mit': {'batch': 512, 'learning_rate': (2e-5, 1e-5), 'warmup': 5, 'epochs': (24, 18)},
  'anet&hacs': {
    'batch': 64,
    'learning_rate': (None, 5e-6),
    'warmup': 5,
    'epochs': (None, 20),
    'repeats': 2,
    'drop_path': (0.2, 0.4),
  },
  'ssv1/v2': {
    'batch': 128,
    'learning_rate': (4e-5, 2e-5),
    'warmup': 5,
    'epochs': (22, 15),
    'repeats': 2,
    'drop_path': (0.2, 0.4),
  },
}
FROZEN_LEARNING_RATE = 4e-4  # Appendix A, without warm-up.

# What Kinetics-400, -600 and -700 call classes otherwise than Kinetics-710.
SYNONYMS = str(Path(__file__).parents[2] / 'projects' / 'uniformerv2' / 'class_synonyms.csv')
KINETICS = ('kinetics400', 'kinetics600', 'kinetics700')
_EVALUATION_PIXELS = 64 * 96  # of a batch, in frames of 224 x 224: 64 videos of 8 x 3 x 4
_COLUMNS = {
  'kinetics710': 'k710',
  **dict.fromkeys(KINETICS, 'k400/600/700'),
  'moments_in_time': 'mit',
  'activitynet': 'anet&hacs',
  'hacs': 'anet&hacs',
  'ssv1': 'ssv1/v2',
  'ssv2': 'ssv1/v2',
}
_SIZES = {'b16': 'B/16', 'l14': 'L/14', 'l16': 'L/16'}
_ROW = re.compile(
  r'(?P<size>b16|l14|l16)(?P<image>_in2[12]k)?(?P<crop>_336)?(?P<frozen>_frozen)?'
  r'_(?P<frames>\d+)x(?P<crops>[13])x(?P<clips>\d+)'
)


class Row(NamedTuple):
  """A model and its views, as a row of the tables gives them.

  Attributes:
    size: key of `trunks.SIZES`.
    image: 'in21k', augreg's ViT, or 'in22k', BEiT, both from ImageNet; '': CLIP's.
    crop: px.
    frozen: whether the image ViT is kept as it is.
    frames, crops, clips: of evaluation; frames of training too.
  """

  size: str
  image: str
  crop: int
  frozen: bool
  frames: int
  crops: int
  clips: int

  @property
  def large(self) -> bool:
    """Whether Table 11 has another recipe for it."""
    return self.size.startswith('L')

  @property
  def pixels(self) -> float:
    """How many pixels an evaluation sees of a video, in frames of 224 x 224."""
    return self.frames * self.crops * self.clips * (self.crop / 224) ** 2


def row(text: str) -> Row:
  """Reads a row's name.

  Raises:
    ValueError: it is none.
  """
  found = _ROW.fullmatch(text)
  if not found:
    raise ValueError(
      f'Unknown row {text!r}: expected b16, l14 or l16, where it applies _in21k or _in22k, _336 and '
      "_frozen, then _FRAMESxCROPSxCLIPS with 1 or 3 crops, as 'l14_336_frozen_32x3x1'."
    )
  part = found.groupdict()
  return Row(
    _SIZES[part['size']],
    (part['image'] or '').removeprefix('_'),
    336 if part['crop'] else 224,
    bool(part['frozen']),
    *(int(part[name]) for name in ('frames', 'crops', 'clips')),
  )


def experiment(
  name: str, datasets: tuple[str, ...], which: Row, start: str, **trunk: Any
) -> ConfigDict:
  """One run of the paper: a UniFormerV2 trained by a column of Table 11.

  Args:
    name: of the config file.
    datasets: names in `datasets.catalogue` of one column, a head each.
    which: model and views.
    start: 'image': an image model's weights; 'run': those of a run on another dataset, without its
      head; 'k710': those of a run on Kinetics-710, with its head, which is a CLIP.
    **trunk: other values of the trunk's keys.

  Raises:
    ValueError: the column has no such model, another `start`, 'k710' for a row from ImageNet, or an
      unknown key of the trunk.
  """
  if start not in ('image', 'run', 'k710'):
    raise ValueError(f"Unknown start {start!r}: 'image', 'run' or 'k710'.")
  if which.image and start == 'k710':
    raise ValueError(
      f'A row of {which.image} starts from ImageNet, and the run on Kinetics-710 is a CLIP: use '
      'start=image.'
    )
  recipe = _recipe(_COLUMNS[datasets[0]], start, which)
  config = ConfigDict()
  config.name = f'uniformerv2/{name}'
  config.seed = 0
  config.batch_size = recipe['batch'] * recipe.get('repeats', 1)
  config.duration = f'{recipe["epochs"]} epochs'
  config.compute_dtype = 'bfloat16'
  config.trunk = _trunk(datasets[0], which, recipe, trunk)
  config.datasets = {dataset: _dataset(dataset, which, recipe) for dataset in datasets}
  config.tasks = {dataset: _task(dataset) for dataset in datasets}
  config.objective = common.weighted_sum_objective()
  config.pixels = PIXELS
  config.augment = _augment()
  config.optimizer = _optimizer(recipe, which.frozen)
  every = '1 epoch' if start == 'k710' else '5 epochs'
  config.evaluation = common.evaluation(every, batch_size=_evaluation_batch(which))
  # As the test scripts of the released code have it (TEST.ADD_SOFTMAX).
  something = datasets[0] in ('ssv1', 'ssv2')
  config.evaluation.average = 'logits' if something else 'probabilities'
  config.checkpoint = {'every': '1 epoch', 'keep': 2, 'best_metric': f'top1/{datasets[0]}'}
  config.log_every = '100 steps'
  config.init_from = common.from_scratch()
  if start == 'k710':
    config.init_from.update({'load_head': True, 'class_synonyms': SYNONYMS})
  config.update(common.machinery(loader_threads=16))
  return config


def _evaluation_batch(which: Row) -> int:
  """Videos: 64 of 8 x 3 x 4 crops of 224 px, fewer of larger views, in eights."""
  return max(8, min(64, int(_EVALUATION_PIXELS / which.pixels) // 8 * 8))


def _recipe(column: str, start: str, which: Row) -> dict[str, Any]:
  """A column's values for a model's size."""
  if column == 'k400/600/700' and start == 'image':
    column = 'k710'  # "we adopt the same hyperparameters as in K710 pretraining" (Appendix A)
  recipe = dict(RECIPES[column])
  for key in ('learning_rate', 'epochs'):
    recipe[key] = recipe[key][which.large]
  if recipe['learning_rate'] is None:
    raise ValueError(f'Table 11 has no recipe of a base model for {column}: use l14.')
  if which.frozen:
    recipe.update({'learning_rate': FROZEN_LEARNING_RATE, 'warmup': 0})
  return recipe


def _trunk(dataset: str, which: Row, recipe: dict[str, Any], changes: dict[str, Any]) -> ConfigDict:
  """Appendix A: all designs for Something-Something, global blocks alone for what shows scenes."""
  values: dict[str, Any] = dict(trunks.PLAIN_VIT) if which.image else {}
  if which.image == 'in21k':
    values['gelu'] = 'tanh'  # augreg's files are Flax models, whose GELU is the approximation.
  if dataset in ('ssv1', 'ssv2'):
    values.update({'temporal_downsampling': True, 'temporal_module': 'local_mhra'})
    values.update({'local_repeats': 2, 'global_layers': 16 if which.large else 8})
  if which.frozen:
    values['output'] = 'global'
  backbone, branch = recipe.get('drop_path', (0.0, 0.0))
  values.update({'stochastic_depth_rate': backbone, 'global_stochastic_depth_rate': branch})
  values.update(changes)
  if values.get('global_layers') == 0:  # There is nothing to drop.
    values['global_stochastic_depth_rate'] = 0.0
  return trunks.uniformerv2(which.size, **values)


def _dataset(name: str, which: Row, recipe: dict[str, Any]) -> dict[str, Any]:
  # Three crops along the longer side show the whole frame; for one the shorter side is 8/7 of it.
  resize = which.crop if which.crops == 3 else round(which.crop * 256 / 224)
  clip = common.clip(
    which.frames,
    1,
    resize,
    which.crop,
    sampling='segments',
    random_crop='inception',
    crop_aspect=(0.75, 1.33),
    # Six classes of Something-Something say left or right.
    flip_prob=0.0 if name in ('ssv1', 'ssv2') else 0.5,
    repeats=recipe.get('repeats', 1),
  )
  return {
    'dir': f'data/{name}',
    'benchmark': name,
    'batch_size': 0,
    'weight': 0.0,
    'train_split': 'train',
    'eval_split': 'validation',
    'temporal_views': which.clips,
    'spatial_views': which.crops,
    'max_bad_records': 10,
    'clip': clip,
  }


def _task(dataset: str) -> ConfigDict:
  task = common.linear_task(dataset)
  task.head.update({'dropout_rate': 0.5, 'kernel_init': 'normal_0.02'})
  return task


def _augment() -> ConfigDict:
  augment = common.no_augmentation()
  augment.color_jitter.update(
    {'prob': 1.0, 'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.4, 'hue': 0.0}
  )
  augment.rand_augment.update(common.rand_augment_from('rand-m7-n4-mstd0.5-inc1'))
  return augment


def _optimizer(recipe: dict[str, Any], frozen: bool) -> ConfigDict:
  """AdamW; the released code decays position tables and the query, and clips at norm 20."""
  optimizer = common.adamw(recipe['learning_rate'], f'{recipe["warmup"]} epochs', 0.05)
  optimizer.min_learning_rate = 1e-6
  optimizer.max_grad_norm = 20.0
  optimizer.no_decay = ('/bias$', '/scale$', r'(^|/)cls(_\w+)?$', '(^|/)fusion_balance$')
  if frozen:
    optimizer.frozen = trunks.FROZEN
  return optimizer
