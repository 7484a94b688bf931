"""Training a generator on a folder of photographs.

`run` is one training run from its config to its end; `trainer` takes the steps and `loop` repeats them; `dataset` and `cache`
supply crops, and `pairs` makes their images; `validation` scores held-out photographs; `run_dir`, `history` and `plots` write the files.

May import from models, core, io, config and errors. Prints nothing: progress goes to an object with the methods of
`progress.TrainingProgress`.
"""
