#!/usr/bin/env bash
#
# Builds Horovod for the TensorFlow that is installed, and installs it.
# `tools/build_horovod.sh --help` says the rest.
#
# `pip install horovod` fails against TensorFlow 2.21: the compiler does not
# find two headers that TensorFlow ships in unusual places, and one that has
# moved. CPLUS_INCLUDE_PATH names the two places and the folder horovod_headers/
# beside this script, which has the third. patch_source changes a few lines.

set -euo pipefail

readonly RELEASE=0.28.1
readonly RELEASE_SHA256=92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0
# Raise it when a change below changes the wheel: it is part of the cache's key.
readonly RECIPE=4
readonly LOG_TAIL_LINES=20 LOG_ERRORS=5

tools="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
headers=$tools/horovod_headers
readonly tools headers

# What is written into the cache is nobody else's to change, whatever the umask.
users_umask=$(umask)
readonly users_umask
umask 022

help() {
    cat <<HELP
Usage: tools/build_horovod.sh [--python PY] [--gpu] [--cache DIR]
                              [--no-install | --check]

Builds a wheel of Horovod $RELEASE for the TensorFlow installed in PY and installs
it there, with what it needs at run time. Gloo; no MPI, PyTorch or MXNet.
The first run takes minutes; later ones take the wheel from the cache.

  --python PY   the Python that has TensorFlow; default ./.venv/bin/python
  --gpu         with NCCL and CUDA. nvcc from CUDA_HOME, PATH or /usr/local/cuda,
                of TensorFlow's own CUDA version (12.x for 2.21); NCCL from
                NCCL_HOME or the package nvidia-nccl-cu12 installed in PY. PY's
                TensorFlow must have CUDA too: tensorflow[and-cuda]
  --cache DIR   where wheels and build logs are kept; default
                \${XDG_CACHE_HOME:-~/.cache}/vit-pipeline/horovod. Nobody but you and
                root may be able to write there
  --no-install  leave PY as it is: only build the wheel, and print its path. With
                --gpu it shows that Horovod compiles where TensorFlow has no CUDA
  --check       only say what is missing, and whether the wheel is there

Needs g++ and make for the first build; cmake comes from the package index if
the machine has none. CC, CXX, CXXFLAGS, HOROVOD_BUILD_ARCH_FLAGS and
HOROVOD_BUILD_CUDA_CC_LIST (such as 80,90) are passed on, and MAKEFLAGS=-jN
sets how many compilers run at once; default: one a core.

Exit code: 0 done, 1 the build or the installation failed, 2 wrong usage or
something is missing.

Run on TensorFlow 2.21.0, x86_64, Debian 12 (g++ 12.2):
  CPU   Python 3.11.7, with the line that patch_source changes; before that
        also 3.12.1 and 3.13.0; CMake 3.25, 3.31 and 4.4; two ranks on each
  GPU   Python 3.11.7; CUDA 13.0's nvcc, NCCL 2.32; built with the changed line,
        before it also imported on a machine without a GPU; not run on one
HELP
}

say() { printf 'build_horovod: %s\n' "$*"; }
fail() { printf 'build_horovod: %s\n' "$*" >&2; exit 1; }
wrong() { printf 'build_horovod: %s\n' "$*" >&2; exit 2; }

# What is missing is gathered, so that one run names all of it.
missing=()
miss() { missing+=("$1"); }
stop_if_missing() {
    (( ${#missing[@]} == 0 )) && return
    printf 'build_horovod: missing: %s\n' "${missing[@]}" >&2
    exit 2
}

fail_with_log() {
    # pip and setup.py say a lot after a compiler's error: what it said comes first.
    grep -E -m "$LOG_ERRORS" -A 3 '(^|[^a-z])(fatal )?[Ee]rror[: ]|^ *ERROR:' "$log" >&2 || true
    printf '%s\n' "--- last lines of $log" >&2
    tail -n "$LOG_TAIL_LINES" "$log" >&2
    fail "$1; the whole log: $log"
}

parse_arguments() {
    python=./.venv/bin/python device=cpu check=no install=yes cache=''
    while (( $# )); do
        case $1 in
            --python | --cache)
                [[ -n ${2-} ]] || wrong "$1 needs a value (see --help)"
                printf -v "${1#--}" %s "$2"
                shift ;;
            --gpu) device=gpu ;;
            --check) check=yes ;;
            --no-install) install=no ;;
            -h | --help) help; exit 0 ;;
            *) wrong "unknown argument: $1 (see --help)" ;;
        esac
        shift
    done
}

