"""Spherical k-means: exact, reproducible, and fast. ``spherical_kmeans`` works on one array in one process."""

from __future__ import annotations

from raycurate.clustering.kmeans import KMeansResult, KMeansSettings, spherical_kmeans

__all__ = ["KMeansResult", "KMeansSettings", "spherical_kmeans"]
