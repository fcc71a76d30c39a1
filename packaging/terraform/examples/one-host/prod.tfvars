# To rely on it: the journal in CloudWatch for 90 days, a mail when a person has to act, the bucket kept.
environment   = "production"
region        = "us-east-1"
instance_type = "t3.micro"
ship_journal  = true
alarm_email   = "operator@example.com"

# The package, downloaded beside this file. It goes into the bucket; its digest is checked on the host.
package = {
  file = "perch.x86_64.rpm"
}
