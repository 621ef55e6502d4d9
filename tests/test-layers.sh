#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A library file calls only files of lower layers.  lib/README lists the
# layers: no file uses a symbol of a file later in the list.  Each file is in
# the list once.

source ./functions.sh nm

order=$(sed -n '/^# layers begin/,/^# layers end/p' "$abs_top_srcdir/lib/README" |
          sed '/^#/d; s/^    //; s/   *.*//')
[ -n "$order" ]

# The list and the library have the same files.
diff <(tr -s ' ' '\n' <<<"$order" | sort) \
     <(cd "$abs_top_srcdir/lib" && ls ./*.c | sed 's,^./,,; s/\.c$//' | sort)

# symbols OPTION: print FILE SYMBOL for each symbol that a file defines or
# uses.
symbols ()
{
  local f

  for f in $order; do
    # Without libnbd, one of the files is not compiled.
    [ -e "../lib/.libs/libqed_la-$f.o" ] || continue
    nm "$@" "../lib/.libs/libqed_la-$f.o" | sed -n "s/.* \(qed_[a-z0-9_]*\)$/$f \1/p"
  done
}

upward=$(awk -v order="$(tr '\n' ' ' <<<"$order")" '
  BEGIN { n = split (order, files, " "); for (i = 1; i <= n; ++i) at[files[i]] = i }
  NR == FNR { owner[$2] = $1; next }
  at[owner[$2]] > at[$1] { print $1 ".c uses " $2 " of " owner[$2] ".c" }
' <(symbols --defined-only --extern-only) <(symbols --undefined-only))
[ -z "$upward" ] || fail "a lower layer uses a higher one:
$upward"
