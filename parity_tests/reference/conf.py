"""Sphinx's configuration: the API reference of both twins, from their docstrings.

    python -m sphinx -W -E parity_tests/reference build/reference

Which names there are is asked of the rooms, `__all__` of each, and kept nowhere else.
"""

import importlib
import inspect
import pkgutil
import re
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # tests are collected where Sphinx is not installed
    from sphinx.application import Sphinx

project = "l1twins"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
default_role = "code"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
html_theme = "alabaster"
html_theme_options = {"page_width": "auto", "body_max_width": "50em"}
html_show_copyright = False


def own_classes(lib: ModuleType) -> dict[type, str]:
    """The public classes of a twin, with the modules that define them."""
    modules = [m for name, m in sys.modules.items() if name.startswith(lib.__name__)]
    sources = {module.__name__: inspect.getsource(module) for module in modules}
    return {
        public: name
        for public in map(vars(lib).get, lib.__all__)
        if isinstance(public, type)
        for name, source in sources.items()
        if re.search(rf"^class {public.__name__}\b", source, re.M)
    }


def page(lib: ModuleType) -> str:
    """A twin's page: a section for each room, with an entry for each of its names."""
    lines = [lib.__name__, "=" * 80, "", inspect.getdoc(lib), ""]
    for info in pkgutil.iter_modules(lib.__path__, f"{lib.__name__}."):
        room = importlib.import_module(info.name)
        names = getattr(room, "__all__", [])
        if names:
            lines += [info.name, "-" * 80, "", inspect.getdoc(room), ""]
        for name in names:
            is_class = isinstance(getattr(lib, name), type)
            kind = "autoclass" if is_class else "autofunction"
            lines += [f".. {kind}:: {lib.__name__}.{name}", ""]
    return "\n".join(lines)


def write_page(app: "Sphinx", name: str, source: list[str]) -> None:
    """Fill the page that bears a twin's name."""
    if name == "index":
        return
    lib = importlib.import_module(name)
    # They bear the package's name, for pickles. Their sources lie elsewhere.
    for public, module in own_classes(lib).items():
        public.__module__ = module
    source[0] = page(lib)


def keep_colons(
    app: "Sphinx", what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Start the docstrings of fields with a comment, which napoleon takes for no type.

    Of a first line with a colon it would take what is before the colon for the type.
    """
    if what in ("attribute", "property"):
        lines[:0] = ["..", ""]


def name_array_like(
    app: "Sphinx",
    what: str,
    name: str,
    obj: object,
    options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Write `ArrayLike` in signatures, in the place of the seven types that it is."""
    from jax.typing import ArrayLike
    from sphinx.util.typing import stringify_annotation

    union = stringify_annotation(ArrayLike, "smart")
    return (
        signature and signature.replace(union, "ArrayLike"),
        returns and returns.replace(union, "ArrayLike"),
    )


def setup(app: "Sphinx") -> None:
    """What Sphinx calls."""
    app.connect("source-read", write_page)
    app.connect("autodoc-process-docstring", keep_colons, priority=100)
    app.connect("autodoc-process-signature", name_array_like)
