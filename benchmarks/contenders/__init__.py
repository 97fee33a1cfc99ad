"""Other libraries, each in a virtual environment of its own. `make contenders` installs them.

process.py           starts one of them and reads its timings
serve.py             what such a process does: it times batches when it is asked
dali_input.py        the input stage with NVIDIA DALI, on the CPU
pillow_input.py      with Pillow or Pillow-SIMD, in threads
torchvision_input.py with torchvision v2 and a DataLoader
"""
