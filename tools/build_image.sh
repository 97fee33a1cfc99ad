#!/usr/bin/env bash
#
# Builds the container image with docker, podman or buildah: whichever works.
#
#   make image                                    for CPUs; for CUDA where nvidia-smi answers
#   make image FLAVOUR=gpu IMAGE=registry.example/vit:gpu
#   make image BASE_IMAGE=localhost/debian:12     any Debian or Ubuntu with Python 3.11 to 3.13
#
# FLAVOUR      cpu or gpu
# IMAGE        its name; default vit-pipeline:FLAVOUR
# BASE_IMAGE   what it is built on
# BUILD_IMAGE  what Horovod is compiled on: the same distribution, for GPUs with nvcc of CUDA 12
# ENGINE       docker, podman or buildah; default the first that works

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

wrong() {
    echo "build_image: $*" >&2
    exit 2
}

find_engine() {
    local candidate
    for candidate in ${ENGINE:-docker podman buildah}; do
        # A client without its daemon is no engine.
        "$candidate" info >/dev/null 2>&1 && engine=$candidate && return
    done
    wrong "no container engine works here: tried \`info\` of ${ENGINE:-docker, podman and buildah}.
Install one (Debian, Ubuntu: apt-get install podman), start Docker's daemon, or name one with ENGINE"
}

# An index that pip was told of is an index for the build too; folders of this machine are not.
write_pip_settings() {
    local cert
    # -P of a Python that may be too old for it: the current folder has no part in it.
    PYTHONSAFEPATH=1 python3 -m pip config list >"$settings/list" 2>/dev/null || true
    {
        echo '[global]'
        sed -nE "s/^[^.]*\.(index-url|extra-index-url|trusted-host|proxy|timeout)='(.*)'$/\1 = \2/p" \
            "$settings/list" | awk -F ' = ' '!/file:/ && !seen[$1]++'
        cert=$(sed -nE "s/^[^.]*\.cert='(.*)'$/\1/p" "$settings/list" | head -n 1)
        if [[ -n $cert ]]; then
            cp "$cert" "$settings/pip.crt"
            echo 'cert = /run/secrets/pip.crt'
        fi
    } >"$settings/pip.conf"
    touch "$settings/pip.crt"
}

main() {
    local -r flavour=${FLAVOUR:-cpu}
    local base build
    case $flavour in
        cpu)
            base=${BASE_IMAGE:-docker.io/library/debian:bookworm-slim}
            build=${BUILD_IMAGE:-$base}
            ;;
        gpu)
            base=${BASE_IMAGE:-docker.io/library/ubuntu:24.04}
            build=${BUILD_IMAGE:-docker.io/nvidia/cuda:12.9.1-devel-ubuntu24.04}
            ;;
        *) wrong "FLAVOUR must be cpu or gpu. Received: $flavour" ;;
    esac
    local -r image=${IMAGE:-vit-pipeline:$flavour}
    find_engine
    settings=$(mktemp -d)
    trap 'rm -rf "$settings"' EXIT
    write_pip_settings

    # docker: secrets need BuildKit. podman, buildah: their own format drops HEALTHCHECK.
    export DOCKER_BUILDKIT=1 BUILDAH_FORMAT=docker
    "$engine" build --tag "$image" \
        --build-arg "FLAVOUR=$flavour" --build-arg "BASE_IMAGE=$base" --build-arg "BUILD_IMAGE=$build" \
        --build-arg "VERSION=$(sed -n 's/^version = //p' setup.cfg)" \
        --build-arg "REVISION=$(git describe --always --dirty --abbrev=40 2>/dev/null || true)" \
        --secret "id=pip.conf,src=$settings/pip.conf" --secret "id=pip.crt,src=$settings/pip.crt" .
    echo "build_image: $image ($flavour), by $engine"
}

main
