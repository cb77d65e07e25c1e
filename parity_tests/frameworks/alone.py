"""Runs code as on a machine where some packages are not installed."""

import subprocess
import sys
from collections.abc import Collection

BLOCK = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {packages}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""


def run_without(
    packages: Collection[str], code: str
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own that cannot import the packages."""
    script = BLOCK.format(packages=set(packages)) + code
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
