"""Ways of sampling one model against each other: pictures, metrics, latency, FLOPs, a report (``spectral-pd
compare``)."""

from spectral_pd.comparing.report import Comparison as Comparison
from spectral_pd.comparing.run import compare as compare
from spectral_pd.comparing.samplers import BatchSampler as BatchSampler
from spectral_pd.comparing.samplers import NetworkSampler as NetworkSampler
from spectral_pd.comparing.samplers import PipelineSampler as PipelineSampler
from spectral_pd.comparing.samplers import Sampler as Sampler
from spectral_pd.comparing.settings import SHIPPED as SHIPPED
from spectral_pd.comparing.settings import Setting as Setting
from spectral_pd.comparing.settings import Table as Table
from spectral_pd.comparing.settings import load_table as load_table
from spectral_pd.comparing.settings import make_setting as make_setting
