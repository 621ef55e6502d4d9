#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Served with TLS, as in man page and README, the disk is readable to a client
# with a key and to no other.

source ./functions.sh psktool nbdinfo nbdcopy nbd
requires "$PYTHON" -c 'import nbd; assert nbd.NBD ().supports_tls ()'

cd $d
ln -s "$abs_top_builddir/nbdkit" nbdkit
qed-img create -q disk.qed 1M
echo 'it is secret' >secret.raw
truncate -s 1M secret.raw
nbdkit -U - qed disk.qed --run 'nbdcopy secret.raw "$uri"'

# serve TEXT-BLOCK: the last line is the server.
serve ()
{
    local server
    rm -f keys.psk
    eval "$(sed '$d' <<<"$1")"
    test "$(stat -c %a keys.psk)" = 600
    server=$(tail -n 1 <<<"$1")
    # The test has a socket in place of the network.
    grep -e '-i 192.168.1.10 ' <<<"$server"
    server=${server/#.\//}
    read -r -a words <<<"${server/-i 192.168.1.10 /}"
    start_nbdkit "${words[@]:1}"
}

man=plugin/nbdkit-qed-plugin.pod
for block in "$(doc_block $man 'only this user can read:')" \
             "$(doc_block README 'a LAN, name the address')"; do
    serve "$block"
    client=$(doc_block $man 'On the client:')
    uri=$(sed "s|^nbdinfo 'nbds://alice@192.168.1.10/?\(.*\)/home/alice\(/.*\)'\$|nbds+unix://alice@/?socket=$sock\&\1$d\2|" \
              <<<"$client")
    nbdcopy "$uri" got.raw
    cmp secret.raw got.raw
    nbdinfo "$uri" | grep 'with TLS'
    nbdinfo --is read-only "$uri"

    # Without a key, with another one, under another name
    fails 1 'Operation not supported' nbdinfo "nbd+unix:///?socket=$sock"
    psktool -u alice -p other.psk
    fails 1 'handshake|PSK|TLS' nbdinfo "${uri/keys.psk/other.psk}"
    psktool -u mallory -p other.psk
    fails 1 'handshake|PSK|TLS' nbdinfo \
          "$(sed 's/keys.psk/other.psk/; s/alice@/mallory@/' <<<"$uri")"
    rm other.psk
    stop_nbdkit
done
