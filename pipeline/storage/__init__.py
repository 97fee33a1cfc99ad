"""Safe access to files that others may have created.

Reads accept only regular files up to a size limit. Writes never follow a symbolic link.

read.py           reads regular files, optionally only inside a folder; retries transient errors
write.py          writes a whole file atomically, or appends to a file
appended_file.py  appends complete pieces, and buffers them while writing fails
folders.py        creates, moves and removes folders, and gives libraries a place to write to
archive.py        reads gzip and tar within limits
npz.py            reads NumPy files within limits
limits.py         the maximum sizes of files that are read as a whole
"""
