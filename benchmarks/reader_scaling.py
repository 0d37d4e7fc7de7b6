"""How the reader scales with threads and processes, what memory it takes, and how fast it resumes."""

import multiprocessing
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from datasets.batches import Batches, Loading, train_batches
from datasets.clip_config import ClipConfig
from datasets.color import ColorJitterConfig
from datasets.dataset import VideoDataset

LOADINGS = {
  '1 thread': Loading(1),
  '2 threads': Loading(2),
  '4 threads': Loading(4),
  '1 process': Loading(1, num_processes=1),
  '2 processes': Loading(1, num_processes=2),
}
MANY_VIDEOS = 240_000
STEPS = (0, 1_000, 1_000_000)
_WARM_UP = 4


class Many(VideoDataset):
  """As many videos as Kinetics-400 has, of which all but the first are those of `few` again."""

  def __init__(self, few: VideoDataset, size: int = MANY_VIDEOS):
    self._few = few
    self.where, self.split = few.where, few.split
    self.split_sizes, self.fingerprint = {few.split: size}, few.fingerprint
    super().__init__({}, {})
    self.num_frames, self.frame_rate = (
      np.resize(values, size) for values in (few.num_frames, few.frame_rate)
    )
    self.defects = ()

  def key(self, row):
    return f'{row}: {self._few.key(row % len(self._few))}'

  def stored_labels(self, row):
    return self._few.stored_labels(row % len(self._few))

  def frames(self, row, indices):
    return self._few.frames(row % len(self._few), indices)


def measure(
  dataset: VideoDataset,
  clip: ClipConfig,
  jitter: ColorJitterConfig,
  *,
  batch: int,
  steps: int,
  rounds: int,
  bar: Progress,
  loadings: Mapping[str, Loading] = LOADINGS,
) -> dict[str, dict[str, Any]]:
  """Clips a second and MB of memory of each way of loading, on all cores this process may use.

  The speed is that of the fastest of `rounds`, in each of which all take their turn: others may use
  the cores, too. `memory` is this process', with its libraries and batches; `workers` lists each
  worker's.
  """
  results: dict[str, dict[str, Any]] = {}
  task = bar.add_task('threads and processes', total=rounds * len(loadings))
  for _ in range(rounds):
    for name, loading in loadings.items():
      with train_batches(
        dataset, clip, batch_size=batch, seed=0, color_jitter=jitter, loading=loading
      ) as batches:
        speed = _clips_a_second(batches, batch, steps)
        fastest = max(speed, results.get(name, {}).get('clips_a_second', 0.0))
        workers = [memory(child.pid) for child in multiprocessing.active_children()]
      results[name] = {'clips_a_second': fastest, 'memory': memory('self'), 'workers': workers}
      bar.advance(task)
  return results


def _clips_a_second(batches: Batches, batch: int, steps: int) -> float:
  for _ in range(_WARM_UP):
    next(batches)
  begin = time.perf_counter()
  for _ in range(steps):
    next(batches)
  return steps * batch / (time.perf_counter() - begin)


def memory(process: int | str | None) -> dict[str, float]:
  """MB of a process: `rss` resident, `pss` with shared pages divided, `uss` not shared."""
  lines = Path(f'/proc/{process}/smaps_rollup').read_text().splitlines()[1:]
  kilobytes = {name: int(rest.split()[0]) for name, _, rest in (s.partition(':') for s in lines)}
  private = kilobytes['Private_Clean'] + kilobytes['Private_Dirty']
  values = {'rss': kilobytes['Rss'], 'pss': kilobytes['Pss'], 'uss': private}
  return {name: value / 1024 for name, value in values.items()}


def restoring(
  dataset: VideoDataset, clip: ClipConfig, *, batch: int, size: int = MANY_VIDEOS
) -> dict[int, float]:
  """Seconds from nothing to batch N, by N, in a dataset of the size of Kinetics-400."""
  many = Many(dataset, size)
  results: dict[int, float] = {}
  for step in STEPS:
    begin = time.perf_counter()
    # Another seed each: the order of an epoch is kept, and shall not be known yet.
    with train_batches(many, clip, batch_size=batch, seed=step, start_step=step) as batches:
      next(batches)
      results[step] = time.perf_counter() - begin
  return results


def soak(
  dataset: VideoDataset, clip: ClipConfig, batch: int, steps: int, bar: Progress
) -> dict[str, Any]:
  """Memory in MB after a tenth of the batches (at most 100), at the end, and the most in between."""
  warm, at_warm, most = min(100, -(-steps // 10)), 0.0, 0.0
  task = bar.add_task(f'{steps:,} batches', total=steps)
  with train_batches(dataset, clip, batch_size=batch, seed=0) as batches:
    for number in range(1, steps + 1):
      next(batches)
      bar.advance(task)
      if number >= warm:
        now = memory('self')['rss']
        at_warm, most = at_warm or now, max(most, now)
  return {
    'batches': steps,
    'clips': batch,
    'warm_up': warm,
    'after_warm_up': at_warm,
    'end': now,
    'most': most,
  }


def print_results(results: Mapping[str, Any]) -> None:
  """What there is of scaling, restoring and the long run."""
  print(f'\n{"all " + str(results["cores"]) + " cores, colour on the host":<45}clips/s      MB')
  for name, row in results['scaling'].items():
    workers = ', '.join(f'{m["pss"]:.0f} ({m["uss"]:.0f} its own)' for m in row['workers'])
    workers = f'; workers {workers}' if workers else ''
    print(f'{name:<45}{row["clips_a_second"]:7.1f}{row["memory"]["pss"]:8.0f}{workers}')
  print(f'\nseconds to the batch of step N of {MANY_VIDEOS:,} videos')
  for step, seconds in results['restoring'].items():
    print(f'N = {step:<41,}{seconds:7.2f}')
  if 'soak' in results:
    s = results['soak']
    print(
      f'\nmemory over {s["batches"]:,} batches of {s["clips"]} clips: {s["after_warm_up"]:.0f} MB after {s["warm_up"]}, '
      f'{s["end"]:.0f} MB at the end, {s["most"]:.0f} MB at most'
    )
