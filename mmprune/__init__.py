"""mmprune: prunes a trained vision model in several ways, measures the sparse models, and chooses one for a budget.

From Python: prune(model, train=..., val=..., test=...), masks(model), open_family(folder), export(model, inputs).
The command line is `mmprune --help`. Heavy packages are imported only when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporters import ExportError
    from exporters.int8.settings import Int8
    from mmprune.any_model import Exported, export
    from mmprune.boards import Measuring
    from mmprune.data.image_files import DataError
    from mmprune.folder import FolderError
    from mmprune.from_python import masks, open_family, prune
    from mmprune.handles import Chosen, Family, FamilyError, Model
    from mmprune.models.timm_models import ModelError
    from mmprune.records import Preprocess
    from mmprune.results.points import PointsError
    from mmprune.workflow import BuildOptions, build
    from targets.answers import MeasureError

__version__ = "0.1.0"
__all__ = ["BuildOptions", "Chosen", "DataError", "ExportError", "Exported", "Family", "FamilyError", "FolderError",
           "Int8", "MeasureError", "Measuring", "Model", "ModelError", "PointsError", "Preprocess", "build", "export",
           "masks", "open_family", "prune"]

_HOMES = {"prune": "mmprune.from_python", "masks": "mmprune.from_python", "open_family": "mmprune.from_python",
          "build": "mmprune.workflow", "BuildOptions": "mmprune.workflow", "Family": "mmprune.handles",
          "FamilyError": "mmprune.handles", "Model": "mmprune.handles", "Chosen": "mmprune.handles",
          "Measuring": "mmprune.boards", "Preprocess": "mmprune.records", "Int8": "exporters.int8.settings",
          "DataError": "mmprune.data.image_files", "ExportError": "exporters", "FolderError": "mmprune.folder",
          "MeasureError": "targets.answers", "ModelError": "mmprune.models.timm_models",
          "Exported": "mmprune.any_model", "export": "mmprune.any_model", "PointsError": "mmprune.results.points"}


if not TYPE_CHECKING:  # a name that there is not is an error for type checkers as well
    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'mmprune' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({"__version__", *_HOMES})
