# To rely on it: HTTP hosts in two zones, HTTPS, the journal in CloudWatch for 90 days, a mail when a person has to act.
# In a state of its own, or it takes the place of what dev.tfvars made: terraform workspace select -or-create production
environment   = "production"
region        = "us-east-1"
instance_type = "t3.micro"
ship_journal  = true
alarm_email   = "operator@example.com"

# Without an image's id, the first `apply` after AWS has a newer image replaces the hosts, and what is in /var/lib/perch is gone:
# conversations, the record of what was answered, certificates. The newest one's id, to be written here:
#   aws ssm get-parameter --region us-east-1 --query Parameter.Value --output text \
#       --name /aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64
# and that of a host that runs: aws ec2 describe-instances --query 'Reservations[].Instances[].[InstanceId,ImageId]'
# ami_id = "ami-0123456789abcdef0"

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
