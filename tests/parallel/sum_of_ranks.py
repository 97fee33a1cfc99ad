"""Prints the sum of all ranks, as Horovod or MultiWorkerMirroredStrategy add them up.

python sum_of_ranks.py [RANK]: that rank kills itself after the first sum, and the others go on
until they notice, and exit 76.
"""

import os
import signal
import sys
import time


def sum_with_horovod(victim: int | None) -> None:
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    total = hvd.allreduce(tf.constant(float(hvd.rank())), op=hvd.Sum)
    print(f"rank {hvd.rank()} of {hvd.size()} sum {total.numpy():g}", flush=True)
    while victim is not None:
        if hvd.rank() == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            hvd.allreduce(tf.constant(1.0), op=hvd.Sum, name="again")
        except Exception:
            os._exit(76)
        time.sleep(0.05)
    hvd.shutdown()


def sum_with_tensorflow() -> None:
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    rank = strategy.cluster_resolver.task_id

    @tf.function
    def add() -> tf.Tensor:
        value = strategy.run(lambda: tf.constant(float(rank)))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)

    total = add()
    print(f"rank {rank} of {strategy.num_replicas_in_sync} sum {total.numpy():g}", flush=True)


if "TF_CONFIG" in os.environ:
    sum_with_tensorflow()
else:
    sum_with_horovod(int(sys.argv[1]) if sys.argv[1:] else None)
