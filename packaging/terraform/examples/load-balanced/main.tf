# One host for the Discord session, and the chat page on several behind a load balancer, in the account's default network.

data "aws_vpc" "this" {
  default = true
}

# Not every zone has every type of host.
data "aws_ec2_instance_type_offerings" "this" {
  location_type = "availability-zone"

  filter {
    name   = "instance-type"
    values = [var.web.instance_type]
  }
}

data "aws_subnets" "this" {
  filter {
    name   = "vpc-id"
    values = [data.aws_vpc.this.id]
  }

  filter {
    name   = "default-for-az"
    values = ["true"]
  }

  filter {
    name   = "availability-zone"
    values = data.aws_ec2_instance_type_offerings.this.locations
  }
}

module "perch" {
  source = "../.."

  name               = var.name
  environment        = var.environment
  region             = var.region
  vpc_id             = data.aws_vpc.this.id
  subnet_ids         = slice(sort(data.aws_subnets.this.ids), 0, 2) # each zone is an address more to pay for
  package            = var.package
  architecture       = var.architecture
  instance_type      = var.instance_type
  ami_id             = var.ami_id
  session_manager    = true
  ship_journal       = var.ship_journal
  log_retention_days = var.log_retention_days
  http_cidrs         = var.http_cidrs
  web                = var.web
  domain             = var.domain
  alarm_email        = var.alarm_email
}
