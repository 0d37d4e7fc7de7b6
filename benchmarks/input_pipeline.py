"""Measures the reader: what a clip costs beside the bare decoding of its JPEGs, and how it scales.

  python -m benchmarks.input_pipeline
  python -m benchmarks.input_pipeline --videos=DIR --qualities=4,31
  python -m benchmarks.input_pipeline --soak=5000

The records are made first, by the converter of `tools.build_records`, from the videos of a folder or
from made ones. A clip is 32 frames at stride 2, cropped to 224 px. Everything in the first table runs
on one core and is given in CPU time of all threads, in turn in each round, each beside a raw decode
of its own: libjpeg-turbo (simplejpeg, the reader's options) on the same frames' bytes in memory, into
one buffer. The ratio is that to this raw decode; the median over rounds counts, with the extremes.
Linux only: cores and memory are asked of /proc and the scheduler.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from absl import flags
from rich.console import Console
from rich.progress import Progress

from benchmarks import clip_records, reader_scaling
from datasets import clips, color, geometry
from datasets.batches import Batches, Loading, eval_batches, train_batches
from datasets.clip_config import ClipConfig
from datasets.color import ColorJitterConfig
from datasets.record_dataset import RecordDataset, decode_frames
from datasets.video import probe, read_frames
from errors import ConfigError
from tools import command

_VIDEOS = flags.DEFINE_string(
  'videos', None, 'Folder of real videos. Default: videos made here.', allow_override=True
)
_DATA = flags.DEFINE_string(
  'data', None, 'Folder to keep the records in. Default: a temporary one.', allow_override=True
)
_QUALITIES = flags.DEFINE_list(
  'qualities', ['4'], 'JPEG quantiser scales of the records, 2 to 31.', allow_override=True
)
_ROUNDS = flags.DEFINE_integer('rounds', 9, 'Rounds.', lower_bound=1, allow_override=True)
_QUICK = flags.DEFINE_bool(
  'quick', False, 'Two rounds and short runs: to see that it works.', allow_override=True
)
_SOAK = flags.DEFINE_integer(
  'soak', 0, 'Batches to watch the memory over; 0: none.', lower_bound=0, allow_override=True
)
_JSON = flags.DEFINE_bool(
  'json', False, 'Print one JSON object instead of tables.', allow_override=True
)

PLAIN = ClipConfig(frames=32, stride=2, resize=256, crop=224, flip_prob=0.5)
KINETICS = dataclasses.replace(PLAIN, scale_jitter=(0.9, 1.33))
COLOR = ColorJitterConfig(prob=0.8, grayscale_prob=0.1, where='host')
BATCH, TEMPORAL_VIEWS, SPATIAL_VIEWS = 8, 4, 3
RECORDS, RECORD_FRAMES = 16, 250
_IDLE_SECONDS = 0.02


@dataclasses.dataclass(frozen=True)
class Run:
  """Something to be measured.

  Attributes:
    name: for the table.
    call: does it.
    count: clips (or videos, or steps of `raw`) that a call makes.
    ceiling: of its time over the raw decode's, None where there is none.
  """

  name: str
  call: Callable[[], object]
  count: int
  ceiling: float | None = None


@dataclasses.dataclass
class Measured:
  """CPU milliseconds of each round a clip, and their ratios to the raw decode beside them."""

  name: str
  ceiling: float | None
  milliseconds: list[float] = dataclasses.field(default_factory=list)
  ratios: list[float] = dataclasses.field(default_factory=list)

  @property
  def verdict(self) -> str:
    """'PASS' or 'over', '' without a ceiling."""
    if self.ceiling is None:
      return ''
    return 'PASS' if statistics.median(self.ratios) <= self.ceiling else 'over'

  def facts(self) -> dict[str, Any]:
    """Medians and extremes, for JSON."""
    return {
      'ms': statistics.median(self.milliseconds),
      'ratio': statistics.median(self.ratios),
      'ratio_min': min(self.ratios),
      'ratio_max': max(self.ratios),
      'ceiling': self.ceiling,
      'verdict': self.verdict,
    }


class Workload:
  """The same clips for every way of making them: rows, random numbers, and their frames' bytes."""

  def __init__(self, dataset: RecordDataset, count: int, plain: ClipConfig, kinetics: ClipConfig):
    """Draws `count` clips; both configs draw the same frames."""
    self.dataset = dataset
    self.plain, self.kinetics = plain, kinetics
    self.rows = [number % len(dataset) for number in range(count)]
    self.drawn = [self.train_clip(number, kinetics) for number in range(count)]
    self.windows = [self.train_clip(number, plain).window for number in range(count)]
    self.encoded = [
      [bytes(data) for data in dataset.encoded_frames(row, clip.indices)]
      for row, clip in zip(self.rows, self.drawn, strict=True)
    ]
    self.frame = simplejpeg.decode_jpeg(self.encoded[0][0], fastdct=True)
    self.pixels = np.zeros((1, *plain.shape), np.uint8)
    self.views = np.zeros((TEMPORAL_VIEWS * SPATIAL_VIEWS, *plain.shape), np.uint8)

  def rng(self, number: int) -> np.random.Generator:
    """The random numbers of a clip, made as the reader makes them."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([number])))

  def train_clip(
    self,
    number: int,
    config: ClipConfig,
    jitter: ColorJitterConfig | None = None,
    out: np.ndarray | None = None,
  ) -> clips.Clip:
    """Clip `number`."""
    rngs = [self.rng(number)]
    return clips.train_clips(self.dataset, config, self.rows[number], rngs, jitter, out)[0]

  def runs(self, *steps: tuple[str, Callable[[int], object], float | None]) -> list[Run]:
    """Runs that do each step for every clip."""

    def call(step: Callable[[int], object]) -> None:
      for number in range(len(self.rows)):
        step(number)

    return [
      Run(name, functools.partial(call, step), len(self.rows), ceiling)
      for name, step, ceiling in steps
    ]

  def raw(self, number: int) -> None:
    """libjpeg-turbo and nothing else."""
    for data in self.encoded[number]:
      simplejpeg.decode_jpeg(data, colorspace='RGB', fastdct=True, buffer=self.frame)


def stages(work: Workload) -> list[Run]:
  """What a clip is made of, each alone."""

  def parse(number: int) -> None:
    indices = work.drawn[number].indices
    collections.deque(work.dataset.encoded_frames(work.rows[number], indices), maxlen=0)

  def decode(number: int) -> None:
    collections.deque(decode_frames(work.encoded[number]), maxlen=0)

  def resize(number: int) -> None:
    cut(dataclasses.replace(work.drawn[number].window, flip=False))

  def copy(number: int) -> None:
    cut(work.windows[number])

  def cut(window: geometry.Window) -> None:
    for out in work.pixels[0]:
      geometry.cut(work.frame, window, out)

  def colour(number: int) -> None:
    color.jitter(work.rng(number), work.pixels[0], COLOR)

  return work.runs(
    ('parse: index, pread, crc32', parse, None),
    ('decode', decode, None),
    ('copy: crop and flip into the batch', copy, None),
    ('resize: the window, jittered', resize, None),
    ('colour: mean and matrix, on the host', colour, None),
  )


def clip_functions(work: Workload) -> list[Run]:
  """Whole clips and views, in the caller's thread."""

  def plain(number: int) -> None:
    work.train_clip(number, work.plain, out=work.pixels)

  def device(number: int) -> None:
    work.train_clip(number, work.kinetics, out=work.pixels)

  def host(number: int) -> None:
    work.train_clip(number, work.kinetics, COLOR, work.pixels)

  def views(number: int) -> None:
    row = work.rows[number]
    clips.view_clips(work.dataset, work.plain, row, TEMPORAL_VIEWS, SPATIAL_VIEWS, work.views)

  return work.runs(
    ('clip: crop, flip', plain, 1.4),
    ('clip: jitter, flip; colour on the device', device, None),
    ('clip: jitter, flip, colour on the host', host, 2.2),
    ('4x3 views of a video', views, 6.5),
  )


