"""Learning rates of a model's parts: decay with the distance from the output, and factors by pattern."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax
import jax
import optax

from errors import ConfigError
from train_lib import frozen
from train_lib.experiment import OptimizerConfig
from train_lib.frozen import matcher
from train_lib.state import PyTree

_TRUNK = 'trunk/'


@dataclasses.dataclass(frozen=True)
class LayerRates:
  """The factor of the learning rate of every parameter.

  With `layer_decay` d and L blocks, the factor at depth k is d^(L + 1 - k): 0 is what makes the tokens,
  k the k-th block, and L + 1 everything after the last block, the heads among it, which have 1
  (BEiT, arXiv:2106.08254, appendix; MAE, arXiv:2111.06377, appendix A.1). The trunk knows its depths.
  Weight decay, being part of the update, has the factor too.

  Attributes:
    config: The optimiser's.
    trunk: A module with a method `depths`, of beginnings of parameters' paths by depth.

  Raises:
    ConfigError: There is a `layer_decay`, but the trunk does not know its depths.
  """

  config: OptimizerConfig
  trunk: Any

  def __post_init__(self) -> None:
    if self.config.layer_decay != 1 and not hasattr(self.trunk, 'depths'):
      raise ConfigError(
        f'`optimizer.layer_decay` is {self.config.layer_decay}, but {type(self.trunk).__name__} has no '
        'method `depths` that tells how deep its parameters are. Add one, or set `layer_decay=1.0` and '
        'name parameters in `optimizer.multipliers`.'
      )

  @property
  def differ(self) -> bool:
    """Whether any factor is not 1."""
    return self.config.layer_decay != 1 or bool(self.config.multipliers)

  def depth(self, path: str) -> int:
    """Depth of a parameter such as `trunk/cls`; 0 where the trunk does not tell."""
    if not hasattr(self.trunk, 'depths'):
      return 0
    depths = self.trunk.depths()
    if path.startswith(_TRUNK):
      inside = f'{path.removeprefix(_TRUNK)}/'
      for depth, beginnings in enumerate(depths):
        if any(inside.startswith(f'{start}/') for start in beginnings):
          return depth
    return len(depths)

  def factor(self, path: str) -> float:
    """Of the learning rate of a parameter such as `trunk/cls`."""
    result = 1.0
    if self.config.layer_decay != 1:
      after = len(self.trunk.depths()) - self.depth(path)
      result = self.config.layer_decay**after
    for pattern, factor in self.config.multipliers:
      if matcher((pattern,), 'optimizer.multipliers')(path):
        result *= factor
    return result

  def scaling(self) -> optax.GradientTransformation:
    """Multiplies updates by the factors; has no state."""

    def init(params: PyTree) -> optax.EmptyState:
      paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
      for pattern, _ in self.config.multipliers:
        if not any(map(matcher((pattern,), 'optimizer.multipliers'), paths)):
          raise ConfigError(
            f'`optimizer.multipliers`: {pattern!r} matches no parameter that trains. There are '
            f'{sorted(paths)[:3]} and {len(paths) - 3} more; without it, `--mode=init` prints them '
            'all. Correct or remove the pattern.'
          )
      return optax.EmptyState()

    def scale(path: Any, update: Any) -> Any:
      factor = self.factor(path_name(path))
      return update if factor == 1 else update * factor

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
      del params
      return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(init, update)


@dataclasses.dataclass(frozen=True)
class Group:
  """The parameters whose learning rate has the same factor.

  Attributes:
    first: Lowest depth.
    last: Highest depth.
    factor: Of the learning rate; 0 where they are frozen.
    sizes: Path -> number of entries.
    decaying: Entries to which weight decay applies.
  """

  first: int
  last: int
  factor: float
  sizes: Mapping[str, int]
  decaying: int


def groups(config: OptimizerConfig, trunk: Any, params: PyTree) -> list[Group]:
  """The parameters by how they train, from the input to the heads.

  Args:
    config: The optimiser's.
    trunk: The model's, see `LayerRates`.
    params: Nested dicts of arrays, or of shapes.
  """
  rates, (trains, _) = LayerRates(config, trunk), frozen.split(params, config.frozen)
  trainable = flax.traverse_util.flatten_dict(trains, sep='/')
  spared = matcher(config.no_decay, 'optimizer.no_decay')
  found: dict[float, Group] = {}
  for path, leaf in flax.traverse_util.flatten_dict(params, sep='/').items():
    depth, size = rates.depth(path), math.prod(leaf.shape)
    factor = rates.factor(path) if path in trainable else 0.0
    decaying = size if config.weight_decay and factor and not spared(path) else 0
    one = Group(depth, depth, factor, {path: size}, decaying)
    found[factor] = _joined(found[factor], one) if factor in found else one
  return sorted(found.values(), key=lambda group: (group.first, group.last))


def _joined(a: Group, b: Group) -> Group:
  return Group(
    min(a.first, b.first),
    max(a.last, b.last),
    a.factor,
    {**a.sizes, **b.sizes},
    a.decaying + b.decaying,
  )


def path_name(path: Any) -> str:
  """`trunk/cls` of a key path; what boxes a leaf has no name."""
  keys = [k for k in path if isinstance(k, jax.tree_util.DictKey)]
  return jax.tree_util.keystr(tuple(keys), simple=True, separator='/')
