"""Checks the settings of a training before it is submitted, as its processes would."""

from __future__ import annotations

from k8s.cluster_job import ClusterJob
from pipeline.config import Config
from pipeline.errors import SettingsError
from pipeline.runtimes.tensorflow_start import import_tensorflow


def check_training(config: Config, job: ClusterJob) -> None:
    """Refuses what each of the job's processes would refuse when it starts.

    Raises:
      SettingsError: The global batch, the image size or `distribute.cpu_devices` does not fit.
    """
    import_tensorflow()
    from pipeline.data.batch import check_batch, check_elastic
    from pipeline.model.architecture import architecture, check_patches

    check_batch(config, job.num_replicas)
    if job.min_nodes is not None:
        check_elastic(config)
    check_patches(config.data.image_size, architecture(config.model).patch_size)
    if job.gpus and config.distribute.cpu_devices > 1:
        raise SettingsError(
            "distribute.cpu_devices is for testing mirrored without GPUs: leave it out"
        )
