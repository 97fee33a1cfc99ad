"""Everything for Kubernetes: manifests, and the code that renders, submits and watches jobs.

job/, mpijob/, tensorboard/   Kustomize bases
slurm.sbatch         the same training under Slurm
cluster_job.py       a job, and the checks of it that need no cluster
manifests.py         the parts that manifests have in common
render.py            the manifests of a job
mpijob_manifests.py  the manifests of a job for the MPI operator
training_checks.py   checks the settings of a training before it is submitted
yaml_text.py         manifests as YAML
api.py               requests to the API server
api_errors.py        errors that explain the API server's responses
create.py            creates a job with all of its objects, or nothing
state.py             the state of a job, read from its objects
run_progress.py      the progress of a job's run, read from the claim
job_table.py         jobs and pods as tables
logs.py              the pod of a rank, and the lines of a rank in its log
suspend.py           suspends and resumes a job
delete.py            deletes a job with all of its objects
forward.py           forwards a local port to the TensorBoard of a job
mpi_launcher.py      runs horovodrun in the launcher pod of an MPIJob
answering_hosts.py   the workers of an elastic MPIJob that can run processes now
"""