def end_to_end(work: Workload, batches: int, stack: contextlib.ExitStack) -> list[Run]:
  """Batches through Grain, one reading thread; the CPU time is that of all threads."""
  loading = Loading(num_threads=1)

  def stream(name: str, clip: ClipConfig, jitter: ColorJitterConfig | None, ceiling: Any) -> Run:
    made = train_batches(
      work.dataset, clip, batch_size=BATCH, seed=0, color_jitter=jitter, loading=loading
    )
    stack.enter_context(made)
    return Run(name, functools.partial(_take, made, batches), batches * BATCH, ceiling)

  def views(name: str) -> Run:
    made = eval_batches(
      reader_scaling.Many(work.dataset),
      work.plain,
      batch_size=1,
      temporal_views=TEMPORAL_VIEWS,
      spatial_views=SPATIAL_VIEWS,
      loading=loading,
    )
    stack.enter_context(made)
    return Run(name, functools.partial(_take, made, 4 * batches), 4 * batches)

  return [
    stream('batches: crop, flip', work.plain, None, 2.0),
    stream('batches: jitter, flip; colour on the device', work.kinetics, None, None),
    stream('batches: jitter, flip, colour on the host', work.kinetics, COLOR, 2.8),
    views('batches: 4x3 views of a video'),
  ]


