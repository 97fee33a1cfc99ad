"""What makes, shows and ends jobs on Kubernetes.

options.py   what is asked for, and whether a cluster can know it
render.py    the manifests, from the bases in k8s/
mpijob.py    the same for the MPI operator
rules.py     what a cluster would refuse, or take and fail with
api.py       what is said to the API server
"""