find_python() {
    [[ $(uname -s) == Linux ]] || wrong "only Linux is supported, this is $(uname -s)"
    local found
    found=$(command -v "$python") ||
        wrong "no Python at $python; make one (python3 -m venv .venv) or name it with --python"
    # Absolute, but with its links: a virtual environment is known by its path.
    python="$(cd "$(dirname "$found")" && pwd)/$(basename "$found")"
    PYTHONSAFEPATH=1 "$python" -m pip --version >/dev/null 2>&1 ||
        wrong "$python has no pip; run: $python -m ensurepip"
}

# Without importing TensorFlow, which takes seconds. The digest of its core
# library tells builds apart that share a version: C++ ABI, compiler flags.
find_tensorflow() {
    local facts
    facts=$("$python" -P - <<'PROBE'
import glob, hashlib, importlib.metadata as metadata, importlib.util as util
import os, platform, sys, sysconfig
spec = util.find_spec("tensorflow")
if spec is None or not spec.submodule_search_locations:
    sys.exit(1)
folder = os.path.abspath(spec.submodule_search_locations[0])
names = metadata.packages_distributions().get("tensorflow", [])
libraries = sorted(glob.glob(os.path.join(folder, "libtensorflow_framework.so*")))
if not names or not libraries:
    sys.exit(1)
# A table that TensorFlow's build writes; it imports nothing of TensorFlow.
build_info = {}
with open(os.path.join(folder, "python/platform/build_info.py")) as file:
    exec(file.read(), build_info)
build_info = build_info["build_info"]
with open(libraries[0], "rb") as file:
    digest = hashlib.sha256(file.read()).hexdigest()
print(folder)
print(metadata.version(names[0]))
print(digest)
print(sysconfig.get_config_var("SOABI"))
print(f"{sysconfig.get_platform()} {'-'.join(platform.libc_ver())}")
print(sys.version_info.major * 100 + sys.version_info.minor)
print(sysconfig.get_path("purelib"))
print(build_info.get("cuda_version", "") if build_info.get("is_cuda_build") else "")
PROBE
    ) || { miss "TensorFlow in $python; install it: $python -m pip install tensorflow-cpu (or tensorflow[and-cuda])"
           stop_if_missing; }
    local -a fact
    mapfile -t fact <<<"$facts"
    tensorflow=${fact[0]} tensorflow_version=${fact[1]} tensorflow_digest=${fact[2]}
    python_abi=${fact[3]} platform=${fact[4]} python_version=${fact[5]} site_packages=${fact[6]}
    tensorflow_cuda=${fact[7]-}
}

