"""Says what a trained model sees in videos: on the terminal, as JSON, and written on the videos.

  python -m tools.predict --checkpoint=runs/demo clip.mp4 folder
  python -m tools.predict --checkpoint=demo.npz --video=clip.mp4 --json --out=labelled
  python -m tools.predict --checkpoint=runs/demo --video=long.mp4 --timeline --hop=1 --out=labelled
  python -m tools.predict --checkpoint=runs/demo --video=0             # webcam; or rtsp://..., http://...
  python -m tools.predict --checkpoint=runs/ava --video=clip.mp4 --boxes=detections.csv --out=labelled

The checkpoint is a run's folder or a file of `tools.checkpoint --out`; it says how videos are cut and
normalised, in which precision the model runs, and what the classes are called. Probabilities are those
of an evaluation with the same number of videos in a batch, bit for bit: of as many as there are, up to
the checkpoint's own number, or of --batch_size. A video that cannot be read does not stop the others;
the end lists such videos and has exit code 1.

--json prints an object for each video in a line, with `video` and `tasks`, and nothing else. --out
writes NAME.mp4 with the classes on it and NAME.json with all classes' probabilities and logits.
--timeline slides a window over each video. A stream is watched by the newest window there is, frames
that come faster are dropped; Ctrl-C or --seconds ends it. A checkpoint that classifies boxes needs
--boxes: rows `video_id,timestamp,x1,y1,x2,y2[,score]` as AVA's detectors write them, seconds and
fractions of the frame, or AVA's annotations; any person detector can make them. --out then gets
NAME.TASK.csv, detections that AVA's evaluation reads.
"""

import contextlib
import dataclasses
import io
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from absl import flags

from errors import ConfigError, DataError
from tools import command
from tools.failures import Failures
from tools.out_folder import check_apart, check_out

