"""The configurations that ship: the run, trainers, optimizers and published recipes."""
