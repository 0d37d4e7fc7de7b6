"""PNG pictures: the confusion matrix of an evaluation, contact sheets of clips; and what they share.

matplotlib is used through its objects with the Agg backend: no display, no global state, usable
from any thread.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from errors import DataError


class Clip(NamedTuple):
  """One strip of a contact sheet.

  Attributes:
    frames: [T, H, W, 3] uint8.
    title: what the clip shows: the name of the true class, or of several.
    predictions: (class name, probability in [0, 1]), best first.
    correct: whether the best prediction is right: green, else red.
    key: the clip's id, shown so that it can be found.
    true_names: names of the true classes, whose predictions are marked.
  """

  frames: np.ndarray
  title: str
  predictions: Sequence[tuple[str, float]]
  correct: bool
  key: str = ''
  true_names: Sequence[str] = ()


class Sample(NamedTuple):
  """One strip of a contact sheet of a dataset.

  Attributes:
    frames: [T, H, W, 3] uint8.
    marks: T texts, one to stand below each frame.
    title: what the clip shows.
    lines: what else there is to say, a line each.
  """

  frames: np.ndarray
  marks: Sequence[str]
  title: str
  lines: Sequence[str]


class _Section(NamedTuple):
  """Strips below a heading."""

  title: str
  subtitle: str
  color: str
  clips: Sequence[Clip | Sample]


_DPI = 110
_MAX_LABELLED = 40  # classes; beyond, tick labels would overlap
_MAX_NUMBERED = 12  # classes; beyond, numbers in the cells would
_LISTED = 25  # confusions at the side of a large matrix
_STRIP = 8  # frames per clip
_MARK, _GAP = 0.22, 0.03  # inches below a frame of a sample, and beside it
_INK, _MUTED, _RIGHT, _WRONG = '#1f2430', '#6b7280', '#1a9850', '#d73027'
_BLUES = LinearSegmentedColormap.from_list('blues', ['#ffffff', '#c9dcf0', '#5b9bd0', '#12355f'])


# --- Confusion matrix ---


def confusion_matrix_png(
  path: str | os.PathLike[str], confusion: np.ndarray, class_names: Sequence[str]
) -> None:
  """Draws a confusion matrix, each row divided by its sum, and writes it atomically.

  Up to 40 classes the axes carry their names; beyond, the most frequent confusions are listed at
  the side.

  Args:
    path: the PNG file; its folder exists.
    confusion: [K, K] counts of examples, true class by predicted class.
    class_names: K names.

  Raises:
    DataError: the matrix is not K by K, or has negative counts.
  """
  confusion = np.asarray(confusion)
  classes = len(class_names)
  if confusion.shape != (classes, classes) or classes == 0 or (confusion < 0).any():
    raise DataError(
      f'{path}: expected counts of shape [{classes}, {classes}], one row per class name, '
      f'got shape {list(confusion.shape)} with minimum {confusion.min(initial=0)}'
    )
  totals = confusion.sum(axis=1, keepdims=True)
  rates = confusion / np.maximum(totals, 1)
  if classes <= _MAX_LABELLED:
    figure = _small_matrix(confusion, rates, class_names)
  else:
    figure = _large_matrix(confusion, rates, class_names)
  save_png(figure, Path(path))


def _small_matrix(confusion: np.ndarray, rates: np.ndarray, names: Sequence[str]) -> Figure:
  classes = len(names)
  cell = 0.62 if classes <= _MAX_NUMBERED else 0.3
  labels = [shorten(name, 28) for name in names]
  margin = 0.4 + 0.085 * max(map(len, labels))
  side = max(cell * classes, 2.8)
  figure = Figure(figsize=(margin + side + 1.1, margin + side + 1.0), layout='constrained')
  axes = figure.add_subplot()
  image = _show_matrix(axes, rates, confusion)
  axes.set_xticks(range(classes), labels, rotation=45, ha='right', rotation_mode='anchor')
  axes.set_yticks(range(classes), labels)
  axes.tick_params(length=0, labelsize=9, colors=_INK)
  axes.set_xticks(np.arange(1, classes) - 0.5, minor=True)
  axes.set_yticks(np.arange(1, classes) - 0.5, minor=True)
  axes.grid(which='minor', color='#e5e7eb', linewidth=0.8)
  axes.tick_params(which='minor', length=0)
  if classes <= _MAX_NUMBERED:
    _write_rates(axes, rates, confusion)
  _add_colorbar(figure, axes, image)
  return figure


def _large_matrix(confusion: np.ndarray, rates: np.ndarray, names: Sequence[str]) -> Figure:
  figure = Figure(figsize=(15, 8.4), layout='constrained')
  axes, side = figure.subplots(1, 2, width_ratios=[1.35, 1], gridspec_kw={'wspace': 0.08})
  image = _show_matrix(axes, rates, confusion)
  axes.tick_params(labelsize=9, colors=_MUTED)
  _add_colorbar(figure, axes, image)
  _list_confusions(side, confusion, rates, names)
  return figure


def _show_matrix(axes: Axes, rates: np.ndarray, confusion: np.ndarray) -> Any:
  # Single confusions would not show among hundreds of classes on a linear scale.
  norm = PowerNorm(1.0 if len(rates) <= _MAX_LABELLED else 0.4, vmin=0, vmax=1)
  image = axes.imshow(rates, cmap=_BLUES, norm=norm, interpolation='nearest')
  total = int(confusion.sum())
  right = np.trace(confusion) / max(total, 1)
  axes.set_title(
    f'{total:,} examples, {right:.1%} correct', fontsize=11, color=_INK, loc='left', pad=10
  )
  axes.set_xlabel('predicted class', color=_MUTED)
  axes.set_ylabel('true class', color=_MUTED)
  for spine in axes.spines.values():
    spine.set_color('#d1d5db')
  return image


def _add_colorbar(figure: Figure, axes: Axes, image: Any) -> None:
  bar = figure.colorbar(
    image, ax=axes, fraction=0.04, pad=0.02, shrink=0.6, aspect=24, format='{x:.0%}'
  )
  bar.set_label('share of the true class', color=_MUTED, fontsize=9)
  bar.ax.tick_params(labelsize=8, colors=_MUTED, length=0)
  bar.outline.set_visible(False)  # type: ignore[operator]


def _write_rates(axes: Axes, rates: np.ndarray, confusion: np.ndarray) -> None:
  for row, column in zip(*np.nonzero(confusion)):
    rate = rates[row, column]
    color = 'white' if rate > 0.55 else _INK
    axes.text(column, row, f'{rate:.0%}', ha='center', va='center', fontsize=8, color=color)


def top_confusions(confusion: np.ndarray, limit: int) -> list[tuple[int, int]]:
  """The at most `limit` (true, predicted) pairs of different classes with the largest counts."""
  wrong = np.array(confusion)
  np.fill_diagonal(wrong, 0)
  order = np.argsort(-wrong, axis=None, kind='stable')[:limit]
  pairs = [tuple(int(i) for i in np.unravel_index(flat, wrong.shape)) for flat in order]
  return [(true, predicted) for true, predicted in pairs if wrong[true, predicted] > 0]


def _list_confusions(
  axes: Axes, confusion: np.ndarray, rates: np.ndarray, names: Sequence[str]
) -> None:
  axes.axis('off')
  axes.set_title('Most frequent confusions', fontsize=11, color=_INK, loc='left', pad=10)
  columns = (
    (0.0, 'true', 'left'),
    (0.43, 'predicted', 'left'),
    (0.93, 'n', 'right'),
    (1.06, 'share', 'right'),
  )
  step = 1 / (_LISTED + 1)
  for x, title, align in columns:
    axes.text(x, 1 - step / 2, title, fontsize=9, color=_MUTED, ha=align, va='center')
  for row, (true, predicted) in enumerate(top_confusions(confusion, _LISTED), start=1):
    y = 1 - (row + 0.5) * step
    cells = (
      shorten(names[true], 26),
      shorten(names[predicted], 30),
      f'{int(confusion[true, predicted])}',
      f'{rates[true, predicted]:.0%}',
    )
    axes.axhline(y + step / 2, color='#e5e7eb', linewidth=0.8)
    for (x, _, align), text in zip(columns, cells):
      axes.text(x, y, text, fontsize=9, color=_INK, ha=align, va='center')
  axes.set_xlim(0, 1.06)
  axes.set_ylim(0, 1)


# --- Contact sheet ---


def contact_sheet_png(
  path: str | os.PathLike[str],
  clips: Sequence[Clip],
  titles: tuple[str, str] = ('Wrong', 'Right'),
) -> None:
  """Draws clips as strips of up to 8 frames, wrong ones above right ones, written atomically.

  Args:
    path: the PNG file; its folder exists.
    clips: what to draw.
    titles: above those that are not `correct`, and those that are.

  Raises:
    DataError: frames of another shape or dtype.
  """
  _check_frames(path, clips)
  wrong = [clip for clip in clips if not clip.correct]
  right = [clip for clip in clips if clip.correct]
  sections = [
    _Section(title, f'{len(found)} clip{"s" * (len(found) > 1)}', color, found)
    for title, color, found in zip(titles, (_WRONG, _RIGHT), (wrong, right))
    if found
  ]
  save_png(_draw_sheet(sections, 8.8), Path(path))


def sample_sheet_png(
  path: str | os.PathLike[str], title: str, subtitle: str, samples: Sequence[Sample]
) -> None:
  """Draws samples of a dataset as strips of up to 8 frames below a heading, written atomically.

  Args:
    path: the PNG file; its folder exists.
    title: the heading.
    subtitle: beside it.
    samples: what to draw, one or more.

  Raises:
    DataError: frames of another shape or dtype.
  """
  _check_frames(path, samples)
  save_png(_draw_sheet([_Section(title, subtitle, _INK, samples)], 12.4), Path(path))


def _check_frames(path: str | os.PathLike[str], clips: Sequence[Clip | Sample]) -> None:
  for index, frames in enumerate(clip.frames for clip in clips):
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
      raise DataError(
        f'{path}, clip {index}: expected frames [T, H, W, 3] uint8, '
        f'got {list(frames.shape)} {frames.dtype}'
      )


def _draw_sheet(sections: Sequence[_Section], strip_width: float) -> Figure:
  """One column of rows, in inches from the top, on axes that span the figure."""
  text_width, row_gap, header = 3.3, 0.2, 0.55
  heights = [[_row_height(clip, strip_width) for clip in section.clips] for section in sections]
  total = 0.25 + sum(header + sum(h) + row_gap * len(h) for h in heights)
  longest = max((len(clip.frames) for section in sections for clip in section.clips), default=0)
  column = max(strip_width * min(longest, _STRIP) / _STRIP, 4.0)  # Images' are narrow.
  width = 0.25 + column + 0.25 + text_width
  figure = Figure(figsize=(width, max(total, 0.8)))
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set_xlim(0, width)
  axes.set_ylim(max(total, 0.8), 0)  # inches, downwards
  axes.axis('off')
  if not sections:
    axes.text(0.25, 0.4, 'No clips.', color=_MUTED, fontsize=11, va='center')
  top = 0.1
  for section, section_heights in zip(sections, heights):
    _draw_heading(axes, section, top)
    top += header
    for clip, height in zip(section.clips, section_heights):
      left = 0.25 + column + 0.2
      if isinstance(clip, Sample):
        size = _draw_strip(axes, clip.frames, (0.25, top, strip_width, height - _MARK), _GAP)
        _draw_marks(axes, clip, (0.25, top), size)
        _draw_lines(axes, clip, left, top)
      else:
        size = _draw_strip(axes, clip.frames, (0.25, top, strip_width, height))
        _draw_border(axes, clip, (0.25, top), size, section.color)
        _draw_caption(axes, clip, left, top, section.color)
      top += height + row_gap
  return figure


def _draw_heading(axes: Axes, section: _Section, top: float) -> None:
  title = axes.text(
    0.25, top + 0.3, section.title, color=section.color, fontsize=14, weight='bold', va='center'
  )
  axes.annotate(
    section.subtitle,
    (1, 0.5),
    xycoords=title,
    xytext=(12, -1),
    textcoords='offset points',
    color=_MUTED,
    fontsize=10,
    va='center',
  )


def strip_indices(num_frames: int) -> np.ndarray:
  """Indices of up to 8 frames spread evenly over `num_frames`, first and last included."""
  count = min(num_frames, _STRIP)
  return np.round(np.linspace(0, num_frames - 1, count)).astype(int)


def _row_height(clip: Clip | Sample, strip_width: float) -> float:
  """Inches; at least what the caption needs."""
  height, width = clip.frames.shape[1:3]
  strip = float(np.clip(strip_width / _STRIP * height / width, 0, 1.6))
  return max(strip, 1.1) if isinstance(clip, Clip) else max(strip + _MARK, 1.2)


def _draw_strip(
  axes: Axes, frames: np.ndarray, box: tuple[float, float, float, float], gap: float = 0.0
) -> tuple[float, float]:
  """Frames side by side, as large as the box allows for 8; the width and height of one."""
  left, top, width, height = box
  shape = frames.shape[1:3]
  scale = min(height / shape[0], (width / _STRIP - gap) / shape[1])
  frame_height, frame_width = shape[0] * scale, shape[1] * scale
  for i, frame in enumerate(frames[strip_indices(len(frames))]):
    x = left + i * (frame_width + gap)
    extent = (x, x + frame_width, top + frame_height, top)
    axes.imshow(frame, extent=extent, aspect='auto', interpolation='antialiased')
  return frame_width, frame_height


def _draw_border(
  axes: Axes, clip: Clip, corner: tuple[float, float], size: tuple[float, float], color: str
) -> None:
  width = size[0] * len(strip_indices(len(clip.frames)))
  border = Rectangle(corner, width, size[1], fill=False, edgecolor=color, linewidth=3, zorder=3)
  axes.add_patch(border)


def _draw_marks(
  axes: Axes, sample: Sample, corner: tuple[float, float], size: tuple[float, float]
) -> None:
  """The mark of each frame below it."""
  y = corner[1] + size[1] + 0.6 * _MARK
  for i, chosen in enumerate(strip_indices(len(sample.frames))):
    x = corner[0] + i * (size[0] + _GAP) + size[0] / 2
    axes.text(x, y, sample.marks[chosen], color=_MUTED, fontsize=7.5, ha='center', va='center')


def _draw_lines(axes: Axes, sample: Sample, left: float, top: float) -> None:
  title = shorten(sample.title, 40)
  axes.text(left, top + 0.1, title, color=_INK, fontsize=10, weight='bold', va='center')
  for row, line in enumerate(sample.lines):
    y = top + 0.34 + 0.19 * row
    axes.text(left, y, shorten(line, 54), color=_MUTED, fontsize=8, va='center')


def _draw_caption(axes: Axes, clip: Clip, left: float, top: float, color: str) -> None:
  """The true name, or names, above a bar per prediction."""
  title = shorten(clip.title, 24)
  axes.text(left, top + 0.1, title, color=_INK, fontsize=10, weight='bold', va='center')
  right, key = left + 3.0, shorten(clip.key, 24)
  axes.text(right, top + 0.1, key, color=_MUTED, fontsize=6.5, va='center', ha='right')
  for row, (name, probability) in enumerate(clip.predictions[:4]):
    y = top + 0.34 + 0.21 * row
    is_true = name in clip.true_names
    axes.barh(y, 0.6, height=0.11, left=left, color='#eef0f3')
    axes.barh(y, 0.6 * probability, height=0.11, left=left, color=_RIGHT if is_true else '#9aa3b2')
    text_color = _INK if is_true else _MUTED
    label = f'{probability:4.0%}  {shorten(name, 30)}'
    axes.text(left + 0.68, y, label, color=text_color, fontsize=8.5, va='center')


# --- Shared ---


def shorten(text: str, width: int) -> str:
  """At most `width` characters, the last an ellipsis where it was longer, for matplotlib to draw.

  Dollars are escaped, or matplotlib would take what is between two for a formula.
  """
  short = text if len(text) <= width else text[: width - 1].rstrip() + '…'
  return short.replace('$', r'\$')


def save_png(figure: Figure, path: Path) -> None:
  """Writes the PNG beside its place and renames it, so that a reader never sees half a file."""
  FigureCanvasAgg(figure)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    figure.savefig(
      temporary, format='png', dpi=_DPI, facecolor='white', bbox_inches='tight', pad_inches=0.25
    )
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
