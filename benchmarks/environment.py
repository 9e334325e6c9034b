"""What a results row must name, as the package says it: device, versions, commit."""

from spectral_pd.comparing.environment import commit, driver, environment, processor

__all__ = ["commit", "driver", "environment", "processor"]
