"""perse-compile: from a trained CNN to a personalised early-exit binary."""

__version__ = "0.1.0"
