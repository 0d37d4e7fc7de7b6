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
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from errors import ConfigError
from tools import command

if TYPE_CHECKING:
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


def main() -> None:
  """Classifies, maps and draws."""
  from datasets.one_video import OneVideo
  from train_lib import explain, trained

  video = OneVideo(_VIDEO.value)
  model = trained.load(_CHECKPOINT.value)
  task = model.task(_TASK.value)
  names = model.class_names[task]
  views = explain.look(model, task, video)
  index = explain.class_index(_CLASS.value, names, views.probabilities)
  best = np.argsort(-views.probabilities, kind='stable')[:_LISTED]
  lines = [f'  {views.probabilities[i]:6.1%}  {names[i]}' for i in best]
  print(f'{video.key(0)}: {task} over {len(views.pixels)} views\n' + '\n'.join(lines), flush=True)
  found = explain.explain(model, task, views, index, _LAYERS.value, _EVERY.value)
  print(
    f'Evidence for {names[index]!r} in clip {found.time + 1} of {len(views.indices)}, frames '
    f'{found.indices[0]} to {found.indices[-1]}, where it has {found.probability:.1%}:'
  )
  for file in _write(found, video.key(0), names[index], float(video.frame_rate[0])):
    print(f'  {file}')


def _write(found: 'Explanation', key: str, name: str, frame_rate: float) -> list[Path]:
  """Writes the strip and the video."""
  from datasets.video_writer import write_mp4
  from train_lib import heat_pictures

  words = re.sub(r'\W+', '_', name).strip('_')
  stem = f'{Path(key).stem}_{words}'
  folder = Path(_OUT.value)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ConfigError(f'--out={folder} cannot be made: {error.strerror}.') from error
  strip, film = folder / f'{stem}.png', folder / f'{stem}.mp4'
  rows = {layer if layer == 'norm' else f'block {layer}': h for layer, h in found.heats.items()}
  subtitle = f'{key}, frames {found.indices[0]} to {found.indices[-1]}; blue: nothing, red: most'
  heat_pictures.heat_strip_png(
    strip, found.frames, rows, f'{name}  {found.probability:.1%}', subtitle
  )
  heated = heat_pictures.overlay(found.frames, list(found.heats.values())[-1])
  pictures = heat_pictures.beside(found.frames, heated)
  write_mp4(film, pictures, playing_rate(found.indices, frame_rate))
  return [strip, film]


if __name__ == '__main__':
  command.run(main)
