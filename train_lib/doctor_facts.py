"""Gathers the facts about this machine that `train_lib.doctor` judges."""

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import jax
import jax.numpy as jnp
import numpy as np
import simplejpeg
from jax._src import hardware_utils

from datasets import manifest, sources, video, video_writer
from errors import TubeletError
from train_lib import compilation_cache, doctor, libtpu
from train_lib.doctor import Finding
from train_lib.doctor_packages import installed

_LOADER_THREADS = 16  # Of the papers' configs.
_FRAMES, _HEIGHT, _WIDTH = 48, 256, 320
_SIDE = 512  # Of the matrices multiplied.
_SECONDS = 1.0  # That each speed is measured for, at least.


def diagnose(workdir: str, video_file: str = '', data: str = '') -> Iterator[Finding]:
  """Runs all checks but those of packages, in the order they are shown.

  Args:
    workdir: Folder that runs are to be in; need not exist.
    video_file: A video to read; '': none.
    data: A dataset's folder to read; '': none.
  """
  devices, error = accelerators()
  yield doctor.check_platform(
    devices,
    error,
    hardware_utils.has_visible_nvidia_gpu() or Path('/dev/nvidiactl').exists(),
    libtpu.has_tpu(),
    installed('libtpu') is not None,
    os.environ,
  )
  if not error:
    yield products()
  groups = control_groups()
  yield doctor.check_memory(*host_memory(), memory_limit(groups))
  yield doctor.check_cpus(os.cpu_count() or 1, usable_cpus(groups), _LOADER_THREADS)
  yield decoding(max(int(usable_cpus(groups)), 1))
  yield Finding(
    'images', f'{jpeg_speed():,.0f} JPEGs of {_WIDTH} x {_HEIGHT} a second in one thread'
  )
  folder = existing(Path(workdir))
  yield doctor.check_disk(str(folder), shutil.disk_usage(folder).free, write_error(folder))
  yield doctor.check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
  shm = Path('/dev/shm')
  yield doctor.check_shared_memory(shutil.disk_usage(shm).free if shm.is_dir() else None)
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR') or Path(workdir) / compilation_cache.FOLDER
  yield doctor.check_cache(str(cache), write_error(existing(Path(cache))))
  if not write_error(folder):
    yield doctor.check_clock(clock_difference(folder))
  if video_file:
    yield named_video(video_file)
  if data:
    yield named_data(data)


def accelerators() -> tuple[list[str], str]:
  """JAX's devices, `PLATFORM KIND MEMORY` each kind once; and why there are none, or ''."""
  try:
    devices = jax.local_devices()
  except (RuntimeError, AssertionError) as error:
    return [], str(error).split('\n')[0].rstrip('.') or type(error).__name__
  kinds: dict[str, int] = {}
  for device in devices:
    stats = device.memory_stats() or {}
    size = f', {stats["bytes_limit"] / 2**30:.1f} GiB' if 'bytes_limit' in stats else ''
    kind = f'{device.platform} {device.device_kind}{size}'
    kinds[kind] = kinds.get(kind, 0) + 1
  return [f'{kind} x {count}' for kind, count in kinds.items()], ''


def products() -> Finding:
  """Whether each device multiplies right; one that is full, or lost, gives no product."""
  errors: dict[str, tuple[float, float]] = {}
  failures: dict[str, str] = {}
  for device in jax.local_devices():
    try:
      errors[str(device)] = errors_of(device)
    except RuntimeError as error:
      failures[str(device)] = str(error).split('\n')[0].rstrip('.')
  return doctor.check_products(errors, failures)


def errors_of(device: jax.Device) -> tuple[float, float]:
  """Largest errors of a product on a device in float32 and bfloat16, relative to its largest entry."""
  rng = np.random.default_rng(0)
  a, b = (rng.standard_normal((_SIDE, _SIDE)).astype(jnp.bfloat16) for _ in range(2))
  exact = a.astype(np.float64) @ b.astype(np.float64)

  def error(dtype: type) -> float:
    left, right = (jax.device_put(x.astype(dtype), device) for x in (a, b))
    product = np.asarray(jnp.matmul(left, right), np.float64)
    return float(np.abs(product - exact).max() / np.abs(exact).max())

  return error(np.float32), error(jnp.bfloat16)


def host_memory(file: Path = Path('/proc/meminfo')) -> tuple[int, int]:
  """Bytes in all, and available: files that are cached in memory give way, so they count as free."""
  lines = (line.split() for line in _read(file).splitlines())
  sizes = {words[0]: 1024 * int(words[1]) for words in lines if len(words) > 1}
  if {'MemTotal:', 'MemAvailable:'} <= sizes.keys():
    return sizes['MemTotal:'], sizes['MemAvailable:']
  total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  return total, total


def control_groups(
  membership: Path = Path('/proc/self/cgroup'), root: Path = Path('/sys/fs/cgroup')
) -> list[Path]:
  """Folders of this process's control groups and of those above: each may set a limit.

  Args:
    membership: Lines `NUMBER:CONTROLLERS:PATH`; of version 2 one, without controllers.
    root: Where the groups are mounted; of version 1 a folder for each controller.
  """
  folders = [root, root / 'memory']
  for line in _read(membership).splitlines():
    _, controllers, path = line.split(':', 2)
    group = root / controllers / path.lstrip('/')
    folders += [folder for folder in (group, *group.parents) if folder.is_relative_to(root)]
  return list(dict.fromkeys(folders))


