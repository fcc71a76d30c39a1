//! Which certificates perch trusts: the public roots compiled in, and `SSL_CERT_FILE` where it is set.
