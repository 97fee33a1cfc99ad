"""Everything for Kubernetes: the manifests' bases, and the code that renders, submits and watches.

job/, mpijob/, tensorboard/   Kustomize bases
slurm.sbatch         the same training under Slurm
options.py           the options of a job, checked without a cluster
manifests.py         the pieces that all manifests are made of
render.py            the manifests of a job
mpijob_manifests.py  the manifests for the MPI operator
yaml_text.py         manifests as YAML
api.py               requests to the API server
api_errors.py        errors for what the API server refuses
create.py            creates a job, completely or not at all
state.py             the state of a job, from its objects
run_progress.py      the progress of a job's run, read from the claim
forward.py           a local port that leads to the job's TensorBoard
"""
