# The container image, for CPUs or for CUDA GPUs; tools/build_image.sh (`make image`) builds it.
#
# Both images must have, or get from apt-get, the same Python: what the first stage installs is
# copied into the second. For GPUs, BUILD_IMAGE has nvcc; BASE_IMAGE needs no CUDA, since its
# libraries come with TensorFlow's packages and the driver from the node.
ARG BASE_IMAGE
ARG BUILD_IMAGE=${BASE_IMAGE}

FROM ${BUILD_IMAGE} AS build
ARG FLAVOUR=cpu
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates g++ make python3-venv
RUN python3 -m venv /opt/vit
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build

# First only what changes seldom: a change of our own code neither fetches TensorFlow again nor
# compiles Horovod again. pip installs nothing whose digest is not in these files (`make requirements`).
COPY tools/image tools/image
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=pip.crt \
    /opt/vit/bin/pip install --quiet --require-hashes --requirement tools/image/requirements-${FLAVOUR}.txt
COPY tools tools
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=pip.crt \
    if [ "${FLAVOUR}" = gpu ]; then gpu=--gpu; fi; \
    tools/build_horovod.sh --python /opt/vit/bin/python --cache /tmp/horovod ${gpu:-}

# The README that setup.cfg names is left out, so that a word there changes nothing here.
COPY pyproject.toml setup.cfg LICENSE ./
COPY jobs jobs
COPY k8s k8s
COPY pipeline pipeline
RUN touch README.md && /opt/vit/bin/pip install --quiet --no-deps --no-index --no-build-isolation .


FROM ${BASE_IMAGE}
# The host keys that Debian's package makes would be the same in every container.
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        openssh-client openssh-server python3 && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt /etc/ssh/ssh_host_*
# Ubuntu's images have a user of their own at 1000, whose home ssh would look into.
RUN if getent passwd 1000; then userdel --remove "$(getent passwd 1000 | cut -d : -f 1)"; fi && \
    useradd --uid 1000 --user-group --create-home --shell /bin/bash vit && \
    install --directory --owner vit --group vit /home/vit/.ssh /home/vit/runs
COPY tools/image/sshd.conf /etc/ssh/sshd_config.d/vit.conf
COPY tools/image/ssh.conf /etc/ssh/ssh_config.d/vit.conf
COPY --from=build /opt/vit /opt/vit

# All that is written outside of the run folder goes to /tmp, so that the root can be read-only.
ENV PATH=/opt/vit/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    TF_CPP_MIN_LOG_LEVEL=2 HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib XDG_CACHE_HOME=/tmp/.cache PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
# The default run folder is runs/RECIPE: mount /home/vit/runs.
WORKDIR /home/vit

# Whether training gets on is for its own watchdog to judge, which ends the process and so the
# container. This sees what the watchdog cannot: that `vit` itself is stopped or a zombie, or that
# /tmp is full. It starts no Python, which would take a core from training for seconds.
# (Kubernetes does not read it.)
HEALTHCHECK --interval=60s --timeout=10s --start-period=60s \
    CMD ["sh", "-c", "! grep -q '^State:.[TZ]' /proc/1/status && echo healthy > /tmp/.health"]

# The exec form: `vit` is process 1, and SIGTERM reaches it.
ENTRYPOINT ["/opt/vit/bin/vit"]
CMD ["--help"]

ARG FLAVOUR=cpu
ARG BASE_IMAGE
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="vit-pipeline" \
      org.opencontainers.image.description="Trains Vision Transformers with TensorFlow, Keras 3 and Horovod (${FLAVOUR})" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
