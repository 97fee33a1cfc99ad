"""How the replicas of a model cooperate.

runtime.py            the Runtime interface
kinds.py              selects and starts one of the implementations
single.py, mirrored.py, multi_worker.py, horovod.py   the implementations
agreement.py          checks that all processes agree, and shares decisions of the chief
elastic.py            Horovod processes that can be lost and join during training
membership.py         the membership of this process in the group of an elastic job
horovod_driver.py     the same in an elastic job of horovodrun
sockets.py            ends collectives that wait for a lost process
variable_bytes.py     the values of variables as bytes, for a newcomer
generation.py         the place of a process in a generation
worker_reports.py     the messages of an elastic job
messages.py           strict messages between processes, as JSON
gathering.py          waits for all processes before the runtime connects them
environment.py        reads this process's rank from the environment
devices.py            devices, threads and cores of this process
bfloat16.py           whether the devices compute bfloat16 at full speed
processor.py          the type of processor, on which the bits of results depend
nvidia.py             the GPUs, from nvidia-smi
interfaces.py         network interfaces of this host
ports.py, proxies.py  free TCP ports; exempting job traffic from HTTP proxies
stop_signals.py       the signals that ask a process to save and stop
horovod_build.py      inspects the installed Horovod without importing it
interpreter.py        commands that start another Python interpreter
tensorflow_start.py   imports TensorFlow without its startup messages
"""
