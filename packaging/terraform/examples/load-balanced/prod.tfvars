# To rely on it: HTTP hosts in two zones, HTTPS, the journal in CloudWatch for 90 days, a mail when a person has to act.
environment   = "production"
region        = "us-east-1"
instance_type = "t3.micro"
ship_journal  = true
alarm_email   = "operator@example.com"

web = {
  minimum       = 2
  maximum       = 6
  instance_type = "t3.small"
}

domain = {
  name    = "chat.example.com"
  zone_id = "Z0123456789ABCDEFGHIJ"
}

# The package, downloaded beside this file. It goes into the bucket; its digest is checked on the host.
package = {
  file = "perch.x86_64.rpm"
}
