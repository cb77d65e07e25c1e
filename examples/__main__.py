"""Lists the examples, or runs one of them.

    python -m examples
    python -m examples geometry --framework torch

What follows the name goes to the example; `--help` tells what it takes.
"""

import ast
import difflib
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def examples() -> dict[str, Path]:
    """Find the scripts, by name, those of subfolders after the others."""
    found = sorted(FOLDER.rglob("*.py"), key=lambda p: (len(p.parts), p))
    return {
        path.relative_to(FOLDER).with_suffix("").as_posix(): path
        for path in found
        if path != Path(__file__) and '__name__ == "__main__"' in path.read_text()
    }


def summary(path: Path) -> str:
    """Return the first line of a script's docstring."""
    return ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]


def main() -> int:
    """Return the exit code of the example that was run."""
    scripts = examples()
    if len(sys.argv) == 1 or sys.argv[1] in ("-h", "--help"):
        width = max(map(len, scripts))
        for name, path in scripts.items():
            print(f"{name:{width}}  {summary(path)}")
        print("\npython -m examples NAME [OPTIONS] runs one; NAME --help explains it")
        return 0
    name, *options = sys.argv[1:]
    if name not in scripts:
        close = difflib.get_close_matches(name, scripts) or list(scripts)
        print(f"no example is called {name!r}; there is {', '.join(close)}.")
        return 2
    # A process of its own, since some examples start further ones from their file.
    return subprocess.run([sys.executable, scripts[name], *options]).returncode


if __name__ == "__main__":
    sys.exit(main())
