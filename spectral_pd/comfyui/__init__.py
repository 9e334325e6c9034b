"""Progressive sampling inside ComfyUI: three nodes, installed by ``spectral-pd comfyui install PATH`` (docs/comfyui.md).

:mod:`~spectral_pd.comfyui.sampler` wraps a sampler and the guider it calls, `nodes` holds the nodes,
:mod:`~spectral_pd.comfyui.command` installs them. Only `nodes` imports ComfyUI, and none of them diffusers.
"""
