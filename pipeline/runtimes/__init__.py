"""How the replicas of a model cooperate.

runtime.py            the Runtime interface
kinds.py              selects and starts one of the implementations
single.py, mirrored.py, multi_worker.py, horovod.py   the implementations
agreement.py          what all processes must agree on: settings, code, decisions of the chief
gathering.py          waits until all processes have arrived, before their runtime joins them
environment.py        this process's rank, from the environment
devices.py            devices, threads and cores of this process
bfloat16.py           whether the devices compute fast in bfloat16
nvidia.py             the GPUs, from nvidia-smi
interfaces.py         network interfaces of this host
ports.py, proxies.py  free TCP ports; keeping job traffic away from HTTP proxies
stop_signals.py       the signals that ask a process to save and stop
horovod_build.py      what Horovod was built for, without importing it
interpreter.py        commands that start another Python
tensorflow_start.py   imports TensorFlow without its start-up messages
"""
