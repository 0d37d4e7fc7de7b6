"""Judges a machine by facts about it: what would stop a run, what would slow it, and what to do.

Every check is a function of plain facts, which `doctor_facts` gathers.
"""

import dataclasses
from collections.abc import Mapping, Sequence

_GIB = 2**30
# Below these a run is likely to end, or to wait, for want of them.
_LEAST_MEMORY = 4 * _GIB
_LEAST_DISK = 1 * _GIB
_MODEST_DISK = 20 * _GIB
_LEAST_FILES = 256
_MODEST_FILES = 4096
_LEAST_SHM = _GIB // 16
_FLOAT32_ERROR = (
  1e-2  # TF32 and a TPU's default pass; a matmul that is wrong is off by more than 1.
)
_BFLOAT16_ERROR = 5e-2
_CLOCK_SECONDS = 60.0
_WIDTH = 8  # Of the longest name.


@dataclasses.dataclass(frozen=True)
class Finding:
  """What a check found.

  Attributes:
    name: of the check.
    text: the facts, for people.
    advice: what to do about a problem, '': there is none.
    stops: whether the problem would stop a run.
  """

  name: str
  text: str
  advice: str = ''
  stops: bool = False


def check_versions(found: Mapping[str, str | None], pinned: Mapping[str, str]) -> Finding:
  """Compares versions.

  Args:
    found: package -> installed version, None: not installed.
    pinned: package -> version of `requirements.lock`.
  """
  text = ', '.join(f'{name} {version or "missing"}' for name, version in found.items())
  missing = [name for name, version in found.items() if version is None]
  if missing:
    return Finding(
      'versions', text, f'{", ".join(missing)} missing: run `make install`.', stops=True
    )
  other = [
    f'{name} {version}, tested is {pinned[name]}'
    for name, version in found.items()
    if name in pinned and version != pinned[name]
  ]
  advice = f'{"; ".join(other)}: `make install` takes the tested versions.' if other else ''
  return Finding('versions', text, advice)


def check_imports(errors: Mapping[str, str]) -> Finding:
  """Whether packages that are installed can be used.

  Args:
    errors: package -> why it cannot be imported, '': it can; those that others need come first.
  """
  broken = [name for name, error in errors.items() if error]
  if not broken:
    return Finding('imports', f'{len(errors)} packages')
  text = f'{len(errors) - len(broken)} of {len(errors)} packages; not {", ".join(broken)}'
  advice = (
    f'{broken[0]} cannot be imported ({errors[broken[0]]}): `make install` takes versions that fit '
    'each other.'
  )
  return Finding('imports', text, advice, stops=True)


def check_python(version: tuple[int, int]) -> Finding:
  """3.11 or newer."""
  text = '.'.join(map(str, version))
  if version >= (3, 11):
    return Finding('python', text)
  return Finding(
    'python', text, 'Python 3.11 or newer is needed: make the environment with it.', True
  )


def check_platform(
  devices: Sequence[str],
  error: str,
  gpu: bool,
  tpu: bool,
  libtpu: bool,
  environ: Mapping[str, str],
) -> Finding:
  """Whether JAX uses the accelerators that are there.

  Args:
    devices: kinds of JAX's devices with their memory, for people; the first word is the platform.
    error: why JAX has none; '': it has.
    gpu, tpu: whether the machine shows an NVIDIA GPU, or a TPU.
    libtpu: whether it is installed.
    environ: environment variables.
  """
  platform = devices[0].split()[0] if devices else ''
  asked = environ.get('JAX_PLATFORMS', '')
  visible = environ.get('CUDA_VISIBLE_DEVICES')
  settings = [f'{k}={environ[k]}' for k in ('JAX_PLATFORMS', 'XLA_FLAGS') if environ.get(k)]
  text = '; '.join([', '.join(devices) or 'no device', *settings])
  if error:
    unset = f' Unset JAX_PLATFORMS, which is {asked!r}.' if asked else ''
    held = ' Another program may hold the device: look for one, or wait.'
    return Finding('devices', text, f'JAX does not come up: {error}.{unset or held}', stops=True)
  if platform != 'cpu':
    return Finding('devices', text)
  if gpu and visible is not None and visible in ('', '-1'):
    return Finding('devices', text, _idle('GPU', f'unset CUDA_VISIBLE_DEVICES, {visible!r}'), True)
  if (gpu or tpu) and asked:
    return Finding('devices', text, _idle('GPU' if gpu else 'TPU', 'unset JAX_PLATFORMS'))
  if tpu and not libtpu:
    return Finding('devices', text, _idle('TPU', f'{_PIP} "jax[tpu]==0.10.2"`'), True)
  if tpu:
    return Finding('devices', text, _idle('TPU', 'another program may hold it'), True)
  if gpu:
    return Finding('devices', text, _idle('GPU', f'{_PIP} "jax[cuda12]==0.10.2"`'), True)
  return Finding('devices', text)


_PIP = 'run `.venv/bin/pip install'


def _idle(kind: str, remedy: str) -> str:
  return f'This machine has a {kind}, but JAX is on the CPU: {remedy}.'


