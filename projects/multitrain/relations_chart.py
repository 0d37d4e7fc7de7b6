"""Heat maps of the weights that project one dataset's classes to another's."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train_lib.pictures import save_png, shorten

_MOST = 12  # rows and columns of a map
_CELL, _LABEL = 0.3, 2.6  # inches of a cell, and beside and below the cells for names
_INK = '#1f2430'


def heat_maps_png(
  path: Path,
  relations: Mapping[tuple[str, str], np.ndarray],
  class_names: Mapping[str, Sequence[str]],
) -> None:
  """Draws a map for each ordered pair of datasets, a row of maps for each source.

  A map has all classes of both, or where they are many those of the largest weights, the largest at the
  top left. Its colours reach to the largest absolute weight in it, red for positive ones.

  Args:
    path: The PNG file; its folder exists. A kill leaves the one before, or the new one.
    relations: (source, target) -> weights [C_source, C_target]; at least one.
    class_names: Name of each of them -> names of its classes.
  """
  sources = list(dict.fromkeys(source for source, _ in relations))
  targets = {s: [target for source, target in relations if source == s] for s in sources}
  columns = max(map(len, targets.values()))
  side = _CELL * min(_MOST, max(max(weights.shape) for weights in relations.values())) + _LABEL
  figure = Figure(figsize=(columns * (side + 0.6), len(sources) * side), layout='constrained')
  panels = figure.subplots(len(sources), columns, squeeze=False)
  for axes in panels.flat:
    axes.set_axis_off()
  for row, source in zip(panels, sources):
    for axes, target in zip(row, targets[source]):
      names = class_names[source], class_names[target]
      _draw(figure, axes, relations[source, target], *names)
      axes.set_title(f'{source} \N{RIGHTWARDS ARROW} {target}', fontsize=11, color=_INK, loc='left')
  save_png(figure, path)


def _draw(
  figure: Figure, axes: Axes, weights: np.ndarray, sources: Sequence[str], targets: Sequence[str]
) -> None:
  rows, columns = shown(weights, _MOST)
  part = weights[np.ix_(rows, columns)]
  limit = float(np.abs(part).max()) or 1.0
  axes.set_axis_on()
  image = axes.imshow(part, cmap='RdBu_r', vmin=-limit, vmax=limit)
  labels = [shorten(targets[i], 26) for i in columns]
  axes.set_xticks(range(len(columns)), labels, rotation=45, ha='right', rotation_mode='anchor')
  axes.set_yticks(range(len(rows)), [shorten(sources[i], 26) for i in rows])
  axes.tick_params(length=0, labelsize=8, colors=_INK)
  for spine in axes.spines.values():
    spine.set_visible(False)
  figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02).ax.tick_params(labelsize=7, length=0)


def shown(weights: np.ndarray, most: int) -> tuple[list[int], list[int]]:
  """Rows and columns of a map: all in order, or of more than `most` those with the largest entries."""
  chosen = []
  for axis in (0, 1):
    largest = weights.max(axis=1 - axis)
    many = len(largest) > most
    chosen.append(np.argsort(-largest, kind='stable')[:most] if many else np.arange(len(largest)))
  return chosen[0].tolist(), chosen[1].tolist()
