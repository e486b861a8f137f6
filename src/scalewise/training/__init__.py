"""The training engine: a recipe is a value, one engine trains it, on a laptop or on many GPUs.

- recipe.py: Recipe and Stage, what is said about a training; schedules; `--model theirs:build`
- losses.py, exits.py: what is minimised: functions of (model, batch, moment)
- way.py: one stage as a Lightning module: loss, optimizer, learning rate, averaged weights
- engine.py: `train`: all stages, from the last state; logs, checkpoints, stopping
- state.py: states on the disk: whole or not there, split into parts, small enough to be kept elsewhere

A sample is a function of its number and all randomness of a step is seeded by its number, so the state of a run is its
weights, its optimizer and its step. Training from a pack imports torch, lightning, numpy and safetensors only.
"""
