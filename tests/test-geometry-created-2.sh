#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img create makes images of every cluster size with tables of 2 clusters.
# They equal those of qemu-img create, and work where QEMU refuses the
# geometry.

source ./functions.sh nbd qemu

"$PYTHON" "$testsdir/geometry.py" created 2
