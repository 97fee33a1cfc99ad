"""Broadcasts the chief's variables to all workers: python broadcast_of_ranks.py BYTES ...

For each number of BYTES a collective, each rank prints as JSON a hash of every variable's bits and
the number of collectives.
"""

import hashlib
import json
import os
import sys

import numpy as np
import tensorflow as tf

from pipeline.config import DistributeConfig
from pipeline.runtimes import multi_worker
from pipeline.runtimes.environment import find_place
from pipeline.runtimes.kinds import start

rank = find_place(os.environ).rank
runtime = start(DistributeConfig(runtime="multi_worker"))

calls = []
reduce = tf.distribute.MultiWorkerMirroredStrategy.reduce
tf.distribute.MultiWorkerMirroredStrategy.reduce = lambda *a, **k: (
    calls.append(a),
    reduce(*a, **k),
)[1]

draw = np.random.default_rng(7 + rank)
special = np.array([-0.0, np.inf, np.nan, 1e-45], np.float32) if rank == 0 else np.zeros(4, "f4")
special[2:3].view(np.uint32)[:] += rank + 5  # a NaN with bits of its own
values = [
    *(draw.normal(size=(7, n)).astype("float32") for n in range(1, 51)),
    special,
    np.int64(3 - rank),
    draw.normal(size=3).astype("float16"),
    np.array([rank == 0, False]),
]
for limit in map(int, sys.argv[1:]):
    with runtime.scope():  # which gives all workers the same initial values
        variables = [tf.Variable(np.zeros_like(value)) for value in values]
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    calls.clear()
    multi_worker._BROADCAST_BYTES = limit
    runtime.broadcast(variables)
    bits = [variable.numpy().tobytes() for variable in variables]
    print(
        json.dumps(
            {
                "limit": limit,
                "hash": hashlib.sha256(b"".join(bits)).hexdigest(),
                "special": np.asarray(variables[50]).tobytes().hex(),
                "counter": int(variables[51].numpy()),
                "bytes": sum(map(len, bits)),
                "collectives": len(calls),
            }
        ),
        flush=True,
    )
runtime.barrier()
