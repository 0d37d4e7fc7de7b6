"""Who may import whom: walks every module's imports, those inside functions too."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {
  'benchmarks', 'configs', 'datasets', 'errors', 'main', 'models', 'projects', 'sweeps', 'tools',
  'train_lib',
}  # fmt: skip
ALLOWED = {
  'configs': {'configs'},
  'models': {'models', 'errors'},
  'datasets': {'datasets', 'errors'},
  'train_lib': {'train_lib', 'models', 'datasets', 'errors'},
  'projects': {'projects', 'models', 'datasets', 'train_lib', 'errors'},
  'main.py': OURS,
  'tools': OURS,
  'benchmarks': OURS,
  'sweeps': OURS - {'main', 'tools'},
  'errors.py': set(),
}
FORBIDDEN = {
  'models': {'tensorflow', 'grain', 'cv2', 'orbax', 'clu', 'optax', 'ml_collections'},
  'datasets': {'jax', 'flax', 'optax', 'orbax', 'clu', 'ml_collections'},
  'configs': {'jax', 'flax', 'tensorflow', 'numpy'},
  'train_lib': {'tensorflow', 'ml_collections'},
}
# The only places TensorFlow may be named, and only inside functions.
TENSORFLOW = {'datasets/records.py', 'tools/saved_model.py'}


def _imports(path: Path) -> list[tuple[str, bool]]:
  """(full module name, whether at the top level) of every import of a file."""
  tree = ast.parse(path.read_text())
  top = {id(node) for node in tree.body}
  found = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found += [(alias.name, id(node) in top) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      found.append((node.module or '', id(node) in top))
  return found


def _modules() -> list[Path]:
  files = [p for name in ALLOWED for p in [ROOT / name] if p.suffix == '.py']
  for folder in ALLOWED:
    files += (ROOT / folder).rglob('*.py')
  return sorted({p for p in files if p.is_file()})


@pytest.mark.parametrize('path', _modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_the_right_way(path: Path):
  relative = path.relative_to(ROOT)
  package = relative.parts[0]
  for name, at_top in _imports(path):
    root = name.split('.')[0]
    if root in OURS:
      assert root in ALLOWED[package], f'{relative} imports {name}'
    assert root not in FORBIDDEN.get(package, set()), f'{relative} imports {name}'
    if root == 'tensorflow':
      assert str(relative) in TENSORFLOW, f'{relative} imports tensorflow'
      assert not at_top, f'{relative} imports tensorflow at its top'
    if package == 'projects' and root == 'projects':
      assert name.split('.')[1] == relative.parts[1], f'{relative} imports another project: {name}'


def test_the_walk_sees_the_project():
  names = {str(p.relative_to(ROOT)) for p in _modules()}
  assert {'main.py', 'errors.py', 'train_lib/loop.py', 'models/vivit.py'} <= names


def test_folders_of_the_project_are_all_ruled():
  packages = {p.parent.name for p in ROOT.glob('*/__init__.py')}
  assert packages <= set(ALLOWED)
