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
import sys

from absl import flags

from tools import command

_WORKDIR = flags.DEFINE_string('workdir', 'runs', 'Folder for runs.', allow_override=True)
_VIDEO = flags.DEFINE_string('video', '', 'A video to read.', allow_override=True)
_DATA = flags.DEFINE_string('data', '', 'A dataset to read.', allow_override=True)
_JSON = flags.DEFINE_bool('json', False, 'Print JSON instead of lines.', allow_override=True)


def examine(workdir: str, video: str, data: str, as_json: bool) -> tuple[str, int]:
  """What to print, and the exit code; see the flags of this command."""
  from train_lib import doctor, doctor_facts

  findings = list(doctor_facts.diagnose(workdir, video, data))
  if as_json:
    text = json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2)
  else:
    text = doctor.report(findings)
  return text, int(doctor.stops(findings))


def main() -> None:
  """Examines, prints and exits."""
  text, code = examine(_WORKDIR.value, _VIDEO.value, _DATA.value, _JSON.value)
  print(text)
  sys.exit(code)


if __name__ == '__main__':
  command.run(main)
