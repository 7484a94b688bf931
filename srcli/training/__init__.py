"""Training a generator on a folder of photographs.

`run` is one training run from its config to its end; `trainer` takes the steps and `loop` repeats them; `photos` reads
photographs, kept decoded (`dataset`, `cache`) or in chunks (`stream`, `shards`), and `pairs` makes the images of a step;
`validation` scores held-out photographs; `run_dir`, `history`, `report` and `plots` write the files.

May import from models, core, io, config and errors. Prints nothing: progress goes to an object with the methods of
`progress.TrainingProgress`.
"""
