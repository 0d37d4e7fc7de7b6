"""PyTorch's files, with a stand-in for torch: it is not among the dependencies."""

import argparse
import contextlib
import pickle
import sys
import types
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from errors import CheckpointMismatchError
from train_lib.weight_files import read_arrays


class Tensor:
  """What is asked of torch's tensors."""

  def __init__(self, array, dtype='float32', requires_grad=False):
    self.array, self.dtype, self.requires_grad = array, dtype, requires_grad

  def float(self):
    return Tensor(self.array)

  def detach(self):
    return Tensor(self.array, self.dtype)

  def numpy(self):
    if self.requires_grad:
      raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
    if self.dtype == 'bfloat16':
      raise TypeError('Got unsupported ScalarType BFloat16')
    return self.array


def install(monkeypatch, loaded):
  """Makes `import torch` give a module that loads this, and notes how it was asked."""
  asked = {}

  def load(file, **settings):
    asked.update(settings, data=file.read())
    if isinstance(loaded, Exception):
      raise loaded
    return loaded

  def safe_globals(classes):
    asked['classes'] = classes
    return contextlib.nullcontext()

  torch = types.SimpleNamespace(
    load=load,
    is_tensor=lambda x: isinstance(x, Tensor),
    bfloat16='bfloat16',
    serialization=types.SimpleNamespace(safe_globals=safe_globals),
  )
  monkeypatch.setitem(sys.modules, 'torch', torch)
  return asked


@pytest.fixture
def path(tmp_path):
  (tmp_path / 'vit.pth').write_bytes(b'anything')
  return str(tmp_path / 'vit.pth')


def test_tensors_are_read_and_nothing_else(monkeypatch, path):
  state = {
    'a': Tensor(np.arange(3.0), requires_grad=True),
    'b': Tensor(np.ones(2), dtype='bfloat16'),
    'c': Tensor(np.arange(2)),
  }
  asked = install(monkeypatch, {'model': state, 'epoch': 3, 'args': None, 'lr': [0.1]})
  arrays = read_arrays(path)
  assert {k: v.tolist() for k, v in arrays.items()} == {
    'model/a': [0, 1, 2],
    'model/b': [1, 1],
    'model/c': [0, 1],
  }
  assert asked == {
    'map_location': 'cpu',
    'weights_only': True,
    'data': b'anything',
    'classes': [argparse.Namespace],
  }


@pytest.mark.parametrize('suffix', ['.pt', '.pth', '.pyth', '.bin'])
def test_pytorchs_suffixes(monkeypatch, tmp_path, suffix):
  install(monkeypatch, {'model_state': {'a': Tensor(np.arange(3.0))}})
  (tmp_path / f'released{suffix}').write_bytes(b'anything')
  assert read_arrays(str(tmp_path / f'released{suffix}'))['model_state/a'].tolist() == [0, 1, 2]


@pytest.mark.parametrize('given', ['init_from.path', '--checkpoint'])
def test_messages_name_what_was_given(monkeypatch, path, given):
  with pytest.raises(CheckpointMismatchError, match=f"^{given}='nowhere.npz': there is no"):
    read_arrays('nowhere.npz', given)
  install(monkeypatch, EOFError('Ran out of input'))
  with pytest.raises(CheckpointMismatchError, match=f"^{given}='{path}' cannot be read with"):
    read_arrays(path, given)


def test_without_torch_the_message_says_what_to_do(monkeypatch, path):
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(CheckpointMismatchError) as caught:
    read_arrays(path)
  assert "pip install 'tubelet[torch]'" in str(caught.value)
  assert f"torch.load({path!r}, map_location='cpu', weights_only=True)" in str(caught.value)
  assert "'weights.safetensors')" in str(caught.value)


@pytest.mark.parametrize(
  ('error', 'reason'),
  [
    (
      pickle.UnpicklingError(
        'Failed. \x1b[1mAdvice\x1b[0m\n\terror: Unsupported global: GLOBAL a.B was.'
      ),
      'Unsupported global: GLOBAL a.B was',
    ),
    (EOFError('Ran out of input'), 'Ran out of input'),
    (RuntimeError('failed finding central directory. This is internal.'), 'central directory'),
  ],
)
def test_more_than_tensors_or_less(monkeypatch, path, error, reason):
  install(monkeypatch, error)
  with pytest.raises(CheckpointMismatchError) as caught:
    read_arrays(path)
  assert f'{reason}. It is cut short, or holds more than tensors' in str(caught.value)
  assert f"torch.load({path!r}, map_location='cpu', weights_only=False)" in str(caught.value)


def test_a_whole_model_is_no_state_dict(monkeypatch, path):
  install(monkeypatch, Tensor(np.ones(1)))
  with pytest.raises(CheckpointMismatchError, match='holds a Tensor; expected a state dict'):
    read_arrays(path)


def test_a_torchscript_archive_is_not_run(monkeypatch, tmp_path):
  path = tmp_path / 'ViT-B-16.pt'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('ViT-B-16/code/__torch__.py', '')
    archive.writestr('ViT-B-16/constants.pkl', b'')
  monkeypatch.setitem(sys.modules, 'torch', None)  # Said before torch is asked for.
  with pytest.raises(CheckpointMismatchError) as caught:
    read_arrays(str(path))
  assert 'is a TorchScript archive' in str(caught.value)
  assert f'torch.jit.load({str(path)!r}' in str(caught.value)


def test_safetensors_of_every_type(tmp_path):
  header = (
    b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},'
    b'"b":{"dtype":"BOOL","shape":[],"data_offsets":[4,5]}}'
  )
  data = np.asarray([1.5, -2], jnp.bfloat16).tobytes() + b'\x01'
  (tmp_path / 'x.safetensors').write_bytes(len(header).to_bytes(8, 'little') + header + data)
  arrays = read_arrays(str(tmp_path / 'x.safetensors'))
  assert arrays['a'].astype(np.float32).tolist() == [1.5, -2]
  assert arrays['b'].shape == () and bool(arrays['b'])


@pytest.mark.parametrize('content', [b'', b'\x93NUMPY', b'PK\x03\x04'])
def test_an_npz_that_is_no_archive(content, tmp_path):
  (tmp_path / 'a.npz').write_bytes(content)
  with pytest.raises(CheckpointMismatchError, match=r'cannot be read \(it is no archive\)'):
    read_arrays(str(tmp_path / 'a.npz'))


def test_a_damaged_compressed_npz(tmp_path):
  np.savez_compressed(tmp_path / 'a.npz', a=np.arange(1000))
  data = bytearray((tmp_path / 'a.npz').read_bytes())
  data[60:200] = bytes(140)
  (tmp_path / 'a.npz').write_bytes(data)
  with pytest.raises(CheckpointMismatchError, match='cannot be read'):
    read_arrays(str(tmp_path / 'a.npz'))


def test_a_file_without_rights(tmp_path, monkeypatch):
  def refuse(_):
    raise PermissionError(13, 'Permission denied')

  (tmp_path / 'a.npz').touch()
  monkeypatch.setattr(type(epath.Path(tmp_path)), 'read_bytes', refuse)
  with pytest.raises(CheckpointMismatchError, match=r'cannot be read \(Permission denied\)'):
    read_arrays(str(tmp_path / 'a.npz'))
