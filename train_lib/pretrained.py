"""Starting weights: fills a model's parameters from a checkpoint and reports on every leaf.

Nothing stays at its initial value and nothing in the file is ignored unless a pattern allows it.
"""

import dataclasses
import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax
import jax
import numpy as np
from jax.experimental import multihost_utils

from errors import CheckpointMismatchError, ConfigError
from models import interpolation
from train_lib import pretrained_fit as fit
from train_lib import weight_files
from train_lib.pretrained_hints import contradictions, heads_note
from train_lib.pretrained_layouts import Source, canonicalise
from train_lib.pretrained_report import LoadReport, Row
from train_lib.pretrained_vit import POSITIONS, UNUSED
from train_lib.state import OBJECTIVE, STATISTICS

POSITION_MODES = ('auto', 'copy', 'tile', 'resize', 'resize_tile')
_KERNEL = 'trunk/embedding/kernel'
# A trunk that makes tokens in several ways names what does so `tube_NAME`; a kernel they share is its own.
_TUBE = re.compile(r'trunk/(?:tube_[^/]+/|shared_)(kernel|bias)')
_TUBE_KERNELS = ('trunk/tube_*/kernel', 'trunk/shared_kernel')
_OBJECTIVE = f'{OBJECTIVE}/*'
# What trunks for video have and image models do not: patterns, and the norm that all image models have.
_VIDEO_ONLY = (
  'trunk/TemporalTransformer/*',
  'trunk/cls_TemporalTransformer',
  'trunk/*_time/*',
  'trunk/*pooling/*',
  'trunk/global_*',
  'trunk/query',
  'trunk/fusion*',
  'trunk/*encoderblock_*/local_*',
  'trunk/*encoderblock_*/temporal_*',
)
_FINAL_NORM = re.compile(r'trunk/(Spatial)?Transformer/encoder_norm/scale')
_HEAD_LEAVES = ('output_projection/*', 'pre_logits/*', 'MAPHead_0/*', 'heads_*')


@dataclasses.dataclass(frozen=True)
class InitFromConfig:
  """What to load and how to fit it; the config's `init_from`.

  Attributes:
    path: checkpoint file, or the folder of another run; docs/pretrained.md lists the layouts.
    kernel_inflation: 2-D to 3-D kernels: 'central_frame' (Eq. 9), 'average' (Eq. 8), 'average_arp',
      or 'none': the kernel stays as initialised (Table 1, random initialisation). A trunk with several
      kernels over pixels, `tube_NAME/kernel`, gets all of them from an image model's one, as
      `pretrained_fit.fit_kernel` says.
    position_embedding: 'copy', 'tile' (repeat in time, sec. 3.4), 'resize', 'resize_tile' (resize
      each frame's table, then repeat it) or 'auto': whichever of these the sizes call for.
    position_resize: one of `interpolation.METHODS`.
    source_grid: (nt, nh, nw) of the checkpoint's tokens, needed if it is not to be guessed: images
      that are not square, or a ViViT table whose length has two readings.
    class_token: 'copy' to Model 1 and to Model 2's spatial encoder, or 'scenic': Model 1 only.
      DEVIATION: Scenic drops it in Model 2 although it restores the position that belongs to it.
    init_temporal_attention: Model 3: fill temporal attention too, not only spatial attention.
    init_temporal_layer_norm: Model 3: fill LayerNorm_time from the block's first LayerNorm.
    load_head: fill the heads: those of another run by task name, the one of any other checkpoint
      into a model that has one. Where the checkpoint knows its class names, their rows by name, and its
      head, if it has one, into every head of the model: `label_map.map_heads`; a head whose kernel `allow_new`
      names stays new where a class has no row. With the heads come the objective's own parameters,
      which belong to them; those that are missing, unused or of another shape are new and skipped
      without permission.
    unmatched_classes: what a class is that `load_head` finds no row for by name: an 'error', or 'new': it
      stays as initialised, beside those that are taken over.
    class_synonyms: csv `name,label` of pairs of names of one class, for `load_head`.
    allow_new: patterns of model paths ('trunk/...') that may stay at their initial values, besides
      those that the pairing of checkpoint and model implies: where the file has nothing for them, or
      another shape, which then goes unused.
    allow_skipped: patterns of canonical checkpoint paths that may go unused, likewise.
  """

  path: str
  kernel_inflation: str = 'central_frame'
  position_embedding: str = 'auto'
  position_resize: str = 'scenic'
  source_grid: tuple[int, ...] | None = None
  class_token: str = 'copy'
  init_temporal_attention: bool = False
  init_temporal_layer_norm: bool = False
  load_head: bool = False
  unmatched_classes: str = 'error'
  class_synonyms: str = ''
  allow_new: tuple[str, ...] = ()
  allow_skipped: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    for field, choices in (
      ('kernel_inflation', (*fit.INFLATION_METHODS, 'none')),
      ('position_embedding', POSITION_MODES),
      ('position_resize', interpolation.METHODS),
      ('class_token', ('copy', 'scenic')),
      ('unmatched_classes', ('error', 'new')),
    ):
      if getattr(self, field) not in choices:
        raise ConfigError(f'init_from.{field}={getattr(self, field)!r}: one of {choices}.')


