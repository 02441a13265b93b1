#!/usr/bin/env bash
# A real S3 server on this machine: Ceph's radosgw over one monitor and one OSD in memory (Debian packages).
#   radosgw.sh start DIR [PORT]   keys: testkey, testsecretkey; the monitor takes ports 13300 and 16789
#   radosgw.sh stop DIR
set -euo pipefail
dir=$2; port=${3:-7480}; conf=$dir/ceph.conf
if [ "$1" = stop ]; then for f in "$dir"/run/*.pid; do [ -f "$f" ] && kill "$(cat "$f")" 2>/dev/null || true; done; exit 0; fi
command -v radosgw ceph-mon ceph-osd >/dev/null || {
    echo "Debian: apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-common" >&2; exit 3; }
mkdir -p "$dir"/{mon,osd,run,log}
fsid=$(cat /proc/sys/kernel/random/uuid); at='[v2:127.0.0.1:13300,v1:127.0.0.1:16789]'
cat >"$conf" <<C
[global]
fsid = $fsid
mon initial members = a
mon host = $at
public network = 127.0.0.0/8
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd crush chooseleaf type = 0
osd pool default pg num = 4
osd pool default pgp num = 4
mon max pg per osd = 1000
mon data avail crit = 1
run dir = $dir/run
admin socket = $dir/run/\$name.asok
log file = $dir/log/\$name.log
pid file = $dir/run/\$name.pid
mon data = $dir/mon
osd data = $dir/osd
keyring = $dir/\$name.keyring
osd objectstore = memstore
memstore device bytes = 4294967296
osd class load list = *
osd class default list = *
[client.rgw]
rgw frontends = beast port=$port
C
c() { timeout 60 ceph -c "$conf" "$@"; }
{
    ceph-authtool --create-keyring "$dir/mon.keyring" --gen-key -n mon. --cap mon 'allow *'
    ceph-authtool --create-keyring "$dir/client.admin.keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
    ceph-authtool "$dir/mon.keyring" --import-keyring "$dir/client.admin.keyring"
    monmaptool --create --addv a "$at" --fsid "$fsid" "$dir/monmap"
    ceph-mon -c "$conf" --mkfs -i a --monmap "$dir/monmap" --keyring "$dir/mon.keyring"
    ceph-mon -c "$conf" -i a --setuser root --setgroup root
    osd=$(cat /proc/sys/kernel/random/uuid)
    c osd new "$osd"
    c auth get-or-create osd.0 mon 'allow profile osd' osd 'allow *' mgr 'allow profile osd' -o "$dir/osd.0.keyring"
    c auth get-or-create client.rgw mon 'allow rwx' osd 'allow rwx' -o "$dir/client.rgw.keyring"
    ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$osd" --keyring "$dir/osd.0.keyring"
    ceph-osd -c "$conf" -i 0 --setuser root --setgroup root
    radosgw -c "$conf" -n client.rgw --setuser root --setgroup root
    for _ in $(seq 60); do curl -s -o /dev/null "127.0.0.1:$port" && break; sleep 1; done
    timeout 60 radosgw-admin -c "$conf" user create --uid=cfr --display-name=cfr --access-key=testkey --secret-key=testsecretkey
} >"$dir/log/start.log" 2>&1
curl -s -o /dev/null "127.0.0.1:$port" || { echo "radosgw does not answer: $dir/log" >&2; exit 1; }
