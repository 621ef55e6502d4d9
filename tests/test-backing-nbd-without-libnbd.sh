#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A plugin that was built without libnbd says so, and refuses parameters that
# need it.

source ./functions.sh

nbdkit qed --dump-plugin | grep -x qed_libnbd=no
qed-img create $d/x.qed 1M
for uri in nbd://localhost:1 "nbd+unix:///?socket=$d/sock"; do
    refused "$d/x.qed: .*built without" qed $d/x.qed backing="$uri"
done
truncate -s 1M $d/base
refused "$d/x.qed: .*$d/base: .*built without" \
        qed $d/x.qed backing=$d/base backing-format=qcow2

# All else works.
start_nbdkit qed $d/x.qed backing=$d/base
nbdsh -u "$uri" -c 'assert h.pread(512, 0) == bytes(512)'
