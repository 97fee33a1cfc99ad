"""Learning-rate schedule and AdamW.

optimizer.py    AdamW with averaged weights, gradient clipping, and loss scaling
parameters.py   trainable parameters, weight decay and layer-wise learning rates
schedule.py     the learning rate of each step
custom_loss.py  a user's loss function, `optim.loss`
steps.py        conversion of epochs to steps
"""
