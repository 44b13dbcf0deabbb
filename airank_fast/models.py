"""The networks: `from airank_fast.models import resnet`.

Their files are in models/ at the top of a checkout, where this module is a package whose path is that folder. A wheel
has the folder as the package airank_fast/models/, which Python prefers to this file.
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[1] / "models")]