if TYPE_CHECKING:
  from datasets.video import VideoInfo
  from train_lib.predict import Predictor

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, "A run's folder, or an exported .npz.", required=True, allow_override=True
)
_VIDEO = flags.DEFINE_list(
  'video', [], 'Videos, folders of them, or one webcam number or address.', allow_override=True
)
_VIEWS = flags.DEFINE_string(
  'views',
  '',
  "Clips x crops of a video, such as 4x3. Default: the checkpoint's.",
  allow_override=True,
)
_TASK = flags.DEFINE_string('task', '', 'The head. Default: all.', allow_override=True)
_TOP = flags.DEFINE_integer('top', 5, 'Classes to list.', allow_override=True)
_JSON = flags.DEFINE_bool('json', False, 'Print JSON, a line a video.', allow_override=True)
_OUT = flags.DEFINE_string('out', '', 'Folder to write to.', allow_override=True)
_BATCH = flags.DEFINE_integer(
  'batch_size', 0, "Videos at a time. Default: all, up to the checkpoint's.", 0, allow_override=True
)
_TIMELINE = flags.DEFINE_bool('timeline', False, 'Slide a window.', allow_override=True)
_WINDOW = flags.DEFINE_float(
  'window', 0.0, "Seconds of a window. Default: a clip's.", 0.0, allow_override=True
)
_HOP = flags.DEFINE_float(
  'hop', 0.0, 'Seconds between windows. Default: half a window.', 0.0, allow_override=True
)
_SECONDS = flags.DEFINE_float(
  'seconds', 0.0, 'How long to watch a stream. Default: to its end.', 0.0, allow_override=True
)
_BOXES = flags.DEFINE_string('boxes', '', 'CSV file of boxes.', allow_override=True)
_LABELMAP = flags.DEFINE_string(
  'labelmap',
  '',
  'pbtxt with the numbers of the classes in NAME.TASK.csv. Default: 1, 2, ... in label order.',
  allow_override=True,
)
_THRESHOLD = flags.DEFINE_float(
  'threshold',
  0.5,
  'Probability from which an action of a box is shown.',
  0.0,
  1.0,
  allow_override=True,
)


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of this command, but for the videos."""

  checkpoint: str
  views: str = ''
  task: str = ''
  top: int = 5
  json: bool = False
  out: str = ''
  batch_size: int = 0
  timeline: bool = False
  window: float = 0.0
  hop: float = 0.0
  seconds: float = 0.0
  boxes: str = ''
  labelmap: str = ''
  threshold: float = 0.5


def views_of(text: str) -> tuple[int, int] | None:
  """`'4x3'` -> (4, 3), clips and crops; None for `''`.

  Raises:
    ConfigError: It is none of these.
  """
  if not text:
    return None
  found = re.fullmatch(r'(\d+)x(\d+)', text)
  if not found or '0' in found.groups():
    raise ConfigError(f'--views={text}: expected CLIPSxCROPS, such as 4x3.')
  return int(found[1]), int(found[2])


# What an option is for, if not for all; the others do not use it.
_FOR = {
  'views': ('whole videos',),
  'batch_size': ('whole videos', '--boxes'),
  'timeline': ('--timeline',),
  'window': ('--timeline', 'a stream'),
  'hop': ('--timeline', 'a stream'),
  'seconds': ('a stream',),
  'threshold': ('--boxes',),
  'labelmap': ('--boxes',),
}
_LONGEST = 1e6  # seconds


def check_options(options: Options, live: bool) -> None:
  """Raises ConfigError if options are out of range, or are not for what is asked."""
  if options.top < 1:
    raise ConfigError(f'--top={options.top}: expected at least 1.')
  for name in ('window', 'hop', 'seconds'):
    value = getattr(options, name)
    if not (math.isfinite(value) and 0 <= value <= _LONGEST):
      raise ConfigError(f'--{name}={value}: expected seconds, at most {_LONGEST:,.0f}.')
  asked = 'whole videos'
  if live or options.boxes or options.timeline:
    asked = 'a stream' if live else '--boxes' if options.boxes else '--timeline'
  for name, used in _FOR.items():
    value = getattr(options, name)
    if value != getattr(Options, name) and asked not in used:
      given = f'--{name}' if value is True else f'--{name}={value}'
      raise ConfigError(f'{given} is for {" or ".join(used)}, not for {asked}: leave it out.')


def find_videos(named: Sequence[str]) -> tuple[list[Path], Failures]:
  """The videos named or found in folders, and what is wrong with the other names.

  Raises:
    DataError: There is one name, and it is bad.
  """
  from datasets.video_list import expand

  found: dict[Path, None] = {}
  bad: list[tuple[str, DataError]] = []
  for name in named:
    try:
      found |= dict.fromkeys(expand([name]))
    except DataError as error:
      bad.append((name, error))
  failures = Failures(len(found) + len(bad))
  for name, error in bad:
    with failures.collect(name):
      raise error
  return list(found), failures


def _open(paths: Sequence[Path], failures: Failures) -> 'dict[Path, VideoInfo]':
  from datasets.unlabelled import probe_each

  infos = {}
  for path, info in zip(paths, probe_each(paths)):
    with failures.collect(path):
      if isinstance(info, DataError):
        raise info
      infos[path] = info
  return infos


class _Reports:
  """Tells of each video, and writes its files."""

  def __init__(self, options: Options, paths: Sequence[Path]) -> None:
    from train_lib.predicted import unique_names

    self._json, self._folder = options.json, Path(options.out) if options.out else None
    self._names = dict(zip(paths, unique_names(paths)))

  def stem(self, path: Path) -> Path | None:
    """Where a video's files go, without suffix; the folder exists. None: nowhere."""
    if self._folder is None:
      return None
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise ConfigError(f'--out={self._folder} cannot be made: {error.strerror}.') from error
    return self._folder / self._names[path]

  def tell(self, found: Mapping[str, Any], lines: Sequence[str], files: Sequence[Path]) -> None:
    """Prints an object or lines."""
    text = json.dumps(found) if self._json else '\n'.join([*lines, *(f'  {f}' for f in files)])
    print(text, flush=True)


def _classify(
  options: Options,
  predictor: 'Predictor',
  datasets: Mapping[str, Sequence[str]],
  infos: 'Mapping[Path, VideoInfo]',
  failures: Failures,
) -> None:
  """Classifies whole videos."""
  from train_lib import labelled_video, predicted
  from train_lib.files import write_atomically

  reports, paths = _Reports(options, list(infos)), list(infos)
  passes = [predictor.predict(name, paths, list(infos.values())) for name in datasets]
  for path, *results in zip(paths, *passes):
    with failures.collect(path):
      found: dict[str, Any] = {}
      whole: dict[str, Any] = {}
      for (name, wanted), scores in zip(datasets.items(), results):
        if isinstance(scores, DataError):
          raise scores
        found |= predicted.told(predictor, name, wanted, scores, options.top)
        whole |= predicted.every_class(predictor, wanted, scores)
      files, about = [], {'video': str(path), 'tasks': found}
      if stem := reports.stem(path):
        files = [stem.with_name(f'{stem.name}{suffix}') for suffix in ('.mp4', '.json')]
        labelled_video.write(files[0], path, infos[path], predicted.drawn(found))
        write_atomically(files[1], json.dumps({**about, 'all': whole}) + '\n')
      reports.tell(about, predicted.lines_of(str(path), found), files)


