"""The networks: `from airank_fast.models import resnet`.

Their files live in models/ at the top of a checkout, and there this module stands for them, as a package whose path
is that folder. A wheel carries the folder as the package airank_fast/models/, which Python prefers to this file.
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[1] / "models")]
