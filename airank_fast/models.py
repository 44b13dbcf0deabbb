"""The networks: `from airank_fast.models import resnet`.

Their files live in models/ at the top of a checkout, a folder without __init__.py; a wheel carries it as
airank_fast/models/. This module stands for it in both cases, as a package whose path is that folder.
"""

from pathlib import Path

_here = Path(__file__).resolve().parent
_in_wheel, _in_checkout = _here / "models", _here.parent / "models"
__path__ = [str(_in_wheel if _in_wheel.is_dir() else _in_checkout)]
