#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The files of the library only call those of lower layers: in the list of
# lib/README, from which this test takes the order, no file uses a symbol of a
# later one, and each file is in the list once.

source ./functions.sh nm

order=$(sed -n '/^# layers begin/,/^# layers end/p' "$abs_top_srcdir/lib/README" |
          sed '/^#/d; s/^    //; s/   *.*//')
[ -n "$order" ]

# Each file of the library is in the list, and the list has no other.
diff <(tr -s ' ' '\n' <<<"$order" | sort) \
     <(cd "$abs_top_srcdir/lib" && ls ./*.c | sed 's,^./,,; s/\.c$//' | sort)

# Lines of FILE SYMBOL: what each defines, and what it uses.
symbols ()
{
  local f

  for f in $order; do
    # Without libnbd one of them isn't compiled.
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
