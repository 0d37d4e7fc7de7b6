"""Shows where in a video a trained classifier finds the evidence for a class.

  python -m tools.explain --checkpoint=runs/demo --video=clip.mp4
  python -m tools.explain --checkpoint=demo.npz --video=clip.mp4 --class='moves left' --layers=2,4 --out=maps

The checkpoint is a run's folder or a file of `tools.checkpoint --out`, of any trunk; it says how videos
are cut and normalised, and what the classes are called. The video is classified on all the views of an
evaluation. Of its clips in the centre crop, the one that shows the class best is drawn: in red what
speaks for the class, from each chosen block, as a strip (PNG) and over all its frames (mp4).

Blocks are numbered from 1. By default every third is shown, back from the last, as in Figure 4 of
UniFormerV2, and 'norm', which is behind them, where the classifier reads the mean of all tokens. What
a map is, `train_lib.activation_maps` says. The model runs in float32 on whatever device there is.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from errors import ConfigError
from tools import command

if TYPE_CHECKING:
  from datasets.dataset import VideoDataset
  from train_lib.explain import Explanation

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, "A run's folder, or an exported .npz.", required=True, allow_override=True
)
_VIDEO = flags.DEFINE_string('video', None, 'The video.', required=True, allow_override=True)
_TASK = flags.DEFINE_string(
  'task', '', 'The head, if the checkpoint has several.', allow_override=True
)
_CLASS = flags.DEFINE_string(
  'class', 'top1', "A class's name, or top1: the one predicted.", allow_override=True
)
_LAYERS = flags.DEFINE_list(
  'layers', [], "Blocks to show, such as 3,6,norm. Default: every --every'th.", allow_override=True
)
_EVERY = flags.DEFINE_integer('every', 3, 'Distance of the blocks shown.', 1, allow_override=True)
_OUT = flags.DEFINE_string('out', '.', 'Folder for the pictures.', allow_override=True)
_LISTED = 5
_RATES = 4.0, 30.0  # Frames per second between which a clip is played at its own speed.


def playing_rate(indices: np.ndarray, frame_rate: float) -> float:
  """Frames per second to play the frames `indices` of a video at: its own speed, if that is watchable."""
  span = abs(int(indices[-1]) - int(indices[0]))
  own = frame_rate * (len(indices) - 1) / span if span else 0.0
  return float(np.clip(own, *_RATES))


def explain_video(
  checkpoint: str,
  video: str,
  out: str,
  *,
  task: str = '',
  class_name: str = 'top1',
  layers: Sequence[str] = (),
  every: int = 3,
) -> list[Path]:
  """Prints what a checkpoint says of a video, and draws why; see the flags of this command.

  Returns:
    The files written: strip and video.

  Raises:
    CheckpointMismatchError: As `trained.load`.
    DataError: The video cannot be read, or the other not written.
    ConfigError: No such task, class or layer; a task of boxes; a trunk without tokens to map; or `out`
      cannot be made.
  """
  from datasets.one_video import OneVideo
  from train_lib import explain, trained

  read = OneVideo(video)
  model = trained.load(checkpoint)
  task = model.task(task)
  names = model.class_names[task]
  named = explain.class_index(class_name, names)
  views = explain.look(model, task, read)
  index = int(views.probabilities.argmax()) if named is None else named
  best = np.argsort(-views.probabilities, kind='stable')[:_LISTED]
  lines = [f'  {views.probabilities[i]:6.1%}  {names[i]}' for i in best]
  print(f'{read.key(0)}: {task}, {len(views.pixels)} views\n' + '\n'.join(lines), flush=True)
  found = explain.explain(model, task, views, index, layers, every)
  print(
    f'Evidence for {names[index]!r} in clip {found.time + 1} of {len(views.indices)}, frames '
    f'{found.indices[0]} to {found.indices[-1]}, where it has {found.probability:.1%}:'
  )
  return _write(found, read, names[index], Path(out))


def _write(found: 'Explanation', video: 'VideoDataset', name: str, folder: Path) -> list[Path]:
  """Writes the strip and the video."""
  from datasets.video_writer import write_mp4
  from train_lib import heat_pictures

  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ConfigError(f'--out={folder} cannot be made: {error.strerror}.') from error
  key = video.key(0)
  words = re.sub(r'\W+', '_', name).strip('_')
  strip, film = (folder / f'{Path(key).stem}_{words}{suffix}' for suffix in ('.png', '.mp4'))
  rows = {layer if layer == 'norm' else f'block {layer}': h for layer, h in found.heats.items()}
  subtitle = f'{key}, frames {found.indices[0]} to {found.indices[-1]}; blue: nothing, red: most'
  heat_pictures.heat_strip_png(
    strip, found.frames, rows, f'{name}  {found.probability:.1%}', subtitle
  )
  heated = heat_pictures.overlay(found.frames, list(found.heats.values())[-1])
  rate = playing_rate(found.indices, float(video.frame_rate[0]))
  write_mp4(film, heat_pictures.beside(found.frames, heated), rate)
  return [strip, film]


def main() -> None:
  """Explains."""
  files = explain_video(
    _CHECKPOINT.value,
    _VIDEO.value,
    _OUT.value,
    task=_TASK.value,
    class_name=_CLASS.value,
    layers=_LAYERS.value,
    every=_EVERY.value,
  )
  print('\n'.join(f'  {file}' for file in files))


if __name__ == '__main__':
  command.run(main)