def memory_limit(groups: Sequence[Path]) -> int | None:
  """Bytes that the control groups allow, None where they set no limit."""
  texts = [
    _read(folder / name)
    for folder in groups
    for name in ('memory.max', 'memory.limit_in_bytes')  # Versions 2 and 1.
  ]
  limits = [int(text) for text in texts if text.isdigit()]
  return min((limit for limit in limits if limit < 2**60), default=None)  # More means none.


def usable_cpus(groups: Sequence[Path]) -> float:
  """CPUs that this process may run on at once, by its affinity and its control groups."""
  allowed = (
    float(len(os.sched_getaffinity(0))) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
  )
  quotas = [_read(folder / 'cpu.max').split() for folder in groups]
  limits = [int(q[0]) / int(q[1]) for q in quotas if len(q) == 2 and q[0].isdigit()]
  return min([allowed or 1.0, *limits])


def _read(file: Path) -> str:
  try:
    return file.read_text().strip()
  except OSError:
    return ''


def decoding(threads: int) -> Finding:
  """How fast a generated clip is decoded by one thread and by several."""
  if 'h264' not in av.codecs_available:
    return doctor.check_decoding(0.0, 0.0, threads, h264=False)
  with tempfile.TemporaryDirectory() as folder:
    clip = Path(folder) / 'clip.mp4'
    video_writer.write_mp4(clip, pictures(), 25.0)
    one, every = decode_speed(clip, 1), decode_speed(clip, threads)
  return doctor.check_decoding(one, every, threads, h264=True)


def pictures() -> Iterator[np.ndarray]:
  """Frames uint8 [256, 320, 3] of a moving pattern with some noise."""
  rows, columns = np.mgrid[:_HEIGHT, :_WIDTH]
  noise = np.random.default_rng(0).integers(0, 24, (_HEIGHT, _WIDTH, 3))
  for number in range(_FRAMES):
    wave = np.sin((rows + 4 * number) / 17) * np.cos((columns - 3 * number) / 23)
    yield (110 + 90 * wave[..., None] + noise).astype(np.uint8)


def decode_speed(path: Path, threads: int) -> float:
  """Frames a second of all threads together."""
  info = video.probe(path)
  indices = np.arange(info.num_frames)

  def work(_: int) -> int:
    frames, end = 0, time.monotonic() + _SECONDS
    while time.monotonic() < end:
      frames += sum(1 for _ in video.read_frames(path, info, indices))
    return frames

  begin = time.monotonic()
  with ThreadPoolExecutor(threads) as pool:
    frames = sum(pool.map(work, range(threads)))
  return frames / (time.monotonic() - begin)


def jpeg_speed() -> float:
  """JPEGs a second of one thread."""
  data = simplejpeg.encode_jpeg(np.ascontiguousarray(next(pictures())))
  count, begin = 0, time.monotonic()
  while time.monotonic() - begin < _SECONDS / 2:
    simplejpeg.decode_jpeg(data)
    count += 1
  return count / (time.monotonic() - begin)


def existing(folder: Path) -> Path:
  """The folder, or the nearest one above it that exists and can be looked into."""
  return next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))


def write_error(folder: Path) -> str:
  """Why a file cannot be written, renamed over another and removed in a folder; '': it can."""
  try:
    with tempfile.TemporaryDirectory(dir=folder, prefix='.doctor-') as made:
      first, second = Path(made) / 'first', Path(made) / 'second'
      second.write_text('old')
      first.write_text('new')
      first.replace(second)
      return '' if second.read_text() == 'new' else f'{folder} does not rename files'
  except OSError as error:
    return f'{folder} cannot be written ({error.strerror})'


def clock_difference(folder: Path) -> float:
  """Seconds that the clock of a folder's file system is ahead of this machine's."""
  with tempfile.NamedTemporaryFile(dir=folder, prefix='.doctor-') as file:
    file.write(b'x')
    file.flush()
    return os.stat(file.name).st_mtime - time.time()


def named_video(path: str) -> Finding:
  """What `video.probe` and the first frame say of a video."""
  try:
    info = video.probe(path)
    frame = next(iter(video.read_frames(path, info, np.zeros(1, np.int64))))
  except TubeletError as error:
    return doctor.check_readable('--video', path, str(error))
  size = f'{frame.shape[1]} x {frame.shape[0]}'
  return doctor.check_readable(
    '--video', f'{path}: {info.num_frames} frames, {size}, {info.frame_rate:.4g} a second', ''
  )


def named_data(path: str) -> Finding:
  """What is in a dataset; of records all shards are looked for."""
  try:
    if sources.is_there(path) and (Path(path) / manifest.FILE_NAME).exists():
      manifest.load(path)
    found = sources.contents(path)
  except TubeletError as error:
    return doctor.check_readable('--data', path, str(error))
  splits = ', '.join(f'{name} {count:,}' for name, count in found.split_sizes.items())
  return doctor.check_readable('--data', f'{path}: {splits}', '')
