#!/usr/bin/env bash
# Installs the Debian packages that some tests need: ip and sshd, with which
# tests/parallel/test_hosts.py makes two hosts, and Chromium, in which tests/jobs/test_browser.py
# opens pages. CI calls it. Without it those tests are skipped, and say why. No server is started.
set -euo pipefail

packages=()
PATH=$PATH:/usr/sbin:/sbin
command -v ip >/dev/null || packages+=(iproute2)
command -v ssh >/dev/null || packages+=(openssh-client)
command -v sshd >/dev/null || packages+=(openssh-server)
command -v chromium >/dev/null || packages+=(chromium)
[ ${#packages[@]} -eq 0 ] && exit 0

say() { echo "install_test_packages: $*" >&2; }

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    say "needs root and apt-get to install ${packages[*]}: tests that use them will be skipped"
    exit 0
fi
log=$(mktemp)
# RUNLEVEL=1 keeps the package from starting a server of its own.
if ! { apt-get update && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get install --yes --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    say "could not install ${packages[*]} (log: $log): tests that use them will be skipped"
fi
