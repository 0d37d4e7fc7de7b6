"""Merges Kinetics-400, -600 and -700 into Kinetics-710, without videos that are evaluated on.

  python -m projects.uniformerv2.kinetics710 --out=data/k710_lists \\
      --k400=k400/train.csv --k400=k400/validate.csv --k400=k400/test.csv \\
      --k600=k600/train.csv --k600=k600/validate.csv --k600=k600/test.csv \\
      --k700=k700/train.csv --k700=k700/validate.csv --k700=k700/test.csv

The files are the csv lists that the sets are published with. A video that is in several sets is taken
once, from the newest of them, and a video of any validation or test list is no training video. Writes

  train.csv, validation.csv             what tools.build_records --layout=kinetics takes
  classes.txt                           the 710 classes, alphabetically: their order is the label space
  k400_train.csv, k600_..., k700_...    the training list of each set without any video evaluated on
  class_synonyms.csv                    for init_from.class_synonyms: the sets' names -> those of K710
  changes.csv                           every class renamed and every video dropped, and why
"""

from pathlib import Path

from absl import flags

from errors import ConfigError
from projects.uniformerv2 import kinetics_lists, label_table, merging, merging_files
from train_lib.console import run_command

_PATHS = {
  name: flags.DEFINE_multi_string(
    name,
    [],
    f'Annotation file of Kinetics-{name[1:]}: training, validation and test; repeat.',
    allow_override=True,
  )
  for name in label_table.SETS
}
_OUT = flags.DEFINE_string('out', '', 'Folder to write; must not be there.', allow_override=True)


def main() -> None:
  """Reads, merges, writes and says what was done."""
  missing = [f'--{name}' for name, flag in {**_PATHS, 'out': _OUT}.items() if not flag.value]
  if missing:
    raise ConfigError(f'{", ".join(missing)} missing: see --help for an example.')
  out = Path(_OUT.value)
  merging_files.check_free(out)
  clips = [clip for name in _PATHS for clip in kinetics_lists.read(name, _PATHS[name].value)]
  merged = merging.merge(clips)
  overlap = merging_files.write(out, merged)
  print(merging_files.report(out, merged, overlap))


if __name__ == '__main__':
  run_command(main)