def _take(made: Batches, batches: int) -> None:
  """Takes batches and waits until as many are ready as before: none is counted twice or never."""
  for _ in range(batches):
    next(made)
  settle()


def settle() -> None:
  """Waits until the threads of this process rest."""
  before = time.process_time()
  while True:
    time.sleep(_IDLE_SECONDS)
    now = time.process_time()
    if now - before < 0.1 * _IDLE_SECONDS:
      return
    before = now


def from_videos(work: Workload, source: clip_records.Source) -> list[Run]:
  """The same frames decoded from the videos themselves."""
  paths = [source.folder / work.dataset.key(row).partition(':')[2] for row in work.rows]
  infos = [probe(path) for path in paths]

  def decode(number: int) -> None:
    indices = work.drawn[number].indices
    collections.deque(read_frames(paths[number], infos[number], indices), maxlen=0)

  return work.runs(('the same frames from the videos', decode, None))


@contextlib.contextmanager
def pinned() -> Iterator[None]:
  """Runs this thread, and those it starts, on one core."""
  before = os.sched_getaffinity(0)
  os.sched_setaffinity(0, {max(before)})
  try:
    yield
  finally:
    os.sched_setaffinity(0, before)


def measure(runs: Sequence[Run], raw: Run, rounds: int, advance: Callable[[], object]) -> Any:
  """Rounds of all runs, each after a raw decode; a first round warms up. Returns the rows."""
  rows = [Measured(run.name, run.ceiling) for run in runs]
  base = Measured(raw.name, None)
  for number in range(rounds + 1):
    for run, row in zip(runs, rows, strict=True):
      unit, own = _milliseconds(raw), _milliseconds(run)
      if number:
        base.milliseconds.append(unit)
        base.ratios.append(1.0)
        row.milliseconds.append(own)
        row.ratios.append(own / unit)
      advance()
  return [base, *rows]


def _milliseconds(run: Run) -> float:
  """CPU time of all threads, a clip."""
  begin = time.process_time()
  run.call()
  return 1e3 * (time.process_time() - begin) / run.count


def measure_reader(
  dataset: RecordDataset,
  source: clip_records.Source,
  *,
  rounds: int,
  count: int,
  batches: int,
  bar: Progress,
  plain: ClipConfig = PLAIN,
  kinetics: ClipConfig = KINETICS,
) -> list[Measured]:
  """The rows of the first table: the raw decode, stages, clip functions, batches, videos.

  Args:
    dataset: records.
    source: the videos that they were made of.
    rounds: to measure.
    count: clips of a run.
    batches: batches of a run end to end.
    bar: where to show the progress.
    plain: clips without augmentation.
    kinetics: clips with.
  """
  with pinned(), contextlib.ExitStack() as stack:
    work = Workload(dataset, count, plain, kinetics)
    (raw,) = work.runs(('raw: libjpeg-turbo alone', work.raw, None))
    runs = [*stages(work), *clip_functions(work), *end_to_end(work, batches, stack)]
    runs += from_videos(work, source)
    task = bar.add_task('one core', total=(rounds + 1) * len(runs))
    settle()
    return measure(runs, raw, rounds, lambda: bar.advance(task))


