"""Verbs that create, show and end jobs on Kubernetes.

submit.py      `vit submit`; jobs.py, logs.py, stop.py, resume.py and delete.py are verbs too
options.py     the options of a job, checked without a cluster
render.py      the manifests, from the bases in k8s/
mpijob.py      the manifests for the MPI operator
mpi_launch.py  `vit mpi-launch`, the command of an MPIJob's launcher
api.py         requests to the API server
refusals.py    errors for what the API server refuses
create.py      creates a job, completely or not at all
state.py       the state of a job, from its objects
progress.py    the progress of a job's run, read from the claim
forward.py     a local port that leads to the job's TensorBoard
"""
