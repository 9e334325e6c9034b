"""Progressive sampling inside ComfyUI: three nodes, installed by ``spectral-pd comfyui install PATH`` (docs/comfyui.md).

:mod:`~spectral_pd.adapters.comfyui.sampler` wraps a sampler and the guider it calls, :mod:`~spectral_pd.adapters.comfyui.nodes` are
the nodes, :mod:`~spectral_pd.adapters.comfyui.command` installs them. ComfyUI is imported by the nodes only, and diffusers by none.
"""
