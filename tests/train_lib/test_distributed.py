"""Runs of two processes, as on two hosts."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from errors import ConfigError
from tests.train_lib.conftest import make_actors_config, make_tiny_config
from tests.train_lib.models_on_disk import write_model
from train_lib import distributed, run
from train_lib.metric_writers import read_scalars
from train_lib.roster import Place

ROOT = Path(__file__).parents[2]
CONFIG = """
import sys
sys.path.append({here!r})
from conftest import make_tiny_config

def get_config():
  config = make_tiny_config({data!r})
  config.mesh.update({{'data': 1, 'fsdp': 8}})
  config.evaluation.update({{'batch_size': 24, 'pictures': True}})
  return config
"""


MIXTURE = """
import sys
sys.path.append({here!r})
from conftest import make_actors_config

def get_config():
  config = make_actors_config({data!r})
  config.evaluation.batch_size = 8
  return config
"""


def start(config: Path, workdir: Path, port: int, process: int, *arguments: str):
  command = [sys.executable, 'main.py', f'--config={config}', f'--workdir={workdir}']
  command += ['--platform=cpu', f'--coordinator=localhost:{port}', '--processes=2']
  settings = {
    'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=4',
  }
  return subprocess.Popen(
    [*command, f'--process={process}', *arguments],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, **settings},
  )


def outputs(*processes, seconds=300):
  """(exit code, stdout, stderr) of each; no process is left behind."""
  try:
    texts = [process.communicate(timeout=seconds) for process in processes]
  finally:
    for process in processes:
      process.kill()
  return [(process.returncode, *text) for process, text in zip(processes, texts)]


@pytest.fixture
def config_file(tmp_path, demo_data_dir):
  path = tmp_path / 'two.py'
  path.write_text(CONFIG.format(here=str(Path(__file__).parent), data=str(demo_data_dir)))
  return path


@pytest.fixture
def port():
  with socket.socket() as probe:
    probe.bind(('', 0))
    return min(probe.getsockname()[1], 65534)


def losses(workdir: Path):
  rows = read_scalars(workdir / 'metrics.jsonl')
  names = ('train/loss', 'eval/loss/motion', 'eval/top1/motion')
  return [{'step': row['step'], **{n: row[n] for n in names if n in row}} for row in rows]


def same(rows, expected):
  # Sums over devices are in another order; Adam makes more of it.
  assert rows == [pytest.approx(row, rel=2e-4) for row in expected]


def test_two_processes_train_as_one(config_file, port, tmp_path, finished, demo_data_dir):
  workdir, (alone, _) = tmp_path / 'two', finished
  two = outputs(*[start(config_file, workdir, port, i) for i in range(2)])
  assert [code for code, *_ in two] == [0, 0], two
  assert 'Devices: 8 x cpu of 2 processes.' in two[0][1]
  # Of Gloo's lines several threads write, so that one may end in the next.
  assert [line for line in two[1][1].splitlines() if 'peer ranks' not in line] == []
  same(losses(workdir), losses(alone))
  results = 'eval/demo/test/00000006'
  assert sorted(p.name for p in (workdir / results).iterdir()) == sorted(
    p.name for p in (alone / results).iterdir()
  )
  lines, expected = (
    [json.loads(line) for line in (w / results / 'predictions.jsonl').read_text().splitlines()]
    for w in (workdir, alone)
  )
  assert len(lines) == len(expected)
  by_id = {line['id']: line['motion'] for line in lines}
  for line in expected:
    ours, theirs = by_id[line['id']], line['motion']
    assert ours['label'] == theirs['label']
    assert ours['top5'][0]['class'] == theirs['top5'][0]['class']

  # One process, on one device, goes on from what the two have saved, split over all of them.
  for step in (workdir / 'checkpoints').iterdir():
    if int(step.name) > 3:
      shutil.rmtree(step)
  run.run('train', make_tiny_config(demo_data_dir), str(workdir))
  same(losses(workdir), losses(alone))


def test_two_processes_train_a_mixture_with_boxes_as_one(port, tmp_path, actors_dir):
  config = tmp_path / 'mixture.py'
  config.write_text(MIXTURE.format(here=str(Path(__file__).parent), data=str(actors_dir)))
  two = outputs(*[start(config, tmp_path / 'two', port, i) for i in range(2)])
  assert [code for code, *_ in two] == [0, 0], two
  run.run('train', make_actors_config(actors_dir), str(tmp_path / 'one'))
  names = (
    'loss/actions',
    'loss/actors',
    'top1/actions',
    'mAP/actors',
    'mAP_annotated_boxes/actors',
  )
  last = [read_scalars(tmp_path / name / 'metrics.jsonl')[-1] for name in ('two', 'one')]
  found, expected = ({name: row[f'eval/{name}'] for name in names} for row in last)
  assert found == pytest.approx(expected, rel=2e-3)
  results = [tmp_path / name / 'eval' / 'actors' / 'test' / '00000004' for name in ('two', 'one')]
  files = [sorted(p.name for p in folder.iterdir()) for folder in results]
  assert files[0] == files[1]
  truth = [(folder / 'groundtruth_actors.csv').read_text() for folder in results]
  assert sorted(truth[0].splitlines()) == sorted(truth[1].splitlines())


def test_two_processes_keep_new_classes_beside_those_of_a_checkpoint(
  config_file, port, tmp_path, demo_data_dir
):
  names = ('moves left', 'flies')
  write_model(tmp_path / 'other.npz', make_tiny_config(demo_data_dir), {'motion': names})
  settings = ('init_from.load_head=True', 'init_from.unmatched_classes=new')
  flags = [f'--config.{x}' for x in (*settings, f'init_from.path={tmp_path / "other.npz"}')]
  two = [start(config_file, tmp_path / 'run', port, i, '--mode=init', *flags) for i in range(2)]
  first, second = outputs(*two)
  assert (first[0], second[0]) == (0, 0), (first, second)
  assert '7 of 8 classes new' in first[1]


def test_a_missing_process_ends_the_command(config_file, port, tmp_path):
  workdir = tmp_path / 'run'
  ((code, _, errors),) = outputs(start(config_file, workdir, port, 0, '--wait_seconds=2'))
  assert code == 1
  assert f'ProcessError: Waited 2 s for 2 processes at localhost:{port}: here 0 (' in errors
  assert 'missing 1. Run the same command there (with --process=1' in errors
  assert 'Traceback' not in errors
  assert not workdir.exists()


def test_processes_that_differ_end(config_file, port, tmp_path):
  first = start(config_file, tmp_path / 'run', port, 0)
  second = start(config_file, tmp_path / 'other', port, 1)
  for code, _, errors in outputs(first, second):
    assert code == 1
    assert 'ProcessError: Process 1 (' in errors
    assert '--workdir is ' in errors


def test_places_are_found_in_flags_before_the_cluster(monkeypatch):
  slurm(monkeypatch, tasks=4)
  assert distributed.find_place('host0:1234', 2, 1) == (Place('host0:1234', 2, 1), None)
  assert distributed.find_place(None, 1, None) == (None, None)


def test_flags_go_together():
  with pytest.raises(ConfigError, match='--processes, --process is missing'):
    distributed.find_place('host0:1234', None, None)


def test_places_are_found_in_slurm(monkeypatch):
  slurm(monkeypatch, tasks=4)
  port = 77 + 65535 - 2**12 + 1
  assert distributed.find_place(None, None, None) == (Place(f'node01:{port}', 4, 2), [1])


def test_a_cluster_of_one_waits_for_nobody(monkeypatch):
  assert distributed.find_place(None, None, None) == (None, None)
  slurm(monkeypatch, tasks=1, task=0)
  assert distributed.find_place(None, None, None) == (None, None)


def slurm(monkeypatch, tasks, task=2):
  variables = {'JOB_ID': 77, 'STEP_NODELIST': 'node[01-02]', 'NTASKS': tasks, 'PROCID': task}
  for name, value in {**variables, 'LOCALID': 1}.items():
    monkeypatch.setenv(f'SLURM_{name}', str(value))
