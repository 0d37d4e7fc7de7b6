"""Nominal facts of the papers' datasets, for tools that need sizes when no data is there.

The ViViT paper (Sec. 4.1, "Datasets") states sizes over all splits, not training sets: its 267 000
and 446 000 for Kinetics are train + val + test of the configs released with it. `train_examples` is
therefore the training set's size, with the paper's own figure beside it in `source`.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """A public dataset: {label group: number of classes}, training clips, and where they are stated."""

  name: str
  tasks: Mapping[str, int]
  train_examples: int
  source: str


BENCHMARKS: Mapping[str, Benchmark] = {
  benchmark.name: benchmark
  for benchmark in (
    Benchmark(
      'kinetics400',
      {'label': 400},
      214_834,
      'Scenic, ViViT and PolyViT configs (train 214834, val 17637, test 34579; YouTube removals '
      'change it); ViViT Sec. 4.1: about 267 000 over all splits.',
    ),
    Benchmark(
      'kinetics600',
      {'label': 600},
      363_213,
      'Scenic, video transformer configs for Kinetics 600 (train 363213, val 27676, test 55377; '
      'YouTube removals change it); ViViT Sec. 4.1: about 446 000 over all splits.',
    ),
    Benchmark(
      'moments_in_time',
      {'label': 339},
      791_297,
      'Scenic, ViViT and PolyViT configs; ViViT Sec. 4.1: 800 000.',
    ),
    Benchmark(
      'epic_kitchens',
      {'verb': 97, 'noun': 300},
      67_217,
      'EPIC-KITCHENS-100 train split, as in Scenic (val 9668); ViViT Sec. 4.1: 90 000 over all '
      'splits.',
    ),
    Benchmark(
      'ssv2',
      {'label': 174},
      168_913,
      'Something-Something v2 train split, as in Scenic (val 24777); ViViT Sec. 4.1: 220 000 over '
      'all splits.',
    ),
    Benchmark('demo', {'motion': 8}, 1600, 'datasets.demo, as `make demo` writes it.'),
  )
}
"""By name."""
