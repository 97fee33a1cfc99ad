"""Checks before training.

examine.py        which checks there are, in their order
finding.py        what a check found; gathers findings, and survives checks that fail
installation.py, machine.py, folder.py, data.py, training.py   the checks, by subject
process_facts.py  what a check must know about the processes of the job
display.py        findings on a terminal, as plain lines, or as JSON
parity.py         --parity: N workers train what one worker trains
"""
