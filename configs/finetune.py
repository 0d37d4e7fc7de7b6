"""Your own videos, from the weights of a model that is trained already.

  python -m tools.build_records --video_root=videos --out=data/own --holdout=0.2
  python main.py --config=configs/finetune.py:from=runs/k400 --workdir=runs/own \
      --config.datasets.own.dir=data/own
  python -m tools.predict --checkpoint=runs/own --video=new.mp4

`from=` names the folder of a run, or what `tools.checkpoint --out` or `tools.export` made of one, and
takes trunk, pixels, clips and head from its config, so that nothing has to be typed again. Other
weights need the trunk that they are for: `configs/finetune.py:trunk=vivit` and
`--config.init_from.path=ViT-B_16.npz`.
`mode=head` trains the head alone. docs/own_data.md shows all of it.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common
from configs.multitrain import trunks as multitrain
from configs.stored import stored_config
from configs.tubevit import trunks as tubevit
from configs.uniformerv2 import trunks as uniformerv2
from configs.vivit import common as vivit

_GREY_PIXELS = {'mean': (0.45, 0.45, 0.45), 'std': (0.225, 0.225, 0.225)}
# Steps of Adam for a batch of 256; others in proportion, as in MAE and BEiT.
_LEARNING_RATES = {'full': 1e-3, 'head': 1e-2}
_DROP_PATH = 0.1

# What `from=` says already.
_OF_A_MODEL = ('trunk', 'size', 'attention', 'frames', 'crop')
# trunk -> size if none is given, and frames of a clip.
_DEFAULTS = {
  'vivit': ('B', 16),
  'cofinetune': ('B', 32),
  'mvitv2': ('16x4', 0),  # The size says how many.
  'tubevit': ('B', 32),
  'uniformerv2': ('B/16', 8),
}


def get_config(arg: str = '') -> ConfigDict:
  """The experiment.

  Args:
    arg: `from=RUN`, or `trunk=vivit|cofinetune|mvitv2|tubevit|uniformerv2` with `size=` (ViT sizes `Ti`
      to `H`; `B/16`, `L/14`, ... of UniFormerV2; `16x4` or `32x3` of MViTv2), `attention=` (of ViViT),
      `frames=` and `crop=` (px). With either, `mode=full|head` and `batch=`, by which the learning rate
      goes.

  Raises:
    ValueError: An unknown choice, one that the others leave no use for, or `from` is no run.
  """
  names = {'from': '', 'trunk': '', 'size': '', 'attention': '', 'mode': 'full'}
  choice = common.parse_arg(arg, **names, frames=0, crop=0, batch=16)
  if choice['mode'] not in _LEARNING_RATES:
    raise ValueError(f'Unknown mode {choice["mode"]!r}; known: {sorted(_LEARNING_RATES)}.')
  config = ConfigDict()
  config.name = 'finetune'
  config.seed = 0
  config.duration = '20 epochs'
  config.log_every = '1 epoch'
  config.objective = common.weighted_sum_objective()
  config.augment = common.no_augmentation()  # Mixing blurs the few clips of a small set.
  config.evaluation = common.evaluation('5 epochs', batch_size=8)
  config.checkpoint = {'every': '5 epochs', 'keep': 2, 'best_metric': 'top1/label'}
  config.init_from = common.from_scratch()
  if 'from=' in arg.split(','):  # As of an empty variable of a shell.
    raise ValueError('from=: expected a path after it, got nothing.')
  if choice['from']:
    if given := [key for key in _OF_A_MODEL if choice[key]]:
      raise ValueError(
        f'from={choice["from"]} says what the model is: leave out {given}, or set `--config.trunk.KEY` '
        'and `--config.datasets.own.clip.KEY`.'
      )
    _set_from_run(config, choice['from'])
  else:
    _set_model(config, choice)
  _set_training(config, choice['mode'], choice['batch'])
  config.update(common.machinery(loader_threads=4))
  return config


def _set_model(config: ConfigDict, choice: dict[str, Any]) -> None:
  """Trunk, clips, pixels and head of a kind of model."""
  kind = choice['trunk'] or 'vivit'
  if kind not in _DEFAULTS:
    raise ValueError(f'Unknown trunk {kind!r}; known: {sorted(_DEFAULTS)}.')
  if choice['attention'] and kind not in ('vivit', 'cofinetune'):
    raise ValueError(
      f'attention={choice["attention"]} is of ViViT; trunk={kind} has none to choose.'
    )
  size, frames = choice['size'] or _DEFAULTS[kind][0], choice['frames'] or _DEFAULTS[kind][1]
  config.compute_dtype = 'bfloat16'
  config.trunk = _trunk(kind, size, choice['attention'] or 'factorised_encoder')
  config.pixels = _GREY_PIXELS if kind in ('mvitv2', 'uniformerv2') else common.CENTRED_PIXELS
  task = common.linear_task('own')
  stride, crop = 2, choice['crop'] or 224
  changes: dict[str, Any] = {'scale_jitter': (0.9, 1.33), 'flip_prob': 0.5}
  if kind == 'mvitv2':
    own_frames, stride = map(int, size.split('x'))
    frames = frames or own_frames
  if kind == 'uniformerv2':  # Frames from all over the video.
    stride, changes['sampling'] = 1, 'segments'
  if kind == 'cofinetune':
    task.head.pooling = 'mean'
  clip = common.clip(frames, stride, round(crop * 8 / 7), crop, **changes)
  config.datasets = {'own': _dataset(clip)}
  config.tasks = {'label': task}


def _trunk(kind: str, size: str, attention: str) -> ConfigDict:
  if kind == 'mvitv2':
    return multitrain.mvit(size, _DROP_PATH)
  if kind == 'uniformerv2':
    return uniformerv2.uniformerv2(size, stochastic_depth_rate=_DROP_PATH)
  if size not in common.VIT_SIZES:
    raise ValueError(f'Unknown size {size!r}; known: {sorted(common.VIT_SIZES)}.')
  if kind == 'tubevit':
    return tubevit.tubevit(size, stochastic_depth_rate=_DROP_PATH)
  trunk = vivit.trunk(size, attention, stochastic_depth=_DROP_PATH)
  if kind == 'cofinetune':  # Its boxes, and its mean of tokens, see time through them.
    trunk.temporal_context = 'frame'
  return trunk


def _set_from_run(config: ConfigDict, path: str) -> None:
  """Trunk, clips, pixels and head of another run, and its weights to start from."""
  stored = _tuples(stored_config(path))
  tasks, datasets = stored['tasks'], stored['datasets']
  of_clips = [task for task in tasks.values() if not datasets[task['dataset']].get('boxes')]
  task = (of_clips or list(tasks.values()))[0]
  clip = dict(datasets[task['dataset']]['clip'])
  if not of_clips:  # A detector's clips are around its keyframes.
    clip['sampling'] = 'dense'
  config.compute_dtype = stored['compute_dtype']
  config.trunk = stored['trunk']
  config.pixels = stored['pixels']
  config.datasets = {'own': _dataset(ConfigDict(clip))}
  config.tasks = {'label': common.linear_task('own')}
  if of_clips:
    config.tasks.label.head = task['head']
  config.init_from.path = path
  if len(of_clips) == len(tasks) == 1:  # Rows of classes that both have, by name.
    config.init_from.update({'load_head': True, 'unmatched_classes': 'new'})


def _tuples(value: Any) -> Any:
  """JSON's lists as the tuples that they were."""
  if isinstance(value, dict):
    return {key: _tuples(item) for key, item in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _dataset(clip: ConfigDict) -> dict[str, Any]:
  return {
    'dir': 'data/own',
    'benchmark': '',
    'batch_size': 0,
    'weight': 0.0,
    'train_split': 'train',
    'eval_split': 'test',
    'temporal_views': 4,
    'spatial_views': 1,
    'max_bad_records': 10,
    'clip': clip,
  }


def _set_training(config: ConfigDict, mode: str, batch: int) -> None:
  """How much trains, and how fast."""
  config.batch_size = batch
  rate = _LEARNING_RATES[mode] * batch / 256
  if mode == 'full':
    config.augment.color_jitter.prob = 0.8
    config.optimizer = common.adamw(rate, warmup='1 epoch', weight_decay=0.05)
    config.optimizer.layer_decay = 0.75  # The lower a layer, the less a small set may move it.
  else:
    config.optimizer = common.adamw(rate, warmup='1 epoch', weight_decay=0.0)
    config.optimizer.frozen = ('^trunk/',)
    # Of a trunk that does not learn, noise in its features is all they do.
    for key in config.trunk:
      if key.endswith('_rate'):
        config.trunk[key] = 0.0