def load_pretrained(
  params: Mapping[str, Any],
  source: str | Mapping[str, Any],
  *,
  grid: Sequence[int] | None,
  options: InitFromConfig,
  name: str = 'arrays',
) -> tuple[dict[str, Any], LoadReport]:
  """Fills `params` from a checkpoint (ViViT sec. 3.4).

  Args:
    params: {'trunk': ..., 'heads_<task>': ...} of a VideoModel, and `'objective'` if that has any, and
      `'batch_stats'` if the model keeps statistics; arrays or ShapeDtypeStructs, boxed or not.
    source: file, or its arrays as a flat or nested mapping.
    grid: (nt, nh, nw), the trunk's tokens for the input it will train on (`trunk.grid(shape)`); None
      for a trunk without position tables.
    options: how to fit them.
    name: where the arrays are from, for messages; a file has its own name.

  Returns:
    Unboxed nested dict of the same structure, numpy arrays in the leaves' own dtypes where filled,
    the leaves that were passed in elsewhere; and the report.

  Raises:
    CheckpointMismatchError: no such file, unknown layout, leaves that do not fit, or that are
      missing or unused without permission.
    ConfigError: an option cannot apply to these sizes.
  """
  if isinstance(source, str):
    arrays, name = weight_files.read_arrays(source), source
  else:
    arrays = weight_files.flatten(source)
  targets = flax.traverse_util.flatten_dict(flax.core.meta.unbox(dict(params)), sep='/')
  heads, channels = _heads(targets)
  checkpoint = canonicalise(arrays, heads, name)
  plan = _Plan(targets, checkpoint, tuple(grid or ()), options)
  results = plan.fill()
  plan.check()
  rows = tuple(plan.rows) + tuple(plan.skipped())
  filled = flax.traverse_util.unflatten_dict({**targets, **results}, sep='/')
  notes = () if checkpoint.has_heads else heads_note(heads, channels)
  return filled, LoadReport(name, checkpoint.layout, rows, notes)


def _heads(targets: Mapping[str, Any]) -> tuple[int, int]:
  """The number of heads, and the channels of one."""
  for path, leaf in sorted(targets.items()):
    if path.startswith('trunk/') and path.endswith('/query/kernel'):
      return leaf.shape[1], leaf.shape[2]
  raise CheckpointMismatchError(
    "The model has no '.../query/kernel' under 'trunk/': only transformer trunks can be filled; "
    f'found {sorted(targets)[:5]}.'
  )


