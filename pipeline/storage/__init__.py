"""Files that other people may have made: what is read is a regular file of a limited size, and
what is written never goes through a link.

read.py    regular files, inside a folder, up to a size; with retries
write.py   files that replace others in one piece, and files that grow
"""