def _slide(
  options: Options,
  predictor: 'Predictor',
  datasets: Mapping[str, Sequence[str]],
  infos: 'Mapping[Path, VideoInfo]',
  failures: Failures,
) -> None:
  """Makes timelines."""
  from train_lib import labelled_video, predicted, timeline

  reports, names = _Reports(options, list(infos)), predictor.trained.class_names
  for path, info in infos.items():
    with failures.collect(path):
      over: dict[str, Any] = {}
      files: list[Path] = []
      for dataset, wanted in datasets.items():
        made = timeline.make_timeline(
          predictor, dataset, path, window=options.window, hop=options.hop
        ).of(wanted)
        over |= {t: timeline.rows_of(made, t, names[t], options.top) for t in wanted}
        if stem := reports.stem(path):
          if len(datasets) > 1:
            stem = stem.with_name(f'{stem.name}.{dataset}')
          files += timeline.write(made, stem, names, options.top)
          files.append(stem.with_name(f'{stem.name}.mp4'))
          draw = predicted.drawn_timeline(made, names)
          labelled_video.write(files[-1], path, info, draw)
      lines = [str(path), *predicted.lines_of_timeline(over)]
      reports.tell({'video': str(path), 'timeline': over}, lines, files)


def _classify_boxes(
  options: Options,
  predictor: 'Predictor',
  datasets: Mapping[str, Sequence[str]],
  infos: 'Mapping[Path, VideoInfo]',
  failures: Failures,
) -> None:
  """Classifies the boxes of --boxes."""
  from datasets import ava_csv, boxed_video, label_map
  from train_lib import labelled_video, predicted
  from train_lib.files import write_atomically

  boxes, names = ava_csv.read_boxes(options.boxes), predictor.trained.class_names
  numbers = label_map.read(options.labelmap) if options.labelmap else None
  tasks = [task for own in datasets.values() for task in own]
  ids = {task: predicted.class_numbers(names[task], numbers) for task in tasks}
  reports = _Reports(options, list(infos))
  for path, info in infos.items():
    with failures.collect(path):
      video_id = boxed_video.id_of(path, boxes, options.boxes)
      of_video = boxes[video_id]
      files: list[Path] = []
      about: dict[str, Any] = {'video': str(path), 'keyframes': {}}
      lines = [str(path)]
      for dataset, wanted in datasets.items():
        video = boxed_video.BoxedVideo(path, info, of_video, predictor.labels_of(dataset))
        scores = predicted.box_scores(predictor, dataset, wanted, video)
        found = predicted.told_boxes(scores, names, options.top)
        about['keyframes'][dataset] = found
        given = sum(len(key.boxes) for key in of_video)
        used = sum(len(key['boxes']) for key in found)
        lines.append(f'  {dataset}: {used} of {given} boxes at {len(found)} keyframes')
        lines += predicted.lines_of_boxes(found, options.threshold)
        if stem := reports.stem(path):
          files.append(stem.with_name(f'{stem.name}.{dataset}.mp4'))
          draw = predicted.drawn_boxes(found, options.threshold)
          labelled_video.write(files[-1], path, info, draw)
          for task in wanted:
            files.append(stem.with_name(f'{stem.name}.{task}.csv'))
            write_atomically(files[-1], predicted.box_rows(video_id, scores, task, ids[task]))
      if stem := reports.stem(path):
        files.append(stem.with_name(f'{stem.name}.boxes.json'))
        write_atomically(files[-1], json.dumps(about) + '\n')
      reports.tell(about, lines, files)


def _watch(
  options: Options, predictor: 'Predictor', datasets: Mapping[str, Sequence[str]], source: str
) -> None:
  """Watches a stream until it ends, or somebody ends it."""
  from datasets.camera import open_camera
  from train_lib import predicted
  from train_lib.watch import watch

  if len(datasets) != 1:
    raise ConfigError(f'A stream is watched by one head: name one by --task, of {list(datasets)}.')
  (dataset, wanted), names = next(iter(datasets.items())), predictor.trained.class_names
  camera, rate = open_camera(source)
  glances = watch(
    predictor,
    dataset,
    camera,
    rate,
    window=options.window,
    hop=options.hop,
    seconds=options.seconds,
  )
  with contextlib.suppress(KeyboardInterrupt), contextlib.closing(glances), _named(source):
    for glance in glances:
      best = {t: predicted.top(glance.tasks[t], names[t], options.top) for t in wanted}
      if options.json:
        print(json.dumps({'stream': source, **glance._asdict(), 'tasks': best}), flush=True)
        continue
      said = '; '.join(f'{own[0]["name"]} {own[0]["probability"]:.1%}' for own in best.values())
      print(
        f'{glance.seconds:8.1f} s  {said}  (lag {glance.lag:.2f} s, {glance.behind} frames; '
        f'{glance.dropped} dropped)',
        flush=True,
      )