class _Plan:
  """Which leaf of the checkpoint fills which leaf of the model, and how."""

  def __init__(
    self,
    targets: Mapping[str, Any],
    checkpoint: Source,
    grid: tuple[int, ...],
    options: InitFromConfig,
  ) -> None:
    self.targets = targets
    self.checkpoint = checkpoint
    self.grid = grid
    self.options = options
    self.rows: list[Row] = []
    self.misfits: list[str] = []
    self.unfit: list[str] = []  # Of another shape than a leaf that may stay new.
    self.target_has_class = any(re.fullmatch(r'trunk/cls(_\w+)?', path) for path in targets)
    # Otherwise the model's positions are fixed, or there are none.
    self.has_positions = any(path.endswith('/pos_embedding') for path in targets)
    heads = sorted({path.split('/')[0] for path in targets if path.startswith('heads_')})
    named = any(path.startswith('heads_') for path in checkpoint.arrays)
    if options.load_head and len(heads) != 1 and not named:
      raise ConfigError(
        f'init_from.load_head=True: the model has the heads {heads}, but {checkpoint.name} has one '
        'without a name. Use a model with one head, or load_head=False.'
      )

  def fill(self) -> dict[str, np.ndarray]:
    """Fits every leaf that has a source; notes a row for each leaf and every misfit."""
    results = {}
    for path, leaf in self.targets.items():
      name = self._source_name(path)
      if name not in self.checkpoint.arrays:
        self.rows.append(Row('new', path, '', leaf.shape))
        continue
      array = self.checkpoint.arrays[name]
      status, fitted, how = self._fit(path, leaf, array)
      how = ', '.join(filter(None, [self.checkpoint.notes.get(name), how]))
      if fitted.shape != leaf.shape and matches(path, self.options.allow_new):
        self.rows.append(Row('new', path, '', leaf.shape))
        self.unfit.append(name)
        continue
      self.rows.append(Row(status, path, name, leaf.shape, array.shape, how))
      if fitted.shape != leaf.shape:
        self.misfits.append(_misfit(path, name, leaf.shape, fitted.shape))
      else:
        results[path] = np.asarray(fitted, leaf.dtype)
    return results

  def skipped(self) -> Iterator[Row]:
    """Rows for what the file has and nothing used."""
    used = {row.source for row in self.rows}
    for name, array in self.checkpoint.arrays.items():
      if name not in used:
        yield Row('skipped', '', name, (), array.shape)

  def check(self) -> None:
    """Raises CheckpointMismatchError unless everything fits or is allowed not to."""
    new, skipped = self._allowed()
    missing = [
      f'  - {row.target} {row.target_shape}'
      for row in self.rows
      if row.status == 'new' and not matches(_beside(row.target), new)
    ]
    extra = [
      f'  + {row.source} {row.source_shape}'
      for row in self.skipped()
      if not matches(_beside(row.source).removeprefix('trunk/'), skipped)
    ]
    if missing or extra or self.misfits:
      raise CheckpointMismatchError(
        '\n'.join(
          [
            f'{self.checkpoint.name} (layout: {self.checkpoint.layout}) does not fit the model: '
            f'{len(missing)} model leaves are missing in it (-), {len(extra)} of its leaves are '
            f'not used (+), {len(self.misfits)} have another shape.',
            *contradictions(self.targets, self.checkpoint.arrays),
            *missing,
            *extra,
            *self.misfits,
            "Choose the trunk that the checkpoint was made for, or name what may stay new ('-', and "
            "of another shape) in init_from.allow_new and what may go unused ('+') in "
            'init_from.allow_skipped.',
          ]
        )
      )

  def _allowed(self) -> tuple[list[str], list[str]]:
    """Patterns for new model leaves and unused checkpoint leaves, with the pairing's own."""
    new, skipped = [*self.options.allow_new, _OBJECTIVE], [*self.options.allow_skipped, _OBJECTIVE]
    skipped += [*self.unfit, f'{UNUSED}/*']
    if not self.target_has_class:
      skipped.append('cls')
    if not self.options.load_head:
      new.append('heads_*')
      skipped.extend(_HEAD_LEAVES)
    if not self.checkpoint.is_video:
      if self.options.kernel_inflation == 'none':
        new += [_KERNEL, *_TUBE_KERNELS]
        skipped.append('embedding/kernel')
      if not self.has_positions:
        skipped.append(POSITIONS)
      new += _VIDEO_ONLY
      if not any(_FINAL_NORM.fullmatch(path) for path in self.targets):
        skipped += ['Transformer/encoder_norm/*', 'fc_norm/*']
      if (
        self.target_has_class
        and self.options.class_token == 'scenic'
        and 'trunk/cls' not in self.targets
      ):
        new.append('trunk/cls_SpatialTransformer')
        skipped.append('cls')
    return new, skipped

  def _source_name(self, path: str) -> str:
    """The canonical checkpoint path that fills a model path, whether or not the file has it."""
    scope, _, name = path.partition('/')
    if scope == OBJECTIVE:
      stored = self.checkpoint.arrays.get(path)
      fits = stored is not None and stored.shape == self.targets[path].shape
      return path if fits and self.options.load_head else ''
    if scope == STATISTICS:
      return path if self.options.load_head or name.startswith('trunk/') else ''
    if scope != 'trunk':
      named = any(key.startswith('heads_') for key in self.checkpoint.arrays)
      return (path if named else name) if self.options.load_head else ''
    if self.checkpoint.is_video:
      return name
    tube = _TUBE.fullmatch(path)
    if self.options.kernel_inflation == 'none' and (
      path == _KERNEL or (tube and tube[1] == 'kernel')
    ):
      return ''
    if tube:
      return f'embedding/{tube[1]}'
    if name == 'cls_SpatialTransformer' and self.options.class_token == 'copy':
      return 'cls'
    renames = [
      ('SpatialTransformer/', 'Transformer/'),
      ('LayerNorm_space', 'LayerNorm_0'),
      ('LayerNorm_mlp', 'LayerNorm_1'),
      ('MlpBlock/', 'MlpBlock_0/'),
      ('MultiHeadDotProductAttention_space', 'MultiHeadDotProductAttention_0'),
    ]
    if self.options.init_temporal_attention:
      renames.append(('MultiHeadDotProductAttention_time', 'MultiHeadDotProductAttention_0'))
    if self.options.init_temporal_layer_norm:
      renames.append(('LayerNorm_time', 'LayerNorm_0'))
    for old, replacement in renames:
      name = name.replace(old, replacement)
    return name

  def _fit(self, path: str, leaf: Any, array: np.ndarray) -> tuple[str, np.ndarray, str]:
    """(status, array for the leaf, how)."""
    if isinstance(array, np.ma.MaskedArray):
      return 'loaded', *_beside_new_classes(leaf, array)
    if array.dtype.itemsize == 2:  # Half precision, of CLIP's files.
      array = array.astype(np.float32)
    if path.endswith('/pos_embedding'):
      fitted, how = self._fit_positions(path, leaf, array)
      return 'resized' if how else 'loaded', fitted, how
    if path == _KERNEL and (array.ndim, leaf.ndim) == (4, 5):
      method = self.options.kernel_inflation
      return 'inflated', fit.inflate_kernel(array, leaf.shape[0], method), method
    if not self.checkpoint.is_video and _TUBE.fullmatch(path):
      fitted, how = fit.fit_kernel(array, leaf.shape, self.options.kernel_inflation)
      return 'inflated' if how else 'loaded', fitted, how
    if path == 'trunk/cls' and not self.checkpoint.is_video and not self.has_positions:
      return 'loaded', *self._class_token(array)
    return 'loaded', array, ''

  def _class_token(self, array: np.ndarray) -> tuple[np.ndarray, str]:
    """The image model's class token [1, 1, C] for a model without a table to hold its position."""
    table = self.checkpoint.arrays.get(POSITIONS)
    if table is None or not table[:, 0].any():  # Zeros: its layout has no row for it.
      return array, ''
    return array + table[:, :1], 'with its position'

  def _fit_positions(self, path: str, leaf: Any, array: np.ndarray) -> tuple[np.ndarray, str]:
    """A position table [1, rows, C]: the class row apart, the grid resized and repeated."""
    mode, method = self.options.position_embedding, self.options.position_resize
    if mode == 'copy':
      return array, ''
    target, repeats = self._target_sizes(path)
    # A table of some axes alone, `posembed_time`, has no row for a class token.
    of_tokens = '/posembed_input/' in path
    source_has_class = of_tokens and any(
      re.fullmatch(r'cls(_\w+)?', name) for name in self.checkpoint.arrays
    )
    table = array[0, int(source_has_class) :]  # [rows, C]
    source = self._source_sizes(path, len(table), target)
    how = []
    if source != target:
      if mode == 'tile':
        raise ConfigError(
          f"init_from.position_embedding='tile': {path} needs {target}, the file has {source}; "
          "set 'resize_tile'."
        )
      table = fit.resize_table(table.reshape(*source, -1), target, method)
      how.append(f'{method} {fit.by(source)} to {fit.by(target)}')
    if repeats > 1:
      if mode == 'resize':
        raise ConfigError(
          f"init_from.position_embedding='resize': {path} has {repeats} frames, the file one; set "
          "'tile' or 'resize_tile'."
        )
      how.append(f'tile x{repeats}')
    table = np.tile(table.reshape(-1, table.shape[-1]), (repeats, 1))
    if of_tokens and self.target_has_class:
      row = array[0, :1] if source_has_class else self._own_class_row(leaf)
      table = np.concatenate([row, table])
    return table[None], ', '.join(how)

  def _target_sizes(self, path: str) -> tuple[tuple[int, ...], int]:
    """The axes of the model's table, and how often an image's table is repeated along time."""
    if '/TemporalTransformer/' in path or '/posembed_time/' in path:
      return self.grid[:1], 1
    if '/SpatialTransformer/' in path or '/posembed_space/' in path:
      return self.grid[1:], 1
    return (self.grid, 1) if self.checkpoint.is_video else (self.grid[1:], self.grid[0])

  def _source_sizes(self, path: str, rows: int, target: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of the file's table, from `source_grid`, or guessed."""
    if len(target) == 1:
      return (rows,)
    guesses: set[tuple[int, ...]] = set()
    side = fit.square_side(rows)
    if self.options.source_grid is not None:
      guesses = {tuple(self.options.source_grid)[-len(target) :]}
    elif len(target) == 2 and side:  # images are square, unless `source_grid` says otherwise
      guesses = {(side, side)}
    elif np.prod(target) == rows:
      guesses = {target}
    elif len(target) == 3:
      frames, height, width = target
      if rows % (height * width) == 0:
        guesses.add((rows // (height * width), height, width))
      if rows % frames == 0 and (side := fit.square_side(rows // frames)):
        guesses.add((frames, side, side))
    if len(guesses) != 1 or np.prod(next(iter(guesses))) != rows:
      raise CheckpointMismatchError(
        f'{path}: the file has {rows} positions (readings: {sorted(guesses)}), the model needs '
        f'{target}; set init_from.source_grid to the (nt, nh, nw) of the checkpoint.'
      )
    return guesses.pop()

  def _own_class_row(self, leaf: Any) -> np.ndarray:
    """The model's own initial row, for a checkpoint without a class token; zeros if abstract."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
      return np.zeros((1, leaf.shape[-1]), leaf.dtype)
    return _whole(leaf)[0, :1]


def _beside(path: str) -> str:
  """The path that a statistic would have among the parameters."""
  return path.removeprefix(f'{STATISTICS}/')


def _beside_new_classes(leaf: Any, rows: np.ma.MaskedArray) -> tuple[np.ndarray, str]:
  """A head [..., K] whose masked classes are as initialised; of an abstract leaf they mean nothing."""
  new = np.ma.getmaskarray(rows)
  how = f'{new.reshape(-1, new.shape[-1])[0].sum()} of {new.shape[-1]} classes new'
  if isinstance(leaf, jax.ShapeDtypeStruct) or leaf.shape != rows.shape:
    return rows.data, how
  return np.where(new, _whole(leaf), rows.data), how


def _whole(leaf: Any) -> np.ndarray:
  """All of a leaf, whose parts may be on several hosts."""
  if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
    leaf = multihost_utils.process_allgather(leaf, tiled=True)
  return np.asarray(leaf)


def _misfit(path: str, name: str, expected: tuple[int, ...], got: tuple[int, ...]) -> str:
  line = f'  {path} from {name}: expected shape {expected}, got {got}'
  if '/output_projection/' in path and path.startswith('heads_'):
    line += (
      f'; the model has {expected[-1]} classes, the checkpoint {got[-1]}: set '
      'init_from.load_head=False or the same number of classes'
    )
  return line


def matches(path: str, patterns: Sequence[str]) -> bool:
  """Whether one of `allow_new` or `allow_skipped` names a path."""
  return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
