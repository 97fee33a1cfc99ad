"""Callbacks for test_callbacks.py, whose ranks import them by name."""

import keras


class FailsAtItsSecondEpoch(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise RuntimeError("the callback is broken")


class FailsAtTheEnd(keras.callbacks.Callback):
    def on_train_end(self, logs=None):
        raise RuntimeError("the callback is broken")


class HalvesTheHead(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        for weight in self.model.get_layer("head").weights:
            weight.assign(weight * 0.5)


class StopsAfterTwoEpochs(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        print(f"epoch {epoch} ended, val_loss" + (" known" if "val_loss" in logs else ""))
        self.model.stop_training = epoch == 1
