"""Heat over the frames of a clip: the strip of an explanation, and the frames of its video."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from train_lib.pictures import save_png, shorten, strip_indices

_INK, _MUTED = '#1f2430', '#6b7280'
_COLORS = 'jet'  # From blue, nothing, to red, as in Figure 4 of UniFormerV2.
_OPACITY = 0.5
_FRAME, _LABEL, _TITLE = 1.25, 1.1, 0.75  # inches of a frame, of the rows' names, of the heading
_GAP = 0.03  # inches between pictures
_LEAST = 224  # px; frames of a video smaller than that are enlarged


def overlay(frames: np.ndarray, heat: np.ndarray) -> np.ndarray:
  """Frames under a colour map of their heat.

  Args:
    frames: uint8 [T, H, W, 3].
    heat: [T, H, W] in [0, 1]: blue where it is 0, red where it is 1.

  Returns:
    uint8 [T, H, W, 3].
  """
  colors = mpl.colormaps[_COLORS](heat)[..., :3] * 255
  blended = (1 - _OPACITY) * frames + _OPACITY * colors
  return np.round(blended).astype(np.uint8)


def beside(frames: np.ndarray, heated: np.ndarray) -> np.ndarray:
  """Frames and heated frames side by side, enlarged by a whole number where they are small.

  Args:
    frames: uint8 [T, H, W, 3].
    heated: the same shape.

  Returns:
    uint8 [T, H', W', 3], H' and W' even.
  """
  both = np.concatenate([frames, heated], axis=2)
  times = max(1, -(-_LEAST // frames.shape[1]))
  both = both.repeat(times, axis=1).repeat(times, axis=2)
  return both[:, : both.shape[1] // 2 * 2, : both.shape[2] // 2 * 2]


def heat_strip_png(
  path: Path, frames: np.ndarray, heats: Mapping[str, np.ndarray], title: str, subtitle: str
) -> None:
  """Draws up to 8 frames of a clip above a row of heated frames for each map; written atomically.

  Args:
    path: the PNG file; its folder exists.
    frames: uint8 [T, H, W, 3].
    heats: name of the row -> [T, H, W] in [0, 1].
    title, subtitle: stand above.
  """
  shown = strip_indices(len(frames))
  rows = {'clip': frames, **{name: overlay(frames, heat) for name, heat in heats.items()}}
  height, width = (side / max(frames.shape[1:3]) * _FRAME for side in frames.shape[1:3])
  size = _LABEL + len(shown) * (width + _GAP), _TITLE + len(rows) * (height + _GAP)
  figure = Figure(figsize=(max(size[0], 5.0), size[1]))
  axes: Any = figure.add_axes((0, 0, 1, 1))
  axes.set_xlim(0, max(size[0], 5.0))
  axes.set_ylim(size[1], 0)  # inches, downwards
  axes.axis('off')
  axes.text(0.05, 0.2, shorten(title, 90), color=_INK, fontsize=12, weight='bold', va='center')
  axes.text(0.05, 0.48, shorten(subtitle, 110), color=_MUTED, fontsize=8.5, va='center')
  for row, (name, pictures) in enumerate(rows.items()):
    top = _TITLE + row * (height + _GAP)
    axes.text(_LABEL - 0.1, top + height / 2, name, color=_INK, fontsize=9, va='center', ha='right')
    for column, number in enumerate(shown):
      left = _LABEL + column * (width + _GAP)
      extent = (left, left + width, top + height, top)
      axes.imshow(pictures[number], extent=extent, aspect='auto', interpolation='antialiased')
  save_png(figure, path)
