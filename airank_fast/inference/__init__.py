"""Inference: samples and engines, load generators, and what a run of them is made of. Only the command imports it."""
