"""Spectral Progressive Diffusion: run the early denoising steps on small grids, exactly.

The natural way through: latents -> :func:`fit_spectrum` -> :func:`make_plan` -> :func:`sample`. Conventions: time runs from
1 (noise) to 0 (data); spectral axes are the last ones; frequency is in cycles per shorter side; transforms are
orthonormal; power refers to the full grid.
"""
