#!/usr/bin/env bash
#
# Writes the requirements with the digest of every file that may be installed
# for them; `make requirements` starts it. Needs a package index.
# The versions are those of constraints.txt; the files hold no address, so that
# pip takes the packages from wherever it was told to, and checks them.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
"${PYTHON:-python3}" -m venv "$environment"
"$environment/bin/pip" install --quiet uv

# write_requirements FILE ARGUMENTS...: for Python 3.11 and later, on Linux.
write_requirements() {
    local -r file=$1
    shift
    "$environment/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --system-certs --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
        --constraint constraints.txt --upgrade --output-file "$file" "$@"
    sed -i '1i # Written by `make requirements`, with the digest of every file that may be installed.' "$file"
    echo "$file: $(grep -c '^[^ #].*==' "$file") packages"
}

for flavour in cpu gpu; do
    write_requirements "tools/image/requirements-$flavour.txt" \
        --extra "$flavour" setup.cfg tools/image/requirements.in
done
write_requirements tools/horovod_build.txt tools/horovod_build.in
write_requirements tools/horovod_cmake.txt tools/horovod_cmake.in
