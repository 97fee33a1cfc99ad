"""`vit launch`: starts the processes of a job on several nodes and supervises them.

job.py                what to start, and the environment of each process
job_options.py        checks the options of `vit launch`
launcher.py           starts the processes of one node and waits until they end
processes.py          the child processes: output, signals, cleanup
rendezvous.py         the rendezvous server on node 0, and the client connection
rendezvous_client.py  the rendezvous as seen by one launcher
rendezvous_host.py    node 0: serves the rendezvous until all nodes know the outcome
registry.py           node 0's knowledge about the nodes
reports.py            the messages between launchers
store.py              the key-value store with which Horovod's ranks find each other
signatures.py         the token of the job, and signed messages
bounded_http.py       an HTTP server with limits on size, time and connections
addresses.py          IPv4 addresses of the nodes
private_network.py    a network namespace for the processes of one host
"""
