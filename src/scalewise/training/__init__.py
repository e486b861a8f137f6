"""The training engine: a recipe is a value, one engine trains it, on a laptop or on many GPUs.

- stage.py: Stage, one optimizer's run; schedules
- recipe.py: Recipe, what is said about a training; `--model theirs:build`
- losses/: what is minimised: functions of (model, batch, context); gan.py: against a discriminator
- task.py: one stage as a Lightning module: loss, optimizer, learning rate, averaged weights
- engine.py: `train`: all stages, from the last state; logs, checkpoints, stopping
- device_loop.py: the same by the clock on one device
- state.py: states on the disk: whole or not there, split into parts, small enough to be kept elsewhere

A sample is a function of its number and all randomness of a step is seeded by its number, so the state of a run is its
weights, its optimizer and its step. Training from a pack imports torch, lightning, numpy and safetensors only.
"""
