"""Snapshots of a run, and their safe keeping: snapshot, store (write, find, verify), background."""
