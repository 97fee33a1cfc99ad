"""A rank of multi_worker that serves until it is killed."""

import time

from pipeline.config import DistributeConfig
from pipeline.runtimes.kinds import start

start(DistributeConfig(runtime="multi_worker"))
print("serves", flush=True)
time.sleep(240)
