"""Spectra of files, data sets and streams, with how sure and how true they are (``spectral-pd fit``)."""

from spectral_pd.measuring.report import Measurement as Measurement
from spectral_pd.measuring.report import measure as measure
