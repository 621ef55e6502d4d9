#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Images of every cluster size with tables of 4 clusters, built without
# QEMU, each with a disk of its geometry's largest size.

source ./functions.sh nbd

"$PYTHON" "$testsdir/geometry.py" built 4
