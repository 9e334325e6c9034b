"""Spectral Progressive Diffusion: run the early denoising steps on small grids, exactly.

The natural way through: latents -> :func:`fit_spectrum` -> :func:`make_plan` -> :func:`sample`; what that way does not need
is in its module. Conventions: time runs from 1 (noise) to 0 (data); spectral axes are the last ones; frequency is in cycles per
shorter side; transforms are orthonormal; power refers to the full grid.
"""

from importlib.metadata import PackageNotFoundError as _PackageNotFoundError
from importlib.metadata import version as _version

from spectral_pd.bases import DCT as DCT
from spectral_pd.bases import FOURIER as FOURIER
from spectral_pd.bases import HAAR as HAAR
from spectral_pd.bases import Basis as Basis
from spectral_pd.editing import edit as edit
from spectral_pd.editing import sdedit as sdedit
from spectral_pd.expansion import expand as expand
from spectral_pd.expansion import expand_aligned as expand_aligned
from spectral_pd.fit import fit_power_law as fit_power_law
from spectral_pd.fit import fit_spectrum as fit_spectrum
from spectral_pd.ideal import FiniteDataset as FiniteDataset
from spectral_pd.ideal import GaussianField as GaussianField
from spectral_pd.ideal import predict as predict
from spectral_pd.meter import SpectrumMeter as SpectrumMeter
from spectral_pd.meter import power_spectrum as power_spectrum
from spectral_pd.noise import NoiseField as NoiseField
from spectral_pd.optimise import optimise_plan as optimise_plan
from spectral_pd.optimise import plan_front as plan_front
from spectral_pd.parametrisation import velocity_from_denoised as velocity_from_denoised
from spectral_pd.parametrisation import velocity_from_edm as velocity_from_edm
from spectral_pd.parametrisation import velocity_from_noise as velocity_from_noise
from spectral_pd.parametrisation import velocity_from_vp as velocity_from_vp
from spectral_pd.passthrough import passthrough as passthrough
from spectral_pd.plan import Plan as Plan
from spectral_pd.power import PRESETS as PRESETS
from spectral_pd.power import PowerLaw as PowerLaw
from spectral_pd.power import Spectrum as Spectrum
from spectral_pd.restriction import restrict_noise as restrict_noise
from spectral_pd.restriction import restrict_signal as restrict_signal
from spectral_pd.sampling import sample as sample
from spectral_pd.schedule import make_plan as make_plan
from spectral_pd.schedule import plan_at as plan_at
from spectral_pd.schedule import shift_times as shift_times
from spectral_pd.schedule import token_cost as token_cost
from spectral_pd.spacetime import spacetime_spectrum as spacetime_spectrum
from spectral_pd.theory import activation_power as activation_power
from spectral_pd.theory import activation_time as activation_time
from spectral_pd.theory import align_scale as align_scale
from spectral_pd.theory import align_time as align_time
from spectral_pd.theory import snr as snr
from spectral_pd.theory import transition_times as transition_times
from spectral_pd.theory import velocity_error as velocity_error
from spectral_pd.training import draw_times as draw_times
from spectral_pd.training import stage_loss as stage_loss
from spectral_pd.training import stage_sample as stage_sample

try:
    __version__ = _version("spectral_pd")
except _PackageNotFoundError:  # imported from a checkout that is not installed
    __version__ = "unknown"
