"""Which settings of the UniFormerV2 trunk make one."""

from typing import Any

from errors import ConfigError
from models import layers
from models.attention import KERNELS
from projects.uniformerv2.blocks import BLOCKS
from projects.uniformerv2.global_block import FUSIONS

_CHOICES: dict[str, Any] = {
  'temporal_module': ('none', *BLOCKS, 'transformer'),
  'fusion': FUSIONS,
  'output': ('fused', 'global', 'class'),
  'local_repeats': (1, 2),
  'attention_kernel': KERNELS,
  'gelu': tuple(layers.ACTIVATIONS),
  'remat': tuple(layers.REMAT_POLICIES),
}

_LOCAL = ('local_mhra', 'st_adapter')
# Setting -> the values of `temporal_module` that read it.
_READ_BY_MODULES = {
  'temporal_layers': tuple(BLOCKS),
  'temporal_transformer_layers': ('transformer',),
  'local_repeats': _LOCAL,
  'local_reduction': _LOCAL,
  'local_dpe': ('local_mhra',),
}
_READ_BY_GLOBAL_BLOCKS = (
  'global_num_heads',
  'global_mlp_dim',
  'global_dpe',
  'fusion',
  'num_queries',
  'global_dropout_rate',
  'global_stochastic_depth_rate',
)


def followed(trunk: Any) -> tuple[int, ...]:
  """The numbers of the blocks that a global one follows, ascending."""
  if trunk.global_places is not None:
    return tuple(trunk.global_places)
  return tuple(range(trunk.num_layers - trunk.global_layers, trunk.num_layers))


def check(trunk: Any) -> None:
  """Raises ConfigError for attributes of a trunk that are out of range, contradict, or are not read."""
  layers.check_choices(trunk, _CHOICES)
  layers.check_encoder(trunk)
  _check_sizes(trunk)
  _check_global(trunk)
  _check_read(trunk)
  _check_output(trunk)


def _check_sizes(trunk: Any) -> None:
  for field in ('patch_size', 'num_queries', 'temporal_transformer_layers'):
    if getattr(trunk, field) < 1:
      raise ConfigError(f'trunk.{field}={getattr(trunk, field)}: expected at least 1.')
  for field in ('global_dropout_rate', 'global_stochastic_depth_rate'):
    if not 0.0 <= getattr(trunk, field) < 1.0:
      raise ConfigError(f'trunk.{field}={getattr(trunk, field)}: expected a rate in [0, 1).')
  if not 0 < trunk.local_reduction <= trunk.hidden_size:
    raise ConfigError(
      f'trunk.local_reduction={trunk.local_reduction}: expected a number above 0, and at most '
      f'trunk.hidden_size={trunk.hidden_size}, which it divides.'
    )
  if trunk.temporal_module == 'shift' and trunk.hidden_size < 8:
    raise ConfigError(
      f"trunk.temporal_module='shift' moves eighths of the channels: expected trunk.hidden_size of at "
      f'least 8, got {trunk.hidden_size}.'
    )
  temporal = trunk.temporal_layers
  if temporal is not None and not 1 <= temporal <= trunk.num_layers:
    raise ConfigError(
      f'trunk.temporal_layers={temporal}: expected 1 to trunk.num_layers={trunk.num_layers}, or None '
      'for all.'
    )
  positions = trunk.position_grid
  if positions is not None and (len(positions) != 3 or min(positions) < 1):
    raise ConfigError(f'trunk.position_grid={positions}: expected (nt, nh, nw), each at least 1.')


def _check_global(trunk: Any) -> None:
  blocks, places = range(trunk.num_layers), trunk.global_places
  if not 0 <= trunk.global_layers <= len(blocks):
    raise ConfigError(
      f'trunk.global_layers={trunk.global_layers}: expected 0 to trunk.num_layers={len(blocks)}.'
    )
  if places is not None and list(places) != sorted(set(places) & set(blocks)):
    raise ConfigError(
      f'trunk.global_places={places}: expected the numbers of different blocks, ascending, from 0 to '
      f'{len(blocks) - 1}, or None: the last trunk.global_layers.'
    )
  if places is not None and len(places) != trunk.global_layers:
    raise ConfigError(
      f'trunk.global_places={places} with trunk.global_layers={trunk.global_layers}: expected as many '
      f'blocks; set trunk.global_layers={len(places)}.'
    )
  for field, least in (('global_num_heads', 1), ('global_mlp_dim', 1)):
    value = getattr(trunk, field)
    if value is not None and value < least:
      raise ConfigError(f'trunk.{field}={value}: expected at least {least}, or None: as the ViT.')
  if trunk.hidden_size % (trunk.global_num_heads or 1):
    raise ConfigError(
      f'trunk.global_num_heads={trunk.global_num_heads} does not divide '
      f'trunk.hidden_size={trunk.hidden_size}.'
    )


def _check_read(trunk: Any) -> None:
  """Raises ConfigError for a setting that was changed and that nothing reads."""
  changed = {name for name, field in _fields(trunk) if getattr(trunk, name) != field.default}
  for field, modules in _READ_BY_MODULES.items():
    if field in changed and trunk.temporal_module not in modules:
      raise ConfigError(
        f'trunk.{field}={getattr(trunk, field)!r}: only temporal_module of {modules} reads it, and it is '
        f'{trunk.temporal_module!r}. Leave it at its default or change the module.'
      )
  unread = sorted(changed.intersection(_READ_BY_GLOBAL_BLOCKS))
  if unread and not followed(trunk):
    raise ConfigError(
      f'trunk.{unread[0]}={getattr(trunk, unread[0])!r}: there are no global blocks, '
      f'trunk.global_layers={trunk.global_layers}. Leave it at its default or set global_layers.'
    )


def _fields(trunk: Any) -> Any:
  return trunk.__dataclass_fields__.items()


def _check_output(trunk: Any) -> None:
  if bool(followed(trunk)) == (trunk.output == 'class'):
    raise ConfigError(
      f'trunk.output={trunk.output!r} with trunk.global_layers={trunk.global_layers}: without global '
      "blocks the output is 'class', and with them it is 'fused' or 'global', or they would be idle."
    )
  if trunk.temporal_module == 'transformer' and trunk.output == 'global':
    raise ConfigError(
      "trunk.temporal_module='transformer' is on the class tokens, which trunk.output='global' does "
      "not use: set 'fused', or 'class' with trunk.global_layers=0."
    )
