"""The paper's experiments: cross-validation, ablations, robustness, reports and benchmarks."""
