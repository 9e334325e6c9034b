"""ComfyUI loads this file where the repository lies in its custom_nodes (docs/comfyui.md); nothing else does."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("spectral_pd") is None:  # not installed by pip: from here, in plain torch
    sys.path.append(str(Path(__file__).parent))

from spectral_pd.comfyui.nodes import comfy_entrypoint as comfy_entrypoint