def describe(dataset: RecordDataset, quality: int) -> dict[str, Any]:
  """What the records are."""
  frame = next(dataset.frames(0, np.array([0])))
  size = sum(shard.bytes for shard in dataset.manifest.splits[dataset.split].shards)
  psnr = dataset.manifest.source['splits'][dataset.split]['jpeg_psnr_db']['median']
  return {
    'quality': quality,
    'height': frame.shape[0],
    'width': frame.shape[1],
    'records': len(dataset),
    'kilobytes_a_frame': size / 1e3 / int(dataset.num_frames.sum()),
    'psnr_db': psnr,
  }


def print_reader(facts: dict[str, Any], rows: Sequence[Measured]) -> None:
  """The first table."""
  print(
    f'\nrecords of quality {facts["quality"]}: {facts["records"]} of {facts["width"]} x '
    f'{facts["height"]} px, {facts["kilobytes_a_frame"]:.1f} kB a frame, {facts["psnr_db"]:.1f} dB'
  )
  print(f'{"one core, CPU time of a clip":<45}{"ms":>8}{"x raw":>8}{"":19}ceiling')
  for row in rows:
    f = row.facts()
    spread = f'[{f["ratio_min"]:.2f} .. {f["ratio_max"]:.2f}]'
    ceiling = '' if row.ceiling is None else f'{row.ceiling:.1f}  {row.verdict}'
    print(f'{row.name:<45}{f["ms"]:8.2f}{f["ratio"]:8.2f}  {spread:<17}{ceiling}'.rstrip())


def main() -> None:
  """Makes the records, measures and prints."""
  qualities = _qualities()
  with tempfile.TemporaryDirectory() as temporary:
    folder = Path(_DATA.value or temporary)
    source, datasets = _prepare(folder, qualities)
    results: dict[str, Any] = {'cores': len(os.sched_getaffinity(0))}
    with _progress() as bar:
      for quality, dataset in datasets.items():
        rows = measure_reader(
          dataset,
          source,
          rounds=2 if _QUICK.value else _ROUNDS.value,
          count=2 if _QUICK.value else 8,
          batches=1 if _QUICK.value else 2,
          bar=bar,
        )
        facts = describe(dataset, quality)
        results.setdefault('reader', []).append(
          {**facts, 'rows': {r.name: r.facts() for r in rows}}
        )
        if not _JSON.value:
          print_reader(facts, rows)
      dataset = next(iter(datasets.values()))
      results['scaling'] = reader_scaling.measure(
        dataset,
        KINETICS,
        COLOR,
        batch=BATCH,
        steps=3 if _QUICK.value else 20,
        rounds=1 if _QUICK.value else 3,
        bar=bar,
      )
      results['restoring'] = reader_scaling.restoring(dataset, KINETICS, batch=BATCH)
      if _SOAK.value:
        results['soak'] = reader_scaling.soak(dataset, KINETICS, 2, _SOAK.value, bar)
  if _JSON.value:
    print(json.dumps(results, indent=1))
  else:
    reader_scaling.print_results(results)


def _qualities() -> list[int]:
  try:
    return [int(text) for text in _QUALITIES.value]
  except ValueError:
    message = f'--qualities: expected numbers such as 4,31, got {",".join(_QUALITIES.value)!r}.'
    raise ConfigError(message) from None


def _prepare(
  folder: Path, qualities: Sequence[int]
) -> tuple[clip_records.Source, dict[int, RecordDataset]]:
  """The videos, and records of each quality; what is made says so on the error stream."""
  with contextlib.redirect_stdout(sys.stderr):
    span = (PLAIN.frames - 1) * PLAIN.stride + 1
    if _VIDEOS.value:
      source = clip_records.find_videos(_VIDEOS.value, frames=span)
    else:
      source = clip_records.make_videos(folder / 'videos', 4, RECORD_FRAMES)
    kind = 'real' if _VIDEOS.value else 'made'
    make = functools.partial(
      clip_records.make_records, source=source, records=RECORDS, frames=RECORD_FRAMES
    )
    return source, {q: make(folder / f'{kind}-q{q}', quality=q) for q in qualities}


def _progress() -> Progress:
  return Progress(console=Console(stderr=True), transient=True)


if __name__ == '__main__':
  command.run(main)
