"""Experiment-tracked hyperparameter search for small image classifiers."""
