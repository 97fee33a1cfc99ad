"""What makes, shows and ends jobs on Kubernetes.

options.py   what is asked for, and whether a cluster can know it
render.py    the manifests, from the bases in k8s/
mpijob.py    the same for the MPI operator
rules.py     what a cluster would refuse, or take and fail with
api.py       what is said to the API server
refusals.py  what its answers that are no success mean
create.py    creates a job, wholly or not at all
state.py     what a job's objects say about it
progress.py  how far its run is, read on the claim
forward.py   a port that leads to its TensorBoard
"""
