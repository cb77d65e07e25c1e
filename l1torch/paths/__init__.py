"""Many strengths: grids of them, the fits along a grid, and their picture.

It knows a model by its loss alone. Start with `regularisation`.
"""

from l1torch.paths.plotting import plot_path
from l1torch.paths.regularisation import (
    PathPoint,
    RegularisationPath,
    regularisation_path,
)

__all__ = ["PathPoint", "RegularisationPath", "plot_path", "regularisation_path"]
