"""Python imports this by itself when it starts, if the folder is in PYTHONPATH."""

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "renaming", Path(__file__).parents[1] / "__init__.py"
)
assert _spec is not None
assert _spec.loader is not None
_renaming = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_renaming)
_renaming.from_environment()
