"""Each check of the doctor, given good and bad facts; and how the facts are gathered."""

import json

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from tests.datasets.videos import write_video
from tools import doctor as tool
from train_lib import doctor, doctor_facts, doctor_packages
from train_lib.doctor import Finding

GIB = 2**30


def good(finding):
  assert (finding.advice, finding.stops) == ('', False)
  return finding.text


def warns(finding, advice):
  assert advice in finding.advice
  assert not finding.stops


def stops(finding, advice):
  assert advice in finding.advice
  assert finding.stops


def test_versions():
  assert good(doctor.check_versions({'jax': '1.0', 'av': '2'}, {'jax': '1.0'})) == 'jax 1.0, av 2'
  warns(
    doctor.check_versions({'jax': '1.1'}, {'jax': '1.0'}), 'jax 1.1, tested is 1.0: `make install`'
  )
  stops(doctor.check_versions({'jax': None, 'av': '2'}, {}), 'jax missing: run `make install`.')
  assert good(doctor.check_imports({'jax': '', 'av': ''})) == '2 packages'
  broken = doctor.check_imports({'numpy': '', 'jax': 'jaxlib is newer', 'flax': 'jaxlib is newer'})
  stops(broken, 'jax cannot be imported (jaxlib is newer): `make install`')
  assert broken.text == '1 of 3 packages; not jax, flax'
  good(doctor.check_python((3, 12)))
  stops(doctor.check_python((3, 10)), 'Python 3.11 or newer')


def platform(devices=('cpu cpu x 1',), error='', **facts):
  facts = {'gpu': False, 'tpu': False, 'libtpu': False, 'environ': {}, **facts}
  return doctor.check_platform(devices, error, **facts)


def test_devices_that_are_used():
  assert good(platform()) == 'cpu cpu x 1'
  gpu = ['gpu NVIDIA H100, 71.0 GiB x 8']
  flags = {'XLA_FLAGS': '--xla_dump_to=x'}
  assert good(platform(gpu, gpu=True, environ=flags)) == f'{gpu[0]}; XLA_FLAGS=--xla_dump_to=x'
  good(platform(['tpu TPU v5e x 4'], tpu=True, libtpu=True))


def test_devices_that_are_not_used():
  stops(platform(gpu=True), 'GPU, but JAX is on the CPU: run `.venv/bin/pip install "jax[cuda12]==')
  stops(platform(gpu=True, environ={'CUDA_VISIBLE_DEVICES': ''}), 'unset CUDA_VISIBLE_DEVICES')
  warns(platform(gpu=True, environ={'JAX_PLATFORMS': 'cpu'}), 'unset JAX_PLATFORMS')
  stops(platform(tpu=True), '"jax[tpu]==')
  stops(platform(tpu=True, libtpu=True), 'another program may hold it')
  failed = platform([], 'no cuda', gpu=True, environ={'JAX_PLATFORMS': 'cuda'})
  stops(failed, "JAX does not come up: no cuda. Unset JAX_PLATFORMS, which is 'cuda'.")
  stops(platform([], 'busy', tpu=True), 'Another program may hold the device')


def test_the_advice_names_the_pinned_version():
  lock = (doctor_packages._ROOT / 'requirements.lock').read_text()
  version = doctor_packages.pinned(lock)['jax']
  assert f'=={version}"' in platform(gpu=True).advice
  assert f'=={version}"' in platform(tpu=True).advice


def test_products():
  assert '1e-07 and 2e-03' in good(doctor.check_products({'cpu:0': (1e-7, 2e-3)}))
  stops(doctor.check_products({'a': (0.0, 0.0), 'b': (0.5, 0.0)}), 'b multiplies wrong')
  stops(doctor.check_products({'a': (0.0, float('nan'))}), 'a multiplies wrong')
  stops(
    doctor.check_products({}, {'gpu:0': 'RESOURCE_EXHAUSTED'}), 'gpu:0 (RESOURCE_EXHAUSTED): no'
  )


