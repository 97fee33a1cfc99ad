"""Files that other people may have made: what is read is a regular file of a limited size, and
what is written never goes through a link.

read.py     regular files, inside a folder, up to a size; with retries
write.py    a file in one piece, and a file that grows
folders.py  makes, moves and removes folders, and gives libraries a place to write to
"""
