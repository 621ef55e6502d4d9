#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Images that QEMU writes, of every cluster size that it can with tables of
# 8 clusters, against the model and "qemu-img convert".

source ./functions.sh nbd qemu

"$PYTHON" "$testsdir/geometry.py" qemu 8