# Horovod would ask the compiler for -march=native. The flags are chosen here,
# since they belong into the key of a cache that several machines may share.
find_arch_flags() {
    arch_flags=${HOROVOD_BUILD_ARCH_FLAGS-}
    [[ -n $arch_flags || $(uname -m) != x86_64 ]] && return
    local cpu flag
    cpu=$(grep -m 1 '^flags' /proc/cpuinfo || true)
    for flag in f16c avx fma; do
        [[ " $cpu " == *" $flag "* ]] && arch_flags+=" -m$flag"
    done
    arch_flags=${arch_flags# }
}

find_cuda() {
    local home=${CUDA_HOME:-}
    nvcc=$home/bin/nvcc
    [[ -n $home ]] || nvcc=$(command -v nvcc) || nvcc=/usr/local/cuda/bin/nvcc
    cuda_version=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\),.*/\1/p') || true
    # An nvcc on PATH may be a link or a script; it knows where its toolkit is,
    # and CMake looks for the libraries beside the nvcc that it is given.
    home=$("$nvcc" --dryrun -c -x cu /dev/null -o /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p') || true
    [[ -x $home/bin/nvcc ]] && nvcc=$(cd "$home/bin" && pwd)/nvcc
    if [[ -z $cuda_version ]]; then
        miss "nvcc (looked for $nvcc); install the CUDA 12 toolkit, or set CUDA_HOME"
    elif [[ ! -f $home/include/cuda_runtime.h ]]; then
        miss "CUDA's headers ($home/include/cuda_runtime.h); install the CUDA toolkit, not nvcc alone"
    elif [[ -n $tensorflow_cuda && ${cuda_version%%.*} != "${tensorflow_cuda%%.*}" ]]; then
        say "warning: nvcc is CUDA $cuda_version, TensorFlow's is $tensorflow_cuda: good for a compile check, not for training"
    fi
    # Horovod uses code that only TensorFlow's CUDA build has: with another, the
    # library links, but does not load.
    [[ -n $tensorflow_cuda || $install == no ]] ||
        miss "a TensorFlow with CUDA in $python (this one has none); install tensorflow[and-cuda], or pass --no-install to see whether Horovod compiles"
}

find_nccl() {
    local home=${NCCL_HOME:-$site_packages/nvidia/nccl} folder
    nccl_include=$home/include nccl_library='' nccl_version=''
    for folder in "$home"/lib "$home"/lib64 "$home/lib/$(uname -m)-linux-gnu"; do
        [[ -e $folder/libnccl.so.2 ]] && nccl_library=$folder/libnccl.so.2 && break
    done
    [[ -f $nccl_include/nccl.h ]] && nccl_version=$(
        sed -n 's/^#define NCCL_\(MAJOR\|MINOR\|PATCH\) *\([0-9]*\).*/\2/p' "$nccl_include/nccl.h" | paste -s -d .)
    [[ -n $nccl_library && -n $nccl_version ]] ||
        miss "NCCL (include/nccl.h and lib/libnccl.so.2 in $home); run: $python -m pip install nvidia-nccl-cu12, or set NCCL_HOME"
}

# The wheel finds TensorFlow's and NCCL's libraries relative to itself, so that
# it can be installed into another environment than the one it was built for.
library_search_path() {
    local -r up="\$ORIGIN/../.."
    run_path="$up/tensorflow"
    [[ $device == gpu ]] || return 0
    if [[ -n ${NCCL_HOME:-} ]]; then
        run_path+=";$(dirname "$nccl_library")"
    else
        run_path+=";$up/nvidia/nccl/lib"
    fi
}

find_wheel() {
    local inputs digest
    inputs=$(printf '%s\n' "recipe $RECIPE" "horovod $RELEASE $RELEASE_SHA256" \
        "python $python_abi" "tensorflow $tensorflow_version $tensorflow_digest" \
        "platform $platform" "flags $arch_flags" "search path $run_path" \
        "compiler ${CC-} ${CXX-} ${CPPFLAGS-} ${CFLAGS-} ${CXXFLAGS-} ${LDFLAGS-}" "device $device" \
        "headers $(cd "$headers" && find . -type f -name '*.h' -exec sha256sum {} + | sort | sha256sum)")
    [[ $device == gpu ]] && inputs+=$(
        printf '\n%s' "cuda $cuda_version ${HOROVOD_BUILD_CUDA_CC_LIST-}" "nccl $nccl_version")
    digest=$(sha256sum <<<"$inputs")
    key="horovod-$RELEASE-$python_abi-tensorflow-$tensorflow_version-$device-${digest:0:12}"
    key_inputs=$inputs
    log=$cache/$key.log
}

# Prints the path of the cached wheel; fails if there is none, or a broken one.
cached_wheel() {
    local wheel
    for wheel in "$cache/$key"/*.whl; do
        "$python" -P -m zipfile -t "$wheel" >/dev/null 2>&1 && echo "$wheel" && return
    done
    return 1
}

find_cache() {
    local home=${HOME:-}
    [[ -n $home ]] || home=$("$python" -P -c 'import os; print(os.path.expanduser("~"))')
    [[ -n $cache ]] || cache=${XDG_CACHE_HOME:-$home/.cache}/vit-pipeline/horovod
    if [[ $check == yes ]]; then
        [[ ! -d $cache ]] || only_ours "$(cd "$cache" && pwd -P)"
        return
    fi
    mkdir -p "$(dirname "$cache")" 2>/dev/null || true
    [[ -d $cache ]] || mkdir -m 700 "$cache" 2>/dev/null || true
    [[ -d $cache && -w $cache ]] ||
        wrong "cannot write to the cache $cache (or make it); name another with --cache"
    cache=$(cd "$cache" && pwd -P)
    only_ours "$cache"
}

# only_ours FOLDER: ends the script where somebody else could put a wheel into
# FOLDER, whose code would then run as this user.
only_ours() {
    "$python" -I - "$1" <<'OWNERS' || exit 2
import os, stat, sys
from pathlib import Path

def problem(path, parent):
    found = path.lstat()
    if found.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to user {found.st_uid}"
    shared = stat.S_IWOTH if parent else stat.S_IWOTH | stat.S_IWGRP
    # In /tmp nobody can rename what belongs to another.
    sticky = parent and found.st_mode & stat.S_ISVTX
    if found.st_mode & shared and not sticky and not stat.S_ISLNK(found.st_mode):
        return f"others can write to {path} (mode {stat.S_IMODE(found.st_mode):04o})"

cache = Path(sys.argv[1])
places = [(path, True) for path in cache.parents]
places += [(path, False) for path in (cache, *cache.rglob("*"))]
for path, parent in places:
    if text := problem(path, parent):
        sys.exit(
            f"build_horovod: {text}: a wheel from the cache is executed, so only you and root may "
            f"write there. Name another folder with --cache, or delete this one; if you trust "
            f"what is in it and it is yours: chmod -R go-w {path}"
        )
OWNERS
}

# lock NAME: held until the script ends, however it ends. By Python, since
# flock(1) is not everywhere; the lock belongs to this shell's descriptor.
lock() {
    local descriptor
    exec {descriptor}>>"$cache/$1.lock"
    "$python" -P - "$descriptor" "$1" <<'LOCK'
import fcntl, sys
descriptor = int(sys.argv[1])
try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print(f"build_horovod: waiting for another run ({sys.argv[2]})", flush=True)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
LOCK
}

cmake_version() { "$1" --version 2>/dev/null | sed -n 's/^cmake version //p'; }

find_compiler() {
    local tool absent=''
    for tool in "${CC:-gcc}" "${CXX:-g++}" make readelf; do
        command -v "${tool%% *}" >/dev/null || absent+=" $tool"
    done
    [[ -z $absent ]] ||
        miss "the compiler's tools:$absent; install them (Debian, Ubuntu: apt-get install build-essential)"
    # Horovod wants 3.13; leave an older one aside and take the index's.
    cmake=$(command -v cmake || true)
    [[ $(cmake_version "$cmake") =~ ^([0-9]+)\.([0-9]+) ]] &&
        (( BASH_REMATCH[1] * 1000 + BASH_REMATCH[2] >= 3013 )) || cmake=''
}

# write_cmake PROGRAM: what the build runs as "cmake": PROGRAM, with settings
# that Horovod's setup.py has no way to pass.
write_cmake() {
    local -a settings=(
        -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON "-DCMAKE_INSTALL_RPATH=$run_path"
        # The bundled Gloo asks for CMake 2.8's rules, which CMake 4 has dropped.
        -DCMAKE_POLICY_VERSION_MINIMUM=3.5
    )
    # Otherwise a CUDA that happens to be there would be looked into.
    [[ $device == cpu ]] &&
        settings+=(-DCMAKE_CUDA_COMPILER=NOTFOUND -DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON)
    # shellcheck disable=SC2016  # the dollars are for the script that is written
    {
        echo '#!/usr/bin/env bash'
        printf '[[ $1 == --build ]] && exec %q "$@"\n' "$1"
        printf 'exec %q "$@"' "$1"
        printf ' %q' "${settings[@]}"
    } >"$build/cmake"
    chmod +x "$build/cmake"
}

build_environment() {
    local name
    for name in "${!HOROVOD_@}"; do
        [[ $name == HOROVOD_BUILD_CUDA_CC_LIST ]] || unset "$name"
    done
    unset CCL_ROOT CMAKE_GENERATOR CPATH C_INCLUDE_PATH MAKELEVEL PIP_USER PIP_TARGET PIP_PREFIX
    local jobs
    jobs=$(nproc)
    [[ ${MAKEFLAGS-} =~ (^|[[:space:]])-j([0-9]+) ]] && jobs=${BASH_REMATCH[2]}
    # --as-needed drops _pywrap_tensorflow_internal.so, which Horovod links but
    # does not use: it has no soname, so the wheel would name it by the absolute
    # path of this environment, and load in no other. --strip-debug: 54 MB less.
    export LDFLAGS="${LDFLAGS-} -Wl,--as-needed -Wl,--strip-debug" MAKEFLAGS="-j$jobs" \
        PYTHONPATH="$build/packages${PYTHONPATH:+:$PYTHONPATH}" \
        CPLUS_INCLUDE_PATH="$tensorflow/include/external/highwayhash:$tensorflow/include/external/farmhash_archive/src:$headers" \
        TMPDIR="$build/tmp" TF_CPP_MIN_LOG_LEVEL=2 CUDA_VISIBLE_DEVICES='' \
        HOROVOD_CMAKE="$build/cmake" HOROVOD_BUILD_ARCH_FLAGS="$arch_flags" \
        HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 \
        HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1
    if [[ $device == gpu ]]; then
        # The package has no libnccl.so, the name that the linker looks for.
        mkdir "$build/nccl"
        ln -s "$nccl_library" "$build/nccl/libnccl.so"
        export PATH="${nvcc%/*}:$PATH" CUDACXX="$nvcc" HOROVOD_GPU_OPERATIONS=NCCL \
            HOROVOD_NCCL_INCLUDE="$nccl_include" HOROVOD_NCCL_LIB="$build/nccl" HOROVOD_NCCL_LINK=shared
    else
        export HOROVOD_WITHOUT_NVTX=1
    fi
}

pip() { "$python" -P -m pip --disable-pip-version-check --no-input "$@"; }

# Each function below edits the source of Horovod, and fails if the source is not
# as expected.
patch_source() {
    patch_interface "$1/horovod/common/gloo/gloo_context.cc"
    patch_initialization "$1/horovod/common/operations.cc"
    patch_nccl "$1/horovod/common"
}

# Horovod reads HOROVOD_GLOO_IFACE, and then opens the connections that all its
# operations use at the address of the host's own name: 127.0.1.1 on Debian, the
# wrong network on a host with two, and an abort where the name does not resolve.
patch_interface() {
    sed -i '/::InitializeForProcessSet(/,/CreateDevice(/s/iface = gloo_iface_;/iface = global_context.gloo_iface_;/' "$1"
    expect 1 'iface = global_context.gloo_iface_;' "$1"
}

# If another process dies while this one connects to it in hvd.init(), Horovod
# aborts this process. In elastic training, hvd.init() must fail instead, and must
# work when it is called again.
patch_initialization() {
    local -r catch='catch (const std::exception\& error) { FailInitialization(state, error); return; }'
    sed -i \
        -e 's/^void BackgroundThreadLoop(HorovodGlobalState& state) {/static void FailInitialization(HorovodGlobalState\& state, const std::exception\& error) {\n  LOG(ERROR) << "Horovod could not be initialized: " << error.what();\n  state.process_set_table.Finalize(global_gloo_context, SHUT_DOWN_ERROR);\n  global_gloo_context.Finalize();\n  state.initialization_failed = true;\n}\n\n&/' \
        -e "s/^    global_gloo_context.Initialize(ParseGlooIface());/    try { global_gloo_context.Initialize(ParseGlooIface()); } $catch/" \
        -e "s/^    state.process_set_table.Initialize(global_gloo_context);/    try { state.process_set_table.Initialize(global_gloo_context); } $catch/" \
        -e 's/^    horovod_global.initialization_done = false;/&\n    horovod_global.initialization_failed = false;/' "$1"
    expect 3 'FailInitialization(' "$1"
    expect 2 'horovod_global.initialization_failed = false;' "$1"
}

# When a process is lost in elastic training, Horovod aborts the communicators of
# NCCL. The kernels that waited for the lost process then end, and Horovod would
# take the unfinished sums for complete ones. They must be errors instead. All of
# this is also switched on by HOROVOD_ELASTIC_NCCL=1, because HOROVOD_ELASTIC=1
# needs the driver of horovodrun.
patch_nccl() {
    sed -i 's/^\( *\)SetBoolFromEnv(HOROVOD_ELASTIC, \(.*\), true);/&\n\1SetBoolFromEnv("HOROVOD_ELASTIC_NCCL", \2, true);/' \
        "$1/operations.cc"
    expect 4 'HOROVOD_ELASTIC_NCCL' "$1/operations.cc"
    sed -i \
        -e 's/^void NCCLContext::ShutDown() {/static std::atomic<bool> nccl_aborted{false};\n\n&\n  nccl_aborted = elastic;/' \
        -e 's/^    ncclComm_t new_nccl_comm;/    nccl_aborted = false;\n&/' \
        -e 's/^void NCCLOpContext::AsyncErrorCheck() {/&\n  if (nccl_aborted) throw std::logic_error("NCCL was aborted");/' \
        -e '0,/^#include/s//#include <atomic>\n&/' "$1/ops/nccl_operations.cc"
    expect 4 'nccl_aborted' "$1/ops/nccl_operations.cc"
    # The callback is AsyncErrorCheck. It is called once more when the kernel has ended.
    sed -i '/WaitForEventsElastic(evt_queue, entries, timeline,/,/} catch/s/^ *error_check_callback);/&\n              if (error_check_callback) error_check_callback();/' \
        "$1/ops/gpu_operations.cc"
    expect 1 'if (error_check_callback) error_check_callback();' "$1/ops/gpu_operations.cc"
}

# expect COUNT TEXT FILE: fails unless COUNT lines of FILE have TEXT.
expect() {
    [[ $(grep -cF "$2" "$3") == "$1" ]] || {
        echo "ERROR: $3 is not as expected, and could not be patched"
        return 1
    }
}

compile() (
    set -e
    mkdir "$build/packages" "$build/tmp" "$build/wheel"
    build_environment
    # Into a folder of the build's own: the target Python keeps its setuptools.
    pip install --target "$build/packages" --require-hashes --requirement "$tools/horovod_build.txt"
    if [[ -n $cmake ]]; then
        write_cmake "$cmake"
    else
        pip install --target "$build/packages" --require-hashes --requirement "$tools/horovod_cmake.txt"
        write_cmake "$build/packages/cmake/data/bin/cmake"
    fi
    echo "horovod==$RELEASE --hash=sha256:$RELEASE_SHA256" >"$build/requirements.txt"
    pip download --no-deps --no-build-isolation --no-binary horovod --dest "$build/source" \
        --requirement "$build/requirements.txt"
    tar -xzf "$build/source/horovod-$RELEASE.tar.gz" -C "$build/source"
    patch_source "$build/source/horovod-$RELEASE"
    pip wheel --verbose --no-deps --no-build-isolation --use-pep517 \
        --wheel-dir "$build/wheel" "$build/source/horovod-$RELEASE"
    "$python" -P -m zipfile -e "$build"/wheel/*.whl "$build/tmp/unpacked"
    readelf -d "$build"/tmp/unpacked/horovod/tensorflow/mpi_lib*.so | tee "$build/needed"
    if grep -E 'NEEDED.*\[/' "$build/needed"; then
        echo "The library names another by its absolute path: the wheel would work here only."
        exit 1
    fi
)

end_build() {
    [[ -z ${compiler_pid-} ]] || kill -TERM -- "-$compiler_pid" 2>/dev/null || true
    [[ -z ${build-} ]] || rm -rf "$build"
}

# Leaves the wheel in $cache/$key: whole, or not at all.
build_wheel() {
    find_compiler
    stop_if_missing
    "$python" -P -c 'import tensorflow' >"$log" 2>&1 || fail_with_log "TensorFlow cannot be imported by $python"
    trap end_build EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    build=$(mktemp -d "${TMPDIR:-/tmp}/build_horovod.XXXXXX")
    say "building Horovod $RELEASE for TensorFlow $tensorflow_version ($device): minutes; log: $log"
    set -m
    compile >"$log" 2>&1 </dev/null &
    compiler_pid=$!
    set +m
    wait "$compiler_pid" || { compiler_pid=''; fail_with_log "the build failed"; }
    compiler_pid=''
    printf '%s\n' "$key_inputs" >"$build/wheel/inputs.txt"
    # Into the cache's own file system first: only there is a rename atomic.
    local part=$cache/.part.$key
    rm -rf "$part" "${cache:?}/$key"
    cp -r "$build/wheel" "$part"
    mv -T "$part" "$cache/$key"
    say "built in $SECONDS s"
}

run_time_requires() {
    echo cloudpickle psutil packaging pyyaml
    # horovodrun imports distutils, which left Python's library in 3.12.
    (( python_version < 312 )) || echo setuptools
}

# Is this very wheel installed, with all it needs?
is_installed() {
    # shellcheck disable=SC2046  # one word a package
    "$python" -P - "$1" $(run_time_requires) <<'INSTALLED'
import importlib.metadata as metadata, sys, zipfile
wheel, *requires = sys.argv[1:]
def libraries(record):
    return {line for line in record.splitlines() if ".so," in line}
try:
    for name in requires:
        metadata.version(name)
    installed = metadata.distribution("horovod")
    present = all(path.locate().is_file() for path in installed.files if ".so" in path.name)
    with zipfile.ZipFile(wheel) as archive:
        record = next(name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
        same = libraries(archive.read(record).decode()) == libraries(installed.read_text("RECORD"))
except metadata.PackageNotFoundError:
    sys.exit(1)
sys.exit(not (same and present))
INSTALLED
}

install_wheel() {
    log=$cache/$key.install.log
    # shellcheck disable=SC2046  # one word a package
    { umask "$users_umask" && pip install $(run_time_requires) && pip install --no-deps --force-reinstall "$1"; } >"$log" 2>&1 ||
        fail_with_log "pip could not install $1"
    local built=gloo_built
    [[ $device == cpu ]] || built=nccl_built
    TF_CPP_MIN_LOG_LEVEL=2 "$python" -P -c "import horovod.tensorflow as hvd, horovod.runner.launch; assert hvd.$built()" \
        >>"$log" 2>&1 || fail_with_log "Horovod is installed, but cannot be imported"
    rm -f "$log"
    say "installed into $site_packages"
}

report() {
    local wheel=''
    wheel=$(cached_wheel) || find_compiler
    say "python $python_abi, TensorFlow $tensorflow_version, $device"
    [[ $device == cpu ]] || say "CUDA $cuda_version ($nvcc), NCCL $nccl_version"
    if [[ -z $wheel ]]; then
        say "wheel: to be built, with cmake from ${cmake:-the package index}"
    else
        say "wheel: $wheel"
        if is_installed "$wheel"; then say "installed: yes"; else say "installed: no"; fi
    fi
    stop_if_missing
}

main() {
    parse_arguments "$@"
    find_python
    find_tensorflow
    if [[ $device == gpu ]]; then find_cuda; find_nccl; fi
    [[ $check == yes ]] || stop_if_missing
    find_arch_flags
    library_search_path
    find_cache
    find_wheel
    if [[ $check == yes ]]; then report; exit; fi

    local wheel
    if ! wheel=$(cached_wheel); then
        lock "$key"
        wheel=$(cached_wheel) || { build_wheel; wheel=$(cached_wheel); }
    fi
    if [[ $install == no ]]; then say "wheel: $wheel"; exit; fi
    if ! is_installed "$wheel"; then
        lock "install-$(sha256sum <<<"$site_packages" | cut -c 1-12)"
        is_installed "$wheel" || install_wheel "$wheel"
    fi
    say "Horovod $RELEASE ($device) is in $python; wheel: $wheel"
}

main "$@"
