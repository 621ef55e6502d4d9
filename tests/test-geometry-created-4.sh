#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img create makes images of every cluster size with tables of 4 clusters.
# Header and length are those that qemu-img create makes.  The images work where
# QEMU refuses the geometry, too.

source ./functions.sh nbd qemu

"$PYTHON" "$testsdir/geometry.py" created 4
