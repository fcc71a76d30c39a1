#!/bin/sh
# On the instance that becomes an image, last: takes away what belongs to this one instance, so that no two have the same
# and nobody gets in with what was there before.
set -eu

# Who may get in, and what the host proves itself with: cloud-init makes both anew.
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
rm -f /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys
if [ -d /etc/ssh/sshd_config.d ]; then
    printf 'PasswordAuthentication no\nPermitRootLogin no\n' >/etc/ssh/sshd_config.d/10-image.conf
    chmod 600 /etc/ssh/sshd_config.d/10-image.conf
fi
passwd --quiet --lock root 2>/dev/null || passwd --lock root >/dev/null

# What was typed, logged and downloaded.
rm -f /root/.bash_history /home/*/.bash_history /root/.lesshst /home/*/.lesshst /root/.wget-hsts
rm -rf /var/lib/amazon/ssm/* /root/.aws /home/*/.aws
find /var/log -type f -exec truncate --size=0 {} +
find /var/log -type f \( -name '*.gz' -o -name '*.[0-9]' -o -name '*.old' \) -delete
rm -rf /var/log/journal/*
if command -v apt-get >/dev/null; then
    apt-get -qq clean
    rm -rf /var/lib/apt/lists/*
else
    dnf --quiet clean all
fi
rm -rf /tmp/* /var/tmp/*

# What makes it this machine: made anew at the next boot. An empty file, as `uninitialized` would have systemd apply its
# presets there, which enable on Debian what was disabled on purpose.
rm -rf /var/lib/perch /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /var/lib/dhcp/* /var/lib/NetworkManager/*.lease
if command -v cloud-init >/dev/null; then
    cloud-init clean --logs --seed
fi
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id
sync