def test_memory_and_cpus():
  good(doctor.check_memory(64 * GIB, 32 * GIB, None))
  warns(doctor.check_memory(64 * GIB, 2 * GIB, None), 'Less than 4 GiB')
  limited = doctor.check_memory(64 * GIB, 32 * GIB, 3 * GIB)
  warns(limited, 'Less than 4 GiB')
  assert 'a limit of 3.0 GiB on this process' in limited.text
  good(doctor.check_cpus(16, 16, 16))
  good(doctor.check_cpus(2, 2, 16))
  warns(doctor.check_cpus(64, 4, 16), 'may use 4 CPUs only')
  warns(doctor.check_cpus(64, 0.4, 16), '--config.loader_threads=1')


def test_decoding():
  assert good(doctor.check_decoding(300, 580, 2, True)) == '300 frames/s in one thread, 580 in 2'
  good(doctor.check_decoding(300, 300, 1, True))
  warns(doctor.check_decoding(300, 310, 8, True), 'Threads do not help')
  stops(doctor.check_decoding(0, 0, 8, False), 'no H.264 decoder')


def test_disk_and_limits():
  good(doctor.check_disk('runs', 100 * GIB, ''))
  warns(doctor.check_disk('runs', 5 * GIB, ''), 'checkpoint.keep')
  stops(doctor.check_disk('runs', GIB // 2, ''), 'no checkpoint fits')
  stops(doctor.check_disk('runs', 100 * GIB, 'runs cannot be written'), 'choose another --workdir')
  good(doctor.check_open_files(65_536))
  warns(doctor.check_open_files(1024), 'ulimit -n')
  stops(doctor.check_open_files(128), 'ulimit -n')
  good(doctor.check_shared_memory(GIB))
  warns(doctor.check_shared_memory(GIB // 32), '--shm-size')
  warns(doctor.check_shared_memory(None), '--shm-size')
  good(doctor.check_cache('cache', ''))
  warns(doctor.check_cache('cache', 'no rights'), 'JAX_COMPILATION_CACHE_DIR')
  good(doctor.check_clock(-59.0))
  warns(doctor.check_clock(3600.0), 'NTP')


def test_report():
  findings = [Finding('a', '1'), Finding('bb', '2', 'slow'), Finding('c', '3', 'broken', True)]
  assert [doctor.line(finding) for finding in findings] == [
    'a         1',
    'bb        2',
    'c         3',
  ]
  assert doctor.problems(findings) == 'STOPS A RUN  c: broken\nwarning  bb: slow'
  assert doctor.stops(findings)
  assert doctor.problems(findings[:1]) == 'No problems.'
  assert not doctor.stops(findings[:2])


def test_packages_that_do_not_fit(tmp_path, monkeypatch):
  """Nothing is imported of them before each was tried; then nothing else is looked at."""
  (tmp_path / 'broken_package.py').write_text("raise RuntimeError('too new.\\nMore.')")
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.setattr(doctor_packages, '_MODULES', ('json', 'broken_package', 'no_such_package'))
  assert doctor_packages.import_error('json') == ''
  found = list(tool.examine(str(tmp_path), '', ''))
  assert [finding.name for finding in found] == ['code', 'python', 'versions', 'imports']
  stops(found[-1], 'broken_package cannot be imported (too new):')
  monkeypatch.setattr(doctor_packages, '_PACKAGES', ('no-such-package',))
  found = list(tool.examine(str(tmp_path), '', ''))
  assert [finding.name for finding in found] == ['code', 'python', 'versions']
  stops(found[-1], 'no-such-package missing')


def test_pinned_versions():
  lock = 'jax==0.10.2\nav==18.1.0 ; sys_platform == "linux"\n# x==1\n'
  assert doctor_packages.pinned(lock) == {'jax': '0.10.2', 'av': '18.1.0'}
  assert doctor_packages.installed('no-such-package') is None


def test_this_device_multiplies_right():
  float32, bfloat16 = doctor_facts.errors_of(jax.devices()[0])
  assert float32 < 1e-5
  assert bfloat16 < 1e-2
  assert doctor_facts.accelerators() == (['cpu cpu x 1'], '')


def test_control_groups(tmp_path):
  """Of versions 2 and 1: the process's own group, and those above it."""
  job = tmp_path / 'system.slice' / 'job_1' / 'step_0'
  job.mkdir(parents=True)
  (tmp_path / 'membership').write_text('4:memory:/batch\n0::/system.slice/job_1/step_0\n')
  (tmp_path / 'memory' / 'batch').mkdir(parents=True)
  groups = doctor_facts.control_groups(tmp_path / 'membership', tmp_path)
  assert doctor_facts.memory_limit(groups) is None
  (job / 'memory.max').write_text('max\n')
  assert doctor_facts.memory_limit(groups) is None
  (job.parent / 'memory.max').write_text('2097152\n')
  assert doctor_facts.memory_limit(groups) == 2**21
  limit = tmp_path / 'memory' / 'batch' / 'memory.limit_in_bytes'
  limit.write_text('9223372036854771712\n')
  assert doctor_facts.memory_limit(groups) == 2**21
  limit.write_text('1048576\n')
  assert doctor_facts.memory_limit(groups) == 2**20
  free = doctor_facts.usable_cpus([])
  (job.parent / 'cpu.max').write_text('50000 100000\n')
  assert doctor_facts.usable_cpus(groups) == 0.5
  (job.parent / 'cpu.max').write_text('max 100000\n')
  assert doctor_facts.usable_cpus(groups) == free
  assert doctor_facts.control_groups(tmp_path / 'no', tmp_path) == [tmp_path, tmp_path / 'memory']


def test_cached_files_count_as_free_memory(tmp_path):
  file = tmp_path / 'meminfo'
  file.write_text('MemTotal: 4096 kB\nMemFree: 10 kB\nMemAvailable: 2048 kB\nHugePages_Total: 0\n')
  assert doctor_facts.host_memory(file) == (2**22, 2**21)
  total, available = doctor_facts.host_memory(tmp_path / 'no')
  assert total == available > 2**20


def test_a_device_without_memory(monkeypatch):
  def full(_):
    raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory.\nMore.')

  monkeypatch.setattr(doctor_facts, 'errors_of', full)
  stops(doctor_facts.products(), 'RESOURCE_EXHAUSTED: Out of memory): no product')


def test_folders(tmp_path):
  assert doctor_facts.existing(tmp_path / 'a' / 'b') == tmp_path
  assert doctor_facts.write_error(tmp_path) == ''
  assert list(tmp_path.iterdir()) == []
  assert abs(doctor_facts.clock_difference(tmp_path)) < 60
  assert 'cannot be written' in doctor_facts.write_error(tmp_path / 'no')


def test_named_video_and_data(tmp_path, demo_data_dir):
  write_video(tmp_path / 'a.mp4', 8, rate=10)
  assert ': 8 frames, ' in good(doctor_facts.named_video(str(tmp_path / 'a.mp4')))
  stops(doctor_facts.named_video(str(tmp_path / 'no.mp4')), 'no.mp4')
  assert good(doctor_facts.named_data(str(demo_data_dir))).endswith(': train 32, test 16')
  stops(doctor_facts.named_data(str(tmp_path / 'no')), 'no')


def test_a_missing_shard(tmp_path, demo_data_dir):
  (tmp_path / 'manifest.json').write_text((demo_data_dir / 'manifest.json').read_text())
  stops(doctor_facts.named_data(str(tmp_path)), 'tfrecord')


def test_pictures_are_frames():
  frame = next(doctor_facts.pictures())
  assert (frame.shape, frame.dtype) == ((256, 320, 3), np.uint8)


@pytest.fixture
def quick(monkeypatch):
  monkeypatch.setattr(doctor_facts, '_SECONDS', 0.01)


def test_the_whole_examination(quick, tmp_path, monkeypatch, capsys):
  """Of this machine, through the command, as JSON."""
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  monkeypatch.setenv('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  flags.FLAGS.mark_as_parsed()
  given = {'workdir': str(tmp_path / 'runs'), 'video': 'no.mp4', 'data': '', 'json': True}
  with flagsaver.flagsaver(**given), pytest.raises(SystemExit) as exit_:
    tool.main()
  text, code = capsys.readouterr().out, exit_.value.code
  findings = {found['name']: found for found in json.loads(text)}
  assert code == 1
  assert findings['--video']['stops']
  assert findings['cache']['text'].startswith(str(tmp_path))
  assert {
    'code',
    'python',
    'versions',
    'imports',
    'devices',
    'matmul',
    'memory',
    'cpus',
    'video',
    'images',
  } < set(findings)
  assert list(tmp_path.iterdir()) == []
