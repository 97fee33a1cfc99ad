"""The run folder.

folder.py          the folder, its files, and whether a command may continue its run
lock.py            one writer at a time, also on network file systems
checkpoints/       snapshots of the training state: format, store, writer thread
metrics_file.py    metrics.jsonl
saved_settings.py  which settings other commands take from config.yaml
record_checks.py   validates dataset.json and outcome.json
links.py           refuses links that lead out of the folder
"""