@contextlib.contextmanager
def _named(source: str) -> Iterator[None]:
  try:
    yield
  except DataError as error:
    raise DataError(f'{source}: {error}') from error


def _wanted(options: Options, predictor: 'Predictor') -> dict[str, list[str]]:
  """Dataset -> tasks to predict: those on boxes if there are boxes, else those on clips.

  Raises:
    ConfigError: The checkpoint has none, or no such task.
  """
  chosen = predictor.datasets_of(options.task)
  on_boxes = {
    name: [task for task in tasks if predictor.experiment.tasks[task].on_boxes]
    for name, tasks in chosen.items()
    if predictor.on_boxes(name)
  }
  on_clips = {name: tasks for name, tasks in chosen.items() if name not in on_boxes}
  if options.boxes and not on_boxes:
    raise ConfigError(
      f'--boxes={options.boxes}: {list(chosen.values())} classify clips, not boxes.'
    )
  if not options.boxes and not on_clips:
    raise ConfigError(
      f'{list(on_boxes.values())} classify boxes: give those of each person by --boxes=FILE.csv, rows '
      '`video_id,timestamp,x1,y1,x2,y2[,score]` in seconds and fractions of the frame. Any person '
      "detector can write them; AVA's own detections and annotations are read as well."
    )
  if on_clips and on_boxes and not options.boxes:
    print(f'{list(on_boxes.values())} are left out: they need --boxes=FILE.csv.', file=sys.stderr)
  return on_boxes if options.boxes else on_clips


def predict(options: Options, named: Sequence[str]) -> None:
  """Predicts and tells; see the flags of this command.

  Args:
    options: the flags.
    named: videos and folders of them, or one webcam or stream.

  Raises:
    TubeletError: One of its kinds; DataError in the end if videos could not be used.
  """
  from datasets.camera import is_live
  from train_lib import trained
  from train_lib.predict import Predictor

  views = views_of(options.views)
  live = [name for name in named if is_live(name)]
  if not all(named) or not named or (live and len(named) > 1):
    raise ConfigError(
      f'Expected videos and folders, or one webcam or stream; got {list(named)}. See --help.'
    )
  if live and (options.out or options.timeline or options.boxes):
    raise ConfigError(f'{live[0]} is a stream: --out, --timeline and --boxes are for files.')
  check_options(options, bool(live))
  if options.out:
    check_out(Path(options.out))
  paths, failures = ([], Failures(1)) if live else find_videos(named)
  if options.out:
    check_apart(Path(options.out), [*map(Path, named), *paths])
  if live or paths:
    loaded = trained.load(options.checkpoint, as_trained=True)
    predictor = Predictor(loaded, views=views, batch_size=options.batch_size)
    wanted = _wanted(options, predictor)
    infos = _open(paths, failures)
    if live:
      _watch(options, predictor, wanted, live[0])
    elif options.boxes:
      _classify_boxes(options, predictor, wanted, infos, failures)
    elif options.timeline:
      _slide(options, predictor, wanted, infos, failures)
    else:
      _classify(options, predictor, wanted, infos, failures)
  failures.check()


def main(*more: str) -> None:
  """Predicts."""
  # A terminal, or a file's name, need not be able to show every letter.
  cast(io.TextIOWrapper, sys.stdout).reconfigure(errors='replace')
  options = Options(
    checkpoint=_CHECKPOINT.value,
    views=_VIEWS.value,
    task=_TASK.value,
    top=_TOP.value,
    json=_JSON.value,
    out=_OUT.value,
    batch_size=_BATCH.value,
    timeline=_TIMELINE.value,
    window=_WINDOW.value,
    hop=_HOP.value,
    seconds=_SECONDS.value,
    boxes=_BOXES.value,
    labelmap=_LABELMAP.value,
    threshold=_THRESHOLD.value,
  )
  predict(options, [*_VIDEO.value, *more])


if __name__ == '__main__':
  command.run(
    main, more=True, interrupted='What was told of is done; the same command begins anew.'
  )
