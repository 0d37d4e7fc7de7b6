"""Looks at this machine: would a run start here, how fast could it read, and what is to be done.

  python -m tools.doctor
  python -m tools.doctor --workdir=/scratch/runs --data=/data/k400 --video=clip.mp4 --json

It looks at versions, devices and whether they multiply right, memory and CPUs with the limits on this
process, the speed of decoding videos and JPEGs, disk, open files, shared memory, the cache of compiled
programs, clocks, and what is named. Each problem has a line of advice. The exit code is 1 when one of
them would stop a run, which `--json` says of each as `stops`.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

try:
  from absl import flags

  from tools import command
except ImportError as error:
  sys.exit(f'STOPS A RUN  {error}: run `make install`, and start this with `.venv/bin/python`.')

if TYPE_CHECKING:
  from train_lib.doctor import Finding

_WORKDIR = flags.DEFINE_string('workdir', 'runs', 'Folder for runs.', allow_override=True)
_VIDEO = flags.DEFINE_string('video', '', 'A video to read.', allow_override=True)
_DATA = flags.DEFINE_string('data', '', 'A dataset to read.', allow_override=True)
_JSON = flags.DEFINE_bool('json', False, 'Print JSON instead of lines.', allow_override=True)


def examine(workdir: str, video: str, data: str) -> Iterator['Finding']:
  """Yields what is found, as soon as it is; see the flags of this command."""
  from train_lib import doctor, doctor_packages

  packages = list(doctor_packages.diagnose())
  yield from packages
  if not doctor.stops(packages):
    from train_lib import doctor_facts

    yield from doctor_facts.diagnose(workdir, video, data)


def main() -> None:
  """Examines, prints and exits."""
  from train_lib import doctor

  # A look should take no memory that a run beside it uses.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  findings = []
  for finding in examine(_WORKDIR.value, _VIDEO.value, _DATA.value):
    findings.append(finding)
    if not _JSON.value:
      print(doctor.line(finding), flush=True)
  if _JSON.value:
    print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
  else:
    print(f'\n{doctor.problems(findings)}')
  sys.exit(int(doctor.stops(findings)))


if __name__ == '__main__':
  command.run(main)
