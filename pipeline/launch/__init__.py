"""`vit launch`: starts the processes of a job on several nodes and supervises them.

job.py                what to start, and the environment of each process
job_options.py        checks the options of `vit launch`
launcher.py           starts the processes of one node and waits until they end
processes.py          the child processes: output, signals, cleanup
elastic_launcher.py   runs one node's part of an elastic job
elastic_node.py       supervises the workers of an elastic job, and replaces those that fail
local_workers.py      the workers of this node, as their launcher knows them
membership_server.py  what a launcher serves to its workers: membership and key-value stores
remote_group.py       the group of a job on several nodes, as each launcher reaches it
meeting.py            finds the launcher that coordinates the group, or takes its place
coordinator.py        the group of an elastic job in the launcher that coordinates it
group.py              the state machine of the group: generations, joins, losses
rules.py              the options that decide on the generations
failures.py           tells an exception that every worker hits from a lost machine
timeouts.py           the time within which a failed job has ended on all nodes
cooldown.py           when a slot whose worker failed may start the next one
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
