"""The demo dataset: real third-party images and questions, small enough for two CPU cores."""

from raycurate.demo.data import FULL_TRAIN_ROWS, DemoSummary, build_demo_dataset, scale_for_rows

__all__ = ["FULL_TRAIN_ROWS", "DemoSummary", "build_demo_dataset", "scale_for_rows"]
