# To try it: the smallest host, logs on the host alone, everything gone with `terraform destroy`.
environment   = "development"
region        = "us-east-1"
name          = "perch-dev"
instance_type = "t3.micro"

# The package, downloaded beside this file. It goes into the bucket; its digest is checked on the host.
package = {
  file = "perch.x86_64.rpm"
}
