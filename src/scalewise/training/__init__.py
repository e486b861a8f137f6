"""The training engine: a recipe is a value, one engine trains it, on a laptop or on many GPUs.

- stage.py: Stage, one optimizer's run; schedules
- recipe.py: Recipe, how a model is made; `--model theirs:build`
- losses/: what is minimised: functions of (model, batch, context)
- task.py: StageTask, one stage as it is trained: losses, optimizer, learning rate, averaged weights
- gan.py, edge_table.py: tasks that one loss and one optimizer cannot say
- reparam.py: a stem whose kernels sum to zero while they learn
- soap.py: the optimizer SOAP
- engine.py: `train`: all stages, from the last state; logs, validation, stopping
- device_loop.py: the same steps by the clock on one device
- state.py: states on the disk, and half-precision weights that are small enough to commit

A sample is a function of its number and all randomness of a step is seeded by its number, so the state of a run is its
weights, its optimizer and its step. Nothing here imports Lightning before a training starts.
"""
