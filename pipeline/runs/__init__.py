"""The run folder.

folder.py          the folder, its files, and whether a command may continue its run
access.py          checks that the folder is writable and has enough space
lock.py            one writer at a time, also on network file systems
checkpoints/       snapshots of the training state: format, store, writer thread
metrics_file.py    metrics.jsonl
saved_settings.py  the settings that other commands read from config.yaml
record_checks.py   validates dataset.json and outcome.json
log_folders.py     selects the TensorBoard logs of one or several runs
links.py           rejects links that lead out of the folder
"""
