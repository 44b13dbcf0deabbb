"""Inference under measurement: engines, the system under test, the tests of each scenario, and their session."""