def check_products(
  errors: Mapping[str, tuple[float, float]], failures: Mapping[str, str] | None = None
) -> Finding:
  """Whether devices multiply right.

  Args:
    errors: device -> largest relative errors of a product in float32 and in bfloat16.
    failures: device -> why it gave no product at all.
  """
  text = ', '.join(f'{name} {a:.0e} and {b:.0e}' for name, (a, b) in errors.items())
  wrong = [
    name
    for name, (a, b) in errors.items()
    if not (a <= _FLOAT32_ERROR and b <= _BFLOAT16_ERROR)  # NaN, too.
  ]
  text = f'errors in float32 and bfloat16: {text or "none measured"}'
  if failures:
    failed = '; '.join(f'{name} ({error})' for name, error in failures.items())
    advice = f'{failed}: no product. If its memory is full, another program uses it: `nvidia-smi`.'
    return Finding('matmul', text, advice, stops=True)
  if not wrong:
    return Finding('matmul', text)
  advice = f'{", ".join(wrong)} multiplies wrong: do not train on it; replace driver or device.'
  return Finding('matmul', text, advice, stops=True)


def check_memory(total: int, available: int, limit: int | None) -> Finding:
  """The host's memory in bytes; `limit`: the control group's, None without one."""
  usable = min(available, limit) if limit else available
  text = f'{_gib(available)} free of {_gib(total)}'
  text += f', a limit of {_gib(limit)} on this process' if limit and limit < total else ''
  if usable >= _LEAST_MEMORY:
    return Finding('memory', text)
  advice = 'Less than 4 GiB: lower batch_size, loader_threads and loader_processes, or free memory.'
  return Finding('memory', text, advice)


def check_cpus(count: int, usable: float, loader_threads: int) -> Finding:
  """CPUs of the machine, those that this process may use, and the threads that configs ask for."""
  text = f'{usable:g} of {count} usable; configs load with {loader_threads} threads'
  if usable < min(count, loader_threads):
    advice = f'This process may use {usable:g} CPUs only: ask the scheduler for more, or set '
    return Finding('cpus', text, f'{advice}--config.loader_threads={max(round(usable), 1)}.')
  return Finding('cpus', text)


def check_decoding(one: float, every: float, threads: int, h264: bool) -> Finding:
  """Frames of 320 x 256 H.264 a second, by one thread and by as many as there are CPUs."""
  if not h264:
    advice = (
      'PyAV has no H.264 decoder: install the wheel, `.venv/bin/pip install --force-reinstall av`.'
    )
    return Finding('video', 'no H.264', advice, stops=True)
  text = f'{one:,.0f} frames/s in one thread, {every:,.0f} in {threads}'
  if threads > 1 and every < 1.2 * one:
    return Finding(
      'video', text, 'Threads do not help: other programs use the CPUs; look at `top`.'
    )
  return Finding('video', text)


def check_disk(where: str, free: int, error: str) -> Finding:
  """The folder of runs: bytes free, and why a file cannot be written and renamed there ('': it can)."""
  text = f'{_gib(free)} free in {where}'
  if error:
    return Finding(
      'workdir', text, f'{error}: choose another --workdir, or its rights.', stops=True
    )
  if free < _LEAST_DISK:
    return Finding('workdir', text, 'Less than 1 GiB: no checkpoint fits; free space.', stops=True)
  if free < _MODEST_DISK:
    return Finding(
      'workdir', text, 'Less than 20 GiB: large models fill it; lower checkpoint.keep.'
    )
  return Finding('workdir', text)


def check_open_files(limit: int) -> Finding:
  """How many files a process may hold open; shards are open all at once."""
  text = f'{limit:,} open files'
  if limit >= _MODEST_FILES:
    return Finding('files', text)
  advice = 'Datasets of many shards need more: `ulimit -n 65536` in the shell that starts the run.'
  return Finding('files', text, advice, stops=limit < _LEAST_FILES)


def check_shared_memory(free: int | None) -> Finding:
  """Bytes free in /dev/shm, through which loader processes hand over batches; None: there is none."""
  text = 'no /dev/shm' if free is None else f'{_gib(free)} free in /dev/shm'
  if free is not None and free >= _LEAST_SHM:
    return Finding('shm', text)
  advice = 'loader_processes need it: start the container with --shm-size=8g, or keep them 0.'
  return Finding('shm', text, advice)


def check_cache(where: str, error: str) -> Finding:
  """The folder of compiled programs: why it cannot be written ('': it can)."""
  if not error:
    return Finding('cache', f'{where} can be written')
  return Finding(
    'cache', where, f'{error}: each start compiles anew; set JAX_COMPILATION_CACHE_DIR.'
  )


def check_clock(seconds: float) -> Finding:
  """How far the disk's clock is ahead of this machine's."""
  text = f'{seconds:+.1f} s between this machine and its disk'
  if abs(seconds) <= _CLOCK_SECONDS:
    return Finding('clock', text)
  return Finding(
    'clock', text, 'Clocks differ: turn on NTP; certificates and file times depend on it.'
  )


def check_readable(name: str, text: str, error: str) -> Finding:
  """A dataset or a video that was named: `text` says what it holds, `error` why it cannot be read."""
  return Finding(name, text, error, stops=bool(error))


def line(finding: Finding) -> str:
  """A finding's name and facts; names are padded alike, so that lines can be shown one by one."""
  return f'{finding.name:<{_WIDTH}}  {finding.text}'


def problems(findings: Sequence[Finding]) -> str:
  """The problems with their advice, those that stop a run first."""
  found = sorted((f for f in findings if f.advice), key=lambda f: not f.stops)
  kinds = {True: 'STOPS A RUN', False: 'warning'}
  lines = [f'{kinds[f.stops]}  {f.name}: {f.advice}' for f in found]
  return '\n'.join(lines) or 'No problems.'


def stops(findings: Sequence[Finding]) -> bool:
  """Whether something would stop a run."""
  return any(finding.stops for finding in findings)


def _gib(size: int) -> str:
  return f'{size / _GIB:,.1f} GiB'
