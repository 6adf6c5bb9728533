"""The proving ground: a mixture of 33 small tasks on which methods of data selection can be told apart on CPUs."""

from raycurate.demo.proving.data import ProvingSummary, build_proving_ground

__all__ = ["ProvingSummary", "build_proving_ground"]
