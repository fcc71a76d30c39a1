//! What a connection goes through: changes of the certificate, a drain, sockets of systemd.
