"""`vit launch`: how processes are started, find each other, fail, and end.

job.py                what to start, and each process's environment
job_options.py        checks the options of `vit launch`
launcher.py           starts the processes of one node and waits until they end
processes.py          the child processes: output, signals, no orphans
meeting.py            a launcher's side of the rendezvous
hosting.py            node 0's side: serves until every node has heard the outcome
rendezvous.py         the server on node 0, and its clients
registry.py           what node 0 knows about the nodes
reports.py            the messages between launchers
store.py              the key-value store in which Horovod's ranks find each other
signatures.py         the job's token, and signed messages
bounded_http.py       an HTTP server with limits on size, time and connections
addresses.py          IPv4 addresses of the nodes
private_network.py    a network namespace for the processes of one host
"""
